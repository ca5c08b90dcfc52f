//! The JSON documents on disk, the boundary to everybody else: key names, their order, what old
//! writers wrote. The claim, and what is in it, is also what the decisions compute with: it would be the same
//! type twice.

use crate::job::{Attempt, ErrorKind, JobId};
use crate::project::Protocol;
use crate::time::Wall;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A process as it can be recognised again after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its number, which may have been given to another process since.
    pub pid: i32,
    /// Its start in clock ticks since boot, which the other one does not share.
    pub start_time: u64,
}

/// A claim: the job is ours to run, and this is how far it got. Durable before every start, and written
/// again when the process is known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    /// The job.
    pub job_id: JobId,
    /// The token of the latest start.
    pub run: String,
    /// The boot in which it happened.
    pub boot_id: String,
    /// The process of the latest start, once it is known.
    pub process: Option<Identity>,
    /// The number of starts, the latest included.
    pub starts: u32,
    /// When the latest start happened.
    pub started_at: Wall,
    /// The document's modification time.
    pub created_at: Wall,
    /// Its place in the queue when it was accepted, from 1.
    pub queue_position: u64,
    /// Of the text that runs.
    pub document_sha256: String,
    /// The agent's name.
    pub agent: String,
    /// How one talks to it.
    pub protocol: Protocol,
    /// The session of the latest start.
    pub session_id: Option<String>,
    /// Whether the latest start continues that session.
    pub resumed: bool,
    /// Starts that ended, the latest not included while it runs.
    pub attempts: Vec<Attempt>,
    /// Repeats after transient faults so far.
    pub retries: u32,
    /// Interruptions so far.
    pub interruptions: u32,
    /// What earlier starts brought.
    pub carried: Carried,
    /// Why nothing runs just now; null while the agent or the check does.
    pub suspended: Option<Suspension>,
    /// Whether the agent did its work, and the check is to prove it.
    #[serde(default)]
    pub checking: bool,
    /// Whether the latest start was ended because a person stopped the daemon.
    #[serde(default)]
    pub stopped: bool,
    /// Checks that ended.
    #[serde(default)]
    pub checks: Vec<Check>,
    /// The files in which the latest start tells more than in its logs.
    #[serde(default)]
    pub files: Files,
    /// The finished job whose session this one resumes.
    pub continues: Option<JobId>,
    /// That session.
    pub inherited: Option<Inherited>,
    /// The work tree as it was before the first start; null where git does not keep it.
    pub git: Option<Snapshot>,
}

/// Files of the agent's own that say more than its output.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Files {
    /// The directory below which it tells why it failed.
    pub witness: Option<String>,
    /// The file that holds the answer.
    pub answer: Option<String>,
    /// What that file looked like before the start: it holds no answer of this attempt as long as it does.
    #[serde(default)]
    pub answer_before: String,
    /// Whether a blank answer is a fault.
    pub require_answer: bool,
}

/// A session that another job began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inherited {
    /// Its id.
    pub session_id: String,
    /// Its running total before this job, in US dollars.
    pub cost_usd: f64,
}

/// A git work tree as it was at a moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The branch; null when the head is detached.
    pub branch: Option<String>,
    /// The commit; null in a repository without one.
    pub head: Option<String>,
    /// The tree of all files that git does not ignore.
    pub tree: String,
}

/// One run of the `check`, as it stands in `checks` of a result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// When it was started.
    pub started_at: Wall,
    /// How long it ran.
    pub duration_seconds: f64,
    /// Its exit status, if it exited.
    pub exit_code: Option<i32>,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// The last 4 KiB that it wrote.
    pub output: String,
}

