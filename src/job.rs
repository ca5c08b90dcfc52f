//! The words of a job: its name, what can become of it, and why.

use crate::project::Layout;
use crate::time::{Wall, has_form};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::fmt;
use std::time::Duration;

/// The longest file name of a document, in bytes; leaves room for the endings of log and
/// temporary files below the file system's 255.
const NAME_MAX: usize = 200;

/// The name of a document without `.md`. Whoever holds one knows that it is safe as a file
/// name: letters, digits, `.`, `_` and `-`, starting with `job-` or `task-`.
///
/// Ordered as the queue is: by time stamp, then by file name; names without a stamp (layout
/// `tasks` allows them) come last. The default is no job's: it holds the place of one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct JobId(Box<str>);

/// The form of the time stamp in a name.
const STAMP: &str = "00000000-000000";

/// What a file name in the spool means.
#[derive(Debug, PartialEq, Eq)]
pub enum Name {
    /// A job document.
    Job(JobId),
    /// Looks like a job but is not named as one; to be reported, never run.
    Bad,
    /// Not ours: temporary, hidden, or something else altogether.
    Other,
}

impl JobId {
    /// Reads an id as a person types it, with or without `.md`.
    pub fn parse(text: &str) -> Option<JobId> {
        JobId::exact(text.strip_suffix(".md").unwrap_or(text))
    }

