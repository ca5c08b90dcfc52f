//! What the main thread wants of a worker, and what it must know of it.

use crate::files::Signature;
use crate::project::Policy;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the main thread wants of a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Run the jobs.
    #[default]
    Serve,
    /// Let the running job end, start no other, and leave.
    Drain,
    /// End the running agent, keep its claim, and leave.
    Stop,
}

/// The orders of one worker. Whoever changes what is wanted rings its bell afterwards.
#[derive(Debug, Default)]
pub struct Orders(Mutex<Desk>);

/// What lies between the main thread and a worker.
#[derive(Debug, Default)]
pub struct Desk {
    order: Order,
    policy: Arc<Policy>,
    /// Whether the worker has looked at its project, or found that it cannot.
    pub is_up: bool,
    /// Whether the worker's thread is about to end.
    pub has_left: bool,
    /// The documents' directory as it was when the worker had taken in all that it heard of it;
    /// `None` while it has not, hears nothing, or nobody else may look since that may take for ever.
    pub seen: Option<Signature>,
}

impl Orders {
    /// The desk, for as long as its owner looks at it.
    pub fn desk(&self) -> MutexGuard<'_, Desk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is wanted and, where it is given, what holds from the next start on; whether that is
    /// new. A stop is never taken back.
    pub fn give(&self, order: Order, policy: Option<&Arc<Policy>>) -> bool {
        let mut desk = self.desk();
        let before = (desk.order, desk.policy.clone());
        if desk.order != Order::Stop {
            desk.order = order;
        }
        desk.policy = policy.unwrap_or(&before.1).clone();
        before != (desk.order, desk.policy.clone())
    }

    /// What is wanted now.
    pub fn order(&self) -> Order {
        self.desk().order
    }

    /// What holds from the next start on.
    pub fn policy(&self) -> Arc<Policy> {
        self.desk().policy.clone()
    }
}
