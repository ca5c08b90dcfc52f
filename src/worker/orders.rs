//! What the main thread and others may ask of a worker, and know of it, while it works.

use crate::files::Signature;
use crate::project::Policy;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What the main thread wants of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Order {
    /// Run the jobs.
    Serve = 0,
    /// Let the running job end, start no other, and leave.
    Drain = 1,
    /// End the running agent, keep its claim, and leave.
    Stop = 2,
}

/// The orders of one worker, as others may change them.
#[derive(Debug)]
pub struct Orders {
    order: AtomicU8,
    policy: Mutex<Arc<Policy>>,
    remote: AtomicBool,
    seen: Mutex<Option<Signature>>,
}

impl Orders {
    /// Orders to serve.
    pub fn new(policy: Policy) -> Orders {
        Orders {
            order: AtomicU8::new(Order::Serve as u8),
            policy: Mutex::new(Arc::new(policy)),
            remote: AtomicBool::new(true),
            seen: Mutex::default(),
        }
    }

    /// The documents' directory as it was when the worker had taken in all that it heard of it;
    /// `None` while it has not, or hears nothing.
    pub fn seen(&self) -> Option<Signature> {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether only the worker may touch the project's files, since that may take for ever. So it
    /// is until the worker has seen them.
    pub fn is_remote(&self) -> bool {
        self.remote.load(Ordering::SeqCst)
    }

    /// Changes what is wanted; the bell must be rung afterwards. A stop is never taken back.
    pub fn give(&self, order: Order) {
        let stop = Order::Stop as u8;
        let change = |old| (old != stop).then_some(order as u8);
        // It fails only where the order to stop stands.
        let _ = self
            .order
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, change);
    }

    /// Changes what holds from the next start on.
    pub fn set_policy(&self, policy: Policy) {
        *self.policy.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
    }

    /// What is wanted now.
    pub fn order(&self) -> Order {
        match self.order.load(Ordering::SeqCst) {
            0 => Order::Serve,
            1 => Order::Drain,
            _ => Order::Stop,
        }
    }

    pub(super) fn set_remote(&self, remote: bool) {
        self.remote.store(remote, Ordering::SeqCst);
    }

    pub(super) fn set_seen(&self, items: Option<Signature>) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = items;
    }

    pub(super) fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