    /// Reads an id as a program wrote it. A description may itself end in `.md`, and then what
    /// [`JobId::parse`] takes off belongs to the id: read so, the claim, the marks and the result
    /// of `x.md` would count as those of another job, `x`.
    pub fn exact(text: &str) -> Option<JobId> {
        is_id(text).then(|| JobId(text.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The document's file name.
    pub fn file_name(&self) -> String {
        format!("{}.md", self.0)
    }

    /// The part of the name that a person chose.
    pub fn description(&self) -> &str {
        match (self.layout(), self.stamp()) {
            (Layout::Jobs, _) => &self.0[20..],
            (Layout::Tasks, Some(_)) => &self.0[5..self.0.len() - 16],
            (Layout::Tasks, None) => &self.0[5..],
        }
    }

    /// The layout in which this name is a job.
    pub fn layout(&self) -> Layout {
        match self.0.starts_with(Layout::Jobs.prefix()) {
            true => Layout::Jobs,
            false => Layout::Tasks,
        }
    }

    /// `YYYYMMDD-HHMMSS`, wherever the layout keeps it.
    pub fn stamp(&self) -> Option<&str> {
        if self.layout() == Layout::Jobs {
            return self.0.get(4..19);
        }
        let start = self.0.len().checked_sub(15)?;
        let stamp = self.0.get(start..)?;
        let is_stamp = has_form(stamp, STAMP) && start > 6 && self.0[..start].ends_with('-');
        is_stamp.then_some(stamp)
    }
}

impl Name {
    /// Sorts a file name of the spool of a project with `layout`.
    pub fn of(file: &str, layout: Layout) -> Name {
        // Temporary files and copies do not end in `.md`, so this passes over them, too.
        match file.strip_suffix(".md") {
            Some(stem) if stem.starts_with(layout.prefix()) => {
                JobId::exact(stem).map_or(Name::Bad, Name::Job)
            }
            _ => Name::Other,
        }
    }
}

/// Whether a text is a job id.
fn is_id(text: &str) -> bool {
    let description = match text.strip_prefix(Layout::Jobs.prefix()) {
        Some(rest) => match rest.split_at_checked(STAMP.len()) {
            Some((stamp, rest)) if has_form(stamp, STAMP) => rest.strip_prefix('-'),
            _ => None,
        },
        None => text.strip_prefix(Layout::Tasks.prefix()),
    };
    let mut letters = description.unwrap_or_default().bytes();
    letters.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && letters.all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && text.len() + ".md".len() <= NAME_MAX
}

/// The ids of which `id` may be a copy's. Sync tools and editors put copies beside a file, and add to its name
/// a dot and more, or `_LOCAL_` and the like and a number.
pub fn originals(id: &str) -> impl Iterator<Item = &str> {
    let words = ["_LOCAL_", "_BASE_", "_REMOTE_", "_BACKUP_"];
    let is_cut = move |rest: &str| {
        let number = words.iter().find_map(|word| rest.strip_prefix(word));
        let is_of_merge = number.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        rest.starts_with('.') || is_of_merge
    };
    let stem = move |(at, _)| is_cut(&id[at..]).then_some(&id[..at]);
    let stems = id.match_indices(['.', '_']).filter_map(stem);
    stems.filter(|stem| is_id(stem))
}

impl Ord for JobId {
    fn cmp(&self, other: &JobId) -> Ordering {
        let (mine, theirs) = (self.stamp(), other.stamp());
        let stamps = (mine.is_none(), mine).cmp(&(theirs.is_none(), theirs));
        // As the names with their `.md`, which are those that `ls` sorts.
        let names = || (self.0.bytes().chain(*b".md")).cmp(other.0.bytes().chain(*b".md"));
        stamps.then_with(names)
    }
}

impl PartialOrd for JobId {
    fn partial_cmp(&self, other: &JobId) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for JobId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<JobId, D::Error> {
        let text = String::deserialize(deserializer)?;
        JobId::exact(&text).ok_or_else(|| serde::de::Error::custom("not a job id"))
    }
}

/// What matters of an inode. As long as it is unchanged for a directory, so are the directory's entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Device, and number there: the same as long as it is the same file or directory.
    pub place: (u64, u64),
    /// In bytes.
    pub size: u64,
    /// Modification time in nanoseconds since 1970.
    pub mtime_ns: i128,
    /// Permissions and kind.
    pub mode: u32,
}

impl Meta {
    /// Modification time.
    pub fn mtime(&self) -> Wall {
        Wall(i64::try_from(self.mtime_ns.div_euclid(1_000_000)).unwrap_or(0))
    }
}

/// The name of a log file: the job's n-th start, from the second on, has its number in it.
pub fn log_name(id: &JobId, start: u32, ending: &str) -> String {
    match start {
        0 | 1 => format!("{id}.{ending}"),
        _ => format!("{id}.{start}.{ending}"),
    }
}

/// The name of the log of a job's n-th check.
pub fn check_log(id: &JobId, round: u32) -> String {
    match round {
        0 | 1 => format!("{id}.check"),
        _ => format!("{id}.check.{round}"),
    }
}

/// The environment variable that carries the token of a run to all its processes.
pub const RUN_VARIABLE: &str = "JOB_MONITOR_RUN";

/// Declares [`ErrorKind`] once: variant, word in documents, what follows.
macro_rules! error_kinds {
    ($($(#[$doc:meta])* $variant:ident = $word:literal => $course:ident,)*) => {
        /// Why an attempt or a job is not complete: the closed set of SPEC 7.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum ErrorKind {
            $($(#[$doc])* $variant,)*
        }

        impl ErrorKind {
            /// Every kind there is.
            pub const ALL: &[ErrorKind] = &[$(ErrorKind::$variant,)*];

            /// The word in documents.
            pub fn as_str(self) -> &'static str {
                match self { $(ErrorKind::$variant => $word,)* }
            }

            /// What the kind calls for.
            pub fn course(self) -> Course {
                match self { $(ErrorKind::$variant => Course::$course,)* }
            }
        }
    };
}

/// What follows an attempt that did not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// The agent cannot work for any project now: hold it, then go on with the same job.
    Hold,
    /// A passing fault: try again after a pause, up to `retries` times.
    Retry,
    /// The agent fell over: as before, where its session can be resumed; else the job is over.
    Resume,
    /// The job is over.
    End,
}

error_kinds! {
    /// The subscription's usage limit is reached.
    UsageLimit = "usage_limit" => Hold,
    /// The service does not accept the credentials, or there are none.
    NotAuthenticated = "not_authenticated" => Hold,
    /// The account cannot pay.
    Billing = "billing" => Hold,
    /// The agent's program is missing or cannot be executed.
    AgentMissing = "agent_missing" => Hold,
    /// The credentials file is readable by others or broken.
    UnsafeEnv = "unsafe_env" => Hold,
    /// The service is overloaded or failing.
    Overloaded = "overloaded" => Hold,
    /// The service could not be reached, or answered nothing of use.
    Network = "network" => Hold,
    /// Too many requests, without a usage limit.
    RateLimited = "rate_limited" => Hold,
    /// The system could not start a process just now.
    SpawnFailed = "spawn_failed" => Retry,
    /// The attempt used up its wall time.
    Timeout = "timeout" => End,
    /// The agent wrote nothing for too long.
    Silent = "silent" => Resume,
    /// The agent wrote too much.
    OutputLimit = "output_limit" => End,
    /// The turns allowed are used up.
    MaxTurns = "max_turns" => End,
    /// The money allowed is used up.
    Budget = "budget" => End,
    /// Document and context exceed the model's window.
    PromptTooLong = "prompt_too_long" => End,
    /// The service rejects the request as such.
    InvalidRequest = "invalid_request" => End,
    /// There is no such model for this account.
    ModelNotFound = "model_not_found" => End,
    /// The model declined.
    Refused = "refused" => End,
    /// The answer is longer than the model may write.
    MaxOutputTokens = "max_output_tokens" => End,
    /// The agent ended without saying how.
    NoResult = "no_result" => Resume,
    /// The agent ended well but said nothing.
    EmptyAnswer = "empty_answer" => End,
    /// The agent ended with an exit status of its own.
    ExitCode = "exit_code" => End,
    /// A signal that is not ours ended the agent.
    Signal = "signal" => Resume,
    /// A hook of the project refused the prompt, stopped the turn or would not let it end.
    Blocked = "blocked" => End,
    /// The agent ended its turn while something of its own was to wake it later.
    Unfinished = "unfinished" => End,
    /// The check did not succeed, after all rounds.
    CheckFailed = "check_failed" => End,
    /// The agent reports an error of another kind.
    AgentError = "agent_error" => End,
    /// The daemon or the machine went down too often while the job ran, or once and for good.
    Interrupted = "interrupted" => End,
    /// The document is not one that can be run.
    Rejected = "rejected" => End,
    /// The person cancelled the job.
    Cancelled = "cancelled" => End,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One start of the agent, as it stands in `attempts` of a result.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// When the agent was started.
    pub started_at: Wall,
    /// How long it ran.
    pub duration_seconds: f64,
    /// Its exit status, if it exited.
    pub exit_code: Option<i32>,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// Why the attempt is not complete; null when it is.
    pub error_kind: Option<ErrorKind>,
    /// The same in a sentence.
    pub error: Option<String>,
    /// The agent's session.
    pub session_id: Option<String>,
    /// The session's running total when the attempt ended, in US dollars.
    pub cost_usd: Option<f64>,
}

impl Attempt {
    /// How long it ran; zero if the document says something impossible.
    pub fn duration(&self) -> Duration {
        Duration::try_from_secs_f64(self.duration_seconds).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> JobId {
        JobId::parse(text).unwrap_or_else(|| panic!("{text} is a job id"))
    }

    #[test]
    fn names_of_jobs_are_told_from_everything_else() {
        let of = |name| Name::of(name, Layout::Jobs);
        let good = id("job-20260130-143000-fix");
        assert_eq!(of("job-20260130-143000-fix.md"), Name::Job(good));
        let odd = id("job-99999999-999999-A.b_c-1");
        assert_eq!(of("job-99999999-999999-A.b_c-1.md"), Name::Job(odd));
        for bad in [
            "job-20260130-143000-.md",
            "job-20260130-143000.md",
            "job-20260130-14300-fix.md",
            "job-20260130_143000-fix.md",
            "job-fix.md",
            "job-20260130-143000--x.md",
            "job-20260130-143000-ü.md",
            "job-20260130-143000-a b.md",
            "job-.md",
        ] {
            assert_eq!(of(bad), Name::Bad, "{bad}");
        }
        for other in [
            ".job-20260130-143000-fix.md",
            "job-20260130-143000-fix.md~",
            "job-20260130-143000-fix.md.tmp",
            "job-20260130-143000-fix.md.swp",
            "#job-20260130-143000-fix.md#",
            "README.md",
            "job-20260130-143000-fix.txt",
            "task-x.md",
            "",
        ] {
            assert_eq!(of(other), Name::Other, "{other}");
        }
        let long = format!("job-20260130-143000-{}.md", "x".repeat(177));
        assert_eq!(long.len(), 200);
        assert!(matches!(of(&long), Name::Job(_)));
        assert_eq!(of(&long.replace(".md", "x.md")), Name::Bad);
    }

    #[test]
    fn ids_are_parsed_and_never_paths() {
        let bad = "../x|/etc/passwd|job-20260130-143000-a/b|job-20260130-143000-a\n||queue";
        for bad in bad.split('|') {
            assert_eq!(JobId::parse(bad), None, "{bad:?}");
        }
        assert_eq!(id("task-anything.md").as_str(), "task-anything");
    }

    #[test]
    fn an_id_that_ends_in_md_is_not_taken_for_another_job_when_it_is_read_back() {
        let Name::Job(odd) = Name::of("job-20260130-143000-x.md.md", Layout::Jobs) else {
            panic!("it is a job's name");
        };
        assert_eq!(odd.as_str(), "job-20260130-143000-x.md");
        assert_eq!(JobId::exact(odd.as_str()).as_ref(), Some(&odd));
        assert_eq!(JobId::parse(&odd.file_name()).as_ref(), Some(&odd));
        let json = serde_json::to_string(&odd).unwrap();
        assert_eq!(serde_json::from_str::<JobId>(&json).unwrap(), odd);
    }

    #[test]
    fn the_order_is_that_of_the_stamp_then_of_the_file_name() {
        let sorted = |ids: &'static str| {
            let mut ids: Vec<JobId> = ids.split(' ').map(id).collect();
            ids.sort();
            let ids: Vec<&str> = ids.iter().map(JobId::as_str).collect();
            ids.join(" ")
        };
        assert_eq!(
            sorted(
                "job-20260130-143000-b job-20260130-143000-a-b job-20260130-143000-a job-20260129-235959-z"
            ),
            "job-20260129-235959-z job-20260130-143000-a-b job-20260130-143000-a job-20260130-143000-b"
        );
        assert_eq!(
            sorted("task-zz task-b-20250129-143000 task-c-20250128-143000 task-aa"),
            "task-c-20250128-143000 task-b-20250129-143000 task-aa task-zz"
        );
    }

    #[test]
    fn the_description_is_what_the_person_chose() {
        for (name, description) in [
            ("job-20260130-143000-fix-bug", "fix-bug"),
            ("task-data-export-20250129-150000", "data-export"),
            ("task-anything", "anything"),
        ] {
            assert_eq!(id(name).description(), description);
        }
    }

    #[test]
    fn a_copy_is_known_by_what_its_name_begins_with() {
        let originals = |id: &str| originals(id).map(str::to_owned).collect::<Vec<_>>();
        let x = "job-20260130-143000-x";
        for ending in
            ".sync-conflict-20260130-150000-ABC .orig .conflict1 _LOCAL_4711 _BASE_1".split(' ')
        {
            let copy = format!("{x}{ending}");
            assert_eq!(originals(&copy), [x], "{copy}");
        }
        assert_eq!(originals("job-20260130-143000-x_LOCAL_HOST"), [""; 0]);
        assert_eq!(originals("job-20260130-143000-x.y.z").len(), 2);
        assert_eq!(originals("task-x.orig"), ["task-x"]);
    }

    #[test]
    fn the_words_of_the_kinds_are_their_json() {
        for kind in ErrorKind::ALL {
            assert_eq!(serde_json::to_string(kind).unwrap(), format!("\"{kind}\""));
        }
    }
}
