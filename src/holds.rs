//! Holds: while one is in force, an agent is not started for any project, because it could not
//! do its work (SPEC 7). And the ledger of what a day has cost, which leads to holds of its own.
//! Decisions over plain data; `board` keeps them on disk.

use crate::job::ErrorKind;
use crate::record::HoldView;
use crate::time::Wall;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Between two probes of a service that did not accept us: each is a start that may cost.
const PROBE_PAUSE: Duration = Duration::from_secs(30 * 60);

/// Between two looks for a program or a safe credentials file: no start is needed to see it.
const LOOK_PAUSE: Duration = Duration::from_secs(60);

/// So far a clock is put right while nobody would say that it was set.
const CLOCK_SLACK: Duration = Duration::from_secs(60);

/// The pause after a usage limit whose end was over when we heard of it.
const PAST_RESET_PAUSE: Duration = Duration::from_secs(60);

/// The first pause after a usage limit without a sensible end; it doubles up to the longest.
const BLIND_PAUSE: Duration = Duration::from_secs(5 * 60);
const BLIND_PAUSE_MAX: Duration = Duration::from_secs(3600);

/// A usage limit that claims to last longer is not believed; the longest known is a month.
const RESET_MAX: Duration = Duration::from_secs(35 * 24 * 3600);

/// Why an agent is not started. Usage limits, credentials, money and programs are of one agent;
/// a credentials file that is not safe is of all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hold {
    /// The agent; null for every one.
    pub agent: Option<String>,
    /// The kind, always one whose course is to hold.
    pub kind: ErrorKind,
    /// What the agent said.
    pub reason: String,
    /// When it began.
    pub since: Wall,
    /// When it ends by itself.
    pub until: Option<Wall>,
    /// When one job may try whether things are mended.
    pub probe_at: Option<Wall>,
}

/// All holds in force, and how often in a row an agent met a limit without an end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Holds {
    /// In force, at most one for each agent and one for all.
    pub list: Vec<Hold>,
    /// Blind pauses in a row, by agent.
    pub blind: BTreeMap<String, u32>,
}

/// Whether an agent may be started.
#[derive(Clone, Debug, PartialEq)]
pub enum Gate {
    /// Yes.
    Open,
    /// Yes, once, to see whether things are mended; whoever is told so must tell the outcome.
    Probe,
    /// No, and when to ask again; `None` is when something changes.
    Closed(Option<Wall>),
}

impl Holds {
    /// Takes an agent out of service after a fault that calls for it. Returns the hold, and
    /// whether it is news.
    pub fn add(
        &mut self,
        agent: &str,
        kind: ErrorKind,
        reason: &str,
        resets_at: Option<Wall>,
        now: Wall,
    ) -> (Hold, bool) {
        let until = (kind == ErrorKind::UsageLimit).then(|| self.limit_ends(agent, resets_at, now));
        let probe_pause = match kind {
            ErrorKind::UsageLimit => None,
            ErrorKind::AgentMissing | ErrorKind::UnsafeEnv => Some(LOOK_PAUSE),
            _ => Some(PROBE_PAUSE),
        };
        let agent = (kind != ErrorKind::UnsafeEnv).then(|| agent.to_owned());
        let old = self
            .list
            .iter()
            .position(|hold| hold.agent == agent)
            .map(|at| self.list.remove(at));
        let known = old
            .as_ref()
            .is_some_and(|old| old.kind == kind && old.until == until);
        let hold = Hold {
            agent,
            kind,
            reason: reason.to_owned(),
            since: old.filter(|_| known).map_or(now, |old| old.since),
            until,
            probe_at: probe_pause.map(|pause| now.plus(pause)),
        };
        self.list.push(hold.clone());
        (hold, !known)
    }

    fn limit_ends(&mut self, agent: &str, resets_at: Option<Wall>, now: Wall) -> Wall {
        match resets_at {
            Some(at) if at > now && at.since(now) <= RESET_MAX => {
                self.blind.remove(agent);
                at
            }
            Some(at) if at <= now => now.plus(PAST_RESET_PAUSE),
            _ => {
                let times = self.blind.entry(agent.to_owned()).or_default();
                let pause = BLIND_PAUSE * 2_u32.pow((*times).min(8));
                *times += 1;
                now.plus(pause.min(BLIND_PAUSE_MAX))
            }
        }
    }

    /// The hold that keeps an agent from being started, if there is one.
    pub fn of(&self, agent: &str) -> Option<&Hold> {
        self.list
            .iter()
            .find(|hold| hold.agent.as_deref().is_none_or(|held| held == agent))
    }