/// What a job changed in its git work tree, as it stands in `git` of a result (SPEC 8).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Change {
    /// The branch at the end; null when the head is detached.
    pub branch: Option<String>,
    /// The commit at the first start; null in a repository without one.
    pub head_before: Option<String>,
    /// The commit at the end.
    pub head_after: Option<String>,
    /// Commits that the end has and the start had not.
    pub commits: Option<u64>,
    /// Files that differ; a rename is one.
    pub files: Option<u64>,
    /// Lines added.
    pub insertions: Option<u64>,
    /// Lines removed.
    pub deletions: Option<u64>,
    /// The patch, relative to the project; null where there is none.
    pub patch: Option<String>,
}

/// What the starts of a job bring that its result must tell, added up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Carried {
    /// The agent's own usage object, numbers summed.
    pub usage: Option<Value>,
    /// Turns.
    pub num_turns: Option<u64>,
    /// Files that the agent's edit tools changed, as the tools named them, each once.
    pub edited: Vec<String>,
    /// Tools that the agent asked for and was refused, as it reports them.
    pub permission_denials: Vec<Value>,
    /// MCP servers that failed to start.
    #[serde(default)]
    pub failed_mcp_servers: Vec<String>,
    /// Processes swept.
    pub leftovers: u32,
}

/// A job that waits between two starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Suspension {
    /// What ended the latest start.
    pub kind: ErrorKind,
    /// The same in a sentence.
    pub error: String,
    /// When to go on; null where a hold of the agent decides it.
    pub retry_at: Option<Wall>,
    /// The session is gone: the next start is a fresh one.
    pub afresh: bool,
}

impl Claim {
    /// The file's content.
    pub fn to_line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("a claim is representable in JSON");
        line.push(b'\n');
        line
    }

    /// Reads the file's content. Older writers added a second line, which said nothing that is needed here.
    pub fn parse(bytes: &[u8]) -> Result<Claim, String> {
        let line = bytes.split(|&byte| byte == b'\n').next();
        serde_json::from_slice(line.unwrap_or_default()).map_err(|e| e.to_string())
    }
}

/// `state/queue_state.json`: a view for people and scripts, never read back by the daemon. The
/// names have their `.md`, as the predecessor wrote them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueView {
    /// The project's name.
    pub project: String,
    /// The number of waiting jobs.
    pub queue_size: usize,
    /// The running job's document.
    pub current_task: Option<String>,
    /// Whether an agent runs.
    pub is_processing: bool,
    /// The waiting jobs' documents, in order.
    pub queued_tasks: Vec<String>,
    /// When the running job was started.
    pub task_start_time: Option<Wall>,
    /// The number of the running start.
    pub attempt: Option<u32>,
    /// When the suspended job goes on.
    pub retry_at: Option<Wall>,
    /// Why the project's jobs wait.
    pub hold: Option<HoldView>,
    /// When this was written.
    pub updated_at: Option<Wall>,
    /// The modification time of the documents' directory that this takes in; a reader that finds
    /// another one there looks for itself.
    pub items_mtime: Option<String>,
    /// Entries among the documents that are no jobs, with what is wrong.
    pub left_alone: Vec<String>,
}

/// A hold as people and scripts see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HoldView {
    /// The kind, as `holds::Kind` has the words.
    pub kind: String,
    /// The agent that is held; null for every one, and where it is about the project alone.
    pub agent: Option<String>,
    /// What is the matter, and what to do if only a person can.
    pub reason: String,
    /// When it ends; null if a person must do something.
    pub until: Option<Wall>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn claims_of_older_writers_are_read() {
        let whole = Claim {
            job_id: JobId::exact("job-20260101-120000-x").unwrap(),
            ..Claim::default()
        };
        let mut claim = json!(whole);
        for key in ["checking", "stopped", "checks", "files"] {
            claim.as_object_mut().unwrap().remove(key);
        }
        let carried = claim["carried"].as_object_mut().unwrap();
        carried.remove("failed_mcp_servers");
        let text = format!("{claim}\nwhat they wrote behind it\n");
        assert_eq!(Claim::parse(text.as_bytes()), Ok(whole));
    }
}