    /// Whether an agent may be started now. A probe is granted once; the next is due after a pause.
    /// Where a hold on this agent meets one on all, the one that opens last decides.
    pub fn gate(&mut self, agent: &str, now: Wall) -> Gate {
        let in_force = |hold: &&mut Hold| {
            hold.agent.as_deref().is_none_or(|held| held == agent)
                && hold.until.is_none_or(|until| until > now)
        };
        let mut holds: Vec<&mut Hold> = self.list.iter_mut().filter(in_force).collect();
        let opens = holds.iter().map(|hold| hold.until.or(hold.probe_at));
        let closed = opens.filter(|at| at.is_none_or(|at| at > now));
        if let Some(last) = closed.max_by_key(|at| at.map_or(i64::MAX, |at| at.0)) {
            return Gate::Closed(last);
        }
        for hold in &mut holds {
            let pause = if hold.is_of_files() {
                LOOK_PAUSE
            } else {
                PROBE_PAUSE
            };
            hold.probe_at = Some(now.plus(pause));
        }
        if holds.is_empty() {
            Gate::Open
        } else {
            Gate::Probe
        }
    }

    /// Ends the holds whose time is over. Returns them. One that began in the future was put before
    /// the clock was set back: its times are far away, so one start may show what is the matter now.
    pub fn expire(&mut self, now: Wall) -> Vec<Hold> {
        self.take(|hold| {
            hold.until.is_some_and(|until| until <= now) || hold.since > now.plus(CLOCK_SLACK)
        })
    }

    /// An agent did its work, in a start that began at `began`: what held it before is over. A hold
    /// that came since stands: others have reached the limit while this one finished. Returns
    /// whether anything changed.
    pub fn works(&mut self, agent: &str, began: Wall) -> bool {
        let over = self.take(|hold| {
            hold.since <= began && hold.agent.as_deref().is_none_or(|held| held == agent)
        });
        let counted = self.of(agent).is_none() && self.blind.remove(agent).is_some();
        !over.is_empty() || counted
    }

    /// Lifts what `mended` says is mended, or all. Returns what was lifted.
    pub fn take(&mut self, lifted: impl Fn(&Hold) -> bool) -> Vec<Hold> {
        let (out, kept) = std::mem::take(&mut self.list)
            .into_iter()
            .partition(|hold| lifted(hold));
        self.list = kept;
        out
    }
}

impl Hold {
    /// Whether the matter is a program or a file of this machine, whose repair can be seen before
    /// anything is started.
    pub fn is_of_files(&self) -> bool {
        matches!(self.kind, ErrorKind::AgentMissing | ErrorKind::UnsafeEnv)
    }

    /// As people and scripts see it.
    pub fn view(&self) -> HoldView {
        HoldView {
            kind: self.kind.as_str().to_owned(),
            reason: self.sentence(),
            until: self.until,
        }
    }

    /// Whom it holds, with the kind: `agent "claude" (usage_limit)`.
    pub fn whom(&self) -> String {
        format!("{} ({})", self.who(), self.kind)
    }

    fn who(&self) -> String {
        self.agent
            .as_deref()
            .map_or("every agent".to_owned(), |agent| format!("agent {agent:?}"))
    }

    /// What is the matter, and what to do if only a person can.
    pub fn sentence(&self) -> String {
        let who = self.who();
        let remedy = match self.kind {
            ErrorKind::NotAuthenticated => {
                "; log in again or mend .env (job-monitor doctor says how)"
            }
            ErrorKind::Billing => "; settle it with the provider, then job-monitor release --all",
            _ => "",
        };
        format!("{who} is held ({}): {}{remedy}", self.kind, self.reason)
    }
}

/// What the days have cost, in US dollars; only today counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ledger {
    /// The local calendar day of the amounts.
    pub day: String,
    /// By project.
    pub projects: BTreeMap<String, f64>,
}

impl Ledger {
    /// Adds what an attempt cost.
    pub fn add(&mut self, project: &str, cost_usd: f64, now: Wall) {
        let today = now.day();
        if self.day != today {
            *self = Ledger {
                day: today,
                projects: BTreeMap::new(),
            };
        }
        if cost_usd.is_finite() && cost_usd > 0.0 {
            *self.projects.entry(project.to_owned()).or_default() += cost_usd;
        }
    }

    /// Why the day's money is used up for a project, if it is, and until when.
    pub fn exhausted(
        &self,
        project: &str,
        own: Option<f64>,
        overall: Option<f64>,
        now: Wall,
    ) -> Option<HoldView> {
        if self.day != now.day() {
            return None;
        }
        let spent = self.projects.get(project).copied().unwrap_or(0.0);
        let total: f64 = self.projects.values().sum();
        let reached = |limit: Option<f64>, spent: f64| {
            limit
                .filter(|limit| spent >= *limit)
                .map(|limit| (spent, limit))
        };
        let (what, (spent, limit)) = match (reached(own, spent), reached(overall, total)) {
            (Some(amounts), _) => ("this project's daily budget", amounts),
            (None, Some(amounts)) => ("the daily budget", amounts),
            (None, None) => return None,
        };
        let until = now.midnight();
        Some(HoldView {
            kind: "daily_budget".to_owned(),
            reason: format!(
                "{what} of ${limit:.2} is used up (${spent:.2}); wait for midnight, or raise daily_budget_usd"
            ),
            until: Some(until),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Wall = Wall(1_795_173_825_000);

    fn secs(secs: u64) -> Wall {
        NOW.plus(Duration::from_secs(secs))
    }

    #[test]
    fn a_usage_limit_holds_its_agent_until_the_reset() {
        let mut holds = Holds::default();
        let (hold, news) = holds.add(
            "claude",
            ErrorKind::UsageLimit,
            "limit",
            Some(secs(90)),
            NOW,
        );
        assert!(news && hold.until == Some(secs(90)));
        assert!(
            !holds
                .add(
                    "claude",
                    ErrorKind::UsageLimit,
                    "limit",
                    Some(secs(90)),
                    secs(1)
                )
                .1
        );
        assert_eq!(holds.gate("claude", secs(89)), Gate::Closed(Some(secs(90))));
        assert_eq!(holds.gate("other", NOW), Gate::Open);
        assert_eq!(holds.gate("claude", secs(90)), Gate::Open);
        assert_eq!(holds.expire(secs(90)).len(), 1);
        assert_eq!(holds, Holds::default());
    }

    #[test]
    fn a_limit_without_a_sensible_end_is_waited_out_longer_and_longer() {
        let mut holds = Holds::default();
        let far = NOW.plus(RESET_MAX + Duration::from_secs(1));
        let mut pause = |at| {
            holds
                .add("a", ErrorKind::UsageLimit, "", at, NOW)
                .0
                .until
                .unwrap()
                .since(NOW)
                .as_secs()
        };
        let pauses = [None, Some(far), None, None, None, None].map(&mut pause);
        assert_eq!(pauses, [300, 600, 1200, 2400, 3600, 3600]);
        assert_eq!(pause(Some(NOW)), 60);
        assert_eq!(pause(Some(secs(5))), 5);
        assert_eq!(pause(None), 300);
        assert!(!holds.works("a", Wall(NOW.0 - 1)) && holds.works("a", NOW));
    }

    #[test]
    fn credentials_are_probed_by_one_job_every_half_hour() {
        let mut holds = Holds::default();
        holds.add("a", ErrorKind::NotAuthenticated, "no", None, NOW);
        assert_eq!(holds.gate("a", NOW), Gate::Closed(Some(secs(1800))));
        assert_eq!(holds.gate("a", secs(1800)), Gate::Probe);
        assert_eq!(holds.gate("a", secs(1801)), Gate::Closed(Some(secs(3600))));
        assert!(holds.works("a", secs(1800)));
        assert_eq!(holds.gate("a", secs(1801)), Gate::Open);
    }

    #[test]
    fn an_unsafe_credentials_file_holds_every_agent_until_it_is_mended() {
        let mut holds = Holds::default();
        holds.add("a", ErrorKind::UnsafeEnv, "mode", None, NOW);
        assert_eq!(holds.gate("b", secs(59)), Gate::Closed(Some(secs(60))));
        assert_eq!(holds.gate("b", secs(60)), Gate::Probe);
        assert_eq!(
            holds.take(|hold| hold.kind == ErrorKind::UnsafeEnv).len(),
            1
        );
        assert_eq!(holds.gate("b", NOW), Gate::Open);
    }

    #[test]
    fn of_two_holds_the_one_that_opens_last_decides() {
        let mut holds = Holds::default();
        holds.add("a", ErrorKind::UnsafeEnv, "mode", None, NOW);
        let reset = Some(secs(3600));
        holds.add("a", ErrorKind::UsageLimit, "limit", reset, NOW);
        assert_eq!(holds.gate("a", secs(60)), Gate::Closed(reset));
        assert_eq!(holds.gate("b", secs(60)), Gate::Probe);
        assert_eq!(holds.gate("a", secs(3600)), Gate::Probe);
    }

    #[test]
    fn a_day_s_money_is_counted_by_project_and_over_all() {
        let mut ledger = Ledger::default();
        ledger.add("p", 1.5, NOW);
        ledger.add("q", 1.0, NOW);
        ledger.add("q", f64::NAN, NOW);
        assert_eq!(ledger.exhausted("p", Some(2.0), Some(3.0), NOW), None);
        assert!(
            ledger
                .exhausted("p", Some(1.5), None, NOW)
                .unwrap()
                .reason
                .contains("this project")
        );
        let hold = ledger.exhausted("p", None, Some(2.5), NOW).unwrap();
        assert_eq!(hold.until, Some(NOW.midnight()));
        let tomorrow = NOW.midnight();
        assert_eq!(ledger.exhausted("p", Some(1.0), Some(1.0), tomorrow), None);
        ledger.add("p", 0.25, tomorrow);
        assert_eq!(ledger.projects.len(), 1);
    }
}
