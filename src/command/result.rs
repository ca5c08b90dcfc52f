//! Reading results: what one tells, and which are the newest. Neither the size of a result nor the
//! number of results makes the memory that it takes grow much.

use super::*;

/// So much of a result is read in one go; most are smaller.
const BLOCK: usize = 32 << 10;
/// Of a result that is larger, a text of more bytes than this is left out. Nobody looks for one but for
/// the answer.
const LONG: usize = 64 << 10;
/// No result without them is larger, the answer of at most 1 MiB included.
const KEPT_MAX: usize = 16 << 20;
/// A result is written after its job's end, but the clock of a file system may lag.
const SLACK: Duration = Duration::from_secs(60);
/// A job takes less; a longer one is a mistake in its result.
const SECONDS_MAX: f64 = 1e9;
/// An error may quote a page of the agent's; it stands in full where the agent said it.
const ERROR_SHOWN: usize = 200;
/// An audit below this asks for a person's eye (SPEC 9).
const AUDIT_GOOD: f64 = 70.0;

/// What a result tells: the members of a JSON object as they were written, since most are never
/// looked at.
#[derive(Default)]
pub(super) struct Finished {
    /// It is no object, or the file cannot be read.
    pub is_unreadable: bool,
    json: Vec<u8>,
    /// Where the name and the value of each member are.
    members: Vec<(Range<usize>, Range<usize>)>,
}

/// How a job ended, for the mark in front of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Good,
    /// Completed, but a person should look at it.
    Doubtful,
    Bad,
    Cancelled,
}

impl Ending {
    /// The sign, with the number of its colour.
    pub(super) fn sign(self) -> (&'static str, &'static str) {
        match self {
            Ending::Good => ("32", "✓"),
            Ending::Doubtful => ("33", "⚠"),
            Ending::Bad => ("31", "✗"),
            Ending::Cancelled => ("2", "–"),
        }
    }

    /// The sign of a list of outcomes, in its colour where there are colours. A cancelled job has that
    /// of one that failed: scripts look for what did not complete.
    pub(super) fn mark(self, style: Style) -> String {
        let (color, sign) = match self {
            Ending::Cancelled => Ending::Bad.sign(),
            other => other.sign(),
        };
        style.paint(color, sign)
    }
}

impl Finished {
    /// What a result tells. One that is no whole JSON object, or cannot be read, tells only that.
    pub(super) fn read(mut file: &File) -> Finished {
        Finished::parse(read(&mut file).unwrap_or_default())
    }

    /// The result of a job.
    pub(super) fn of(spool: &Spool, id: &JobId) -> Finished {
        let file = spool.open_result(id).ok().flatten();
        file.map_or_else(|| Finished::parse(Vec::new()), |file| Finished::read(&file))
    }

    pub(super) fn parse(json: Vec<u8>) -> Finished {
        let members = members(&json);
        Finished {
            is_unreadable: members.is_none(),
            json,
            members: members.unwrap_or_default(),
        }
    }

    fn raw(&self, key: &str) -> &[u8] {
        let text = |range: &Range<usize>| &self.json[range.start..range.end];
        let mut members = self.members.iter();
        let found = members.rfind(|(name, _)| text(name) == key.as_bytes());
        found.map_or(b"", |(_, value)| text(value).trim_ascii())
    }

    /// The value of a member. One of another type than the one wanted, as in old results and in those
    /// that somebody mended, counts as absent and hides nothing else.
    pub(super) fn get<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        match self.raw(key) {
            b"" | b"null" => None,
            value => crate::agent::json::parse(str::from_utf8(value).ok()?),
        }
    }

    /// A member that is a text.
    pub(super) fn text(&self, key: &str) -> Option<String> {
        self.get(key)
    }

    /// The items of a member that is a list.
    pub(super) fn list<T: DeserializeOwned>(&self, key: &str) -> Vec<T> {
        self.get(key).unwrap_or_default()
    }

    fn count(&self, key: &str) -> u64 {
        self.list::<IgnoredAny>(key).len() as u64
    }

    /// The result of a job, of which there is no other word: all of it must be JSON.
    pub(super) fn need(spool: &Spool, id: &JobId, mut file: &File) -> Result<Finished> {
        let result = Finished::read(file);
        let is_json = |file| serde_json::from_reader::<_, IgnoredAny>(BufReader::new(file)).is_ok();
        if result.is_unreadable || file.rewind().is_err() || !is_json(file) {
            let path = spool.result_path(id);
            let way_out = format!("mend it, or remove it and run job-monitor retry {id}");
            let text = format!("the result {} cannot be read; {way_out}", path.display());
            return Err(Error::new(text));
        }
        Ok(result)
    }

    /// How it ended, in the document's own word.
    pub(super) fn word(&self) -> String {
        let none = match self.is_unreadable {
            true => "unreadable",
            false => "unknown",
        };
        clean_line(self.text("status").as_deref().unwrap_or(none))
    }

    pub(super) fn is_completed(&self) -> bool {
        self.word() == "completed"
    }

    pub(super) fn completed_at(&self) -> Option<Wall> {
        self.get("completed_at")
    }

    /// What the agent brought; nothing where that is a mere text, as in old results.
    pub(super) fn output(&self) -> Finished {
        Finished::parse(self.raw("worker_output").to_owned())
    }

    pub(super) fn cost_usd(&self) -> Option<f64> {
        self.output().get("cost_usd")
    }

    pub(super) fn ending(&self) -> Ending {
        let score: Option<f64> = self.get("audit_score");
        // Whether a person should look at it though it completed (SPEC 9).
        let is_doubtful = score.is_some_and(|score| score < AUDIT_GOOD)
            || self.count("permission_denials") + self.count("failed_mcp_servers") > 0;
        match self.word().as_str() {
            "completed" if is_doubtful => Ending::Doubtful,
            "completed" => Ending::Good,
            "cancelled" => Ending::Cancelled,
            _ => Ending::Bad,
        }
    }

    /// What else is known of how well it went: audit, check, what the agent had to do without.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let score: Option<f64> = self.get("audit_score");
        notes.extend(score.map(|score| format!("audit {score}")));
        let checks: Vec<Check> = self.list("checks");
        if checks.last().is_some_and(|last| last.exit_code == Some(0)) {
            notes.push(match checks.len() {
                1 => "check passed".to_owned(),
                rounds => format!("check passed at try {rounds}"),
            });
        }
        let denied = self.count("permission_denials");
        let missing = self.count("failed_mcp_servers");
        notes.extend((denied > 0).then(|| counted(denied, "tool") + " denied"));
        notes.extend((missing > 0).then(|| counted(missing, "MCP server") + " missing"));
        notes
    }

    /// How it ended, with the kind of its error if that says more: `failed (check_failed)`.
    pub(super) fn verdict(&self) -> String {
        let kind = self.text("error_kind").map(|kind| clean_line(&kind));
        match (self.word(), kind) {
            (word, Some(kind)) if kind != word => format!("{word} ({kind})"),
            (word, _) => word,
        }
    }

    /// How long its agent was at work, in seconds.
    pub(super) fn seconds(&self) -> Option<f64> {
        let is_possible = |seconds: &f64| (0.0..SECONDS_MAX).contains(seconds);
        self.get("duration_seconds").filter(is_possible)
    }

    /// The same for people; nothing for a job that had no start.
    pub(super) fn duration(&self) -> Option<String> {
        let seconds = self.seconds().filter(|seconds| *seconds > 0.0)?;
        Some(human(Duration::from_secs_f64(seconds)))
    }

    /// What it cost.
    pub(super) fn cost(&self) -> Option<String> {
        Some(format!("${:.4}", self.cost_usd()?))
    }

    /// What changed in the tree.
    pub(super) fn change(&self) -> Option<Change> {
        self.get("git")
    }

    /// The size of the change in lines, `+12 −3`; nothing where nothing changed.
    pub(super) fn lines_changed(&self) -> Option<String> {
        lines_changed(&self.change().filter(|change| change.files != Some(0))?)
    }

    /// How the job ended, in a line.
    pub(super) fn line(&self) -> String {
        let mut line = self.verdict();
        line.extend(self.duration().map(|duration| format!(" after {duration}")));
        let parts = self.cost().into_iter().chain(self.notes());
        line.extend(parts.map(|part| format!(", {part}")));
        let error = self.text("error").map(|error| clean_line(&error));
        line.extend(error.map(|error| format!(": {}", fit(&error, ERROR_SHOWN))));
        line
    }
}

/// Where the name and the value of each member of a JSON object are. Brackets and quotes tell that;
/// whether a value is JSON is seen when it is wanted. The map that [`json::object`] makes took two fifths
/// more instructions for `status --all`, which has 1.5 s for 100,000 results (SPEC 12).
fn members(json: &[u8]) -> Option<Vec<(Range<usize>, Range<usize>)>> {
    if !json.trim_ascii_start().starts_with(b"{") {
        return None;
    }
    let (mut members, mut depth) = (Vec::new(), 0);
    let (mut text, mut name, mut value) = (0..0, 0..0, 0);
    let mut bytes = json.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => {
                text.start = at + 1;
                text.end = loop {
                    match bytes.next()? {
                        (_, b'\\') => drop(bytes.next()),
                        (end, b'"') => break end,
                        _ => {}
                    }
                };
            }
            b':' if depth == 1 => (name, value) = (take(&mut text), at + 1),
            b'{' | b'[' => depth += 1,
            b',' | b'}' | b']' => {
                if depth == 1 {
                    members.push((take(&mut name), value..at));
                }
                depth -= usize::from(*byte != b',');
                if depth == 0 {
                    let is_end = *byte == b'}' && json[at + 1..].trim_ascii().is_empty();
                    return is_end.then_some(members);
                }
            }
            _ => {}
        }
    }
    None
}

/// Reads a result, a large one without its long texts: neither its size nor the number of results makes
/// the memory that it takes grow much.
fn read(from: &mut dyn Read) -> io::Result<Vec<u8>> {
    let (mut block, mut kept) = (Vec::with_capacity(BLOCK), Vec::new());
    // Where the text begins that is being read, whether its next byte stands for itself, and whether it
    // turned out to be long.
    let (mut text, mut is_escaped, mut is_long) = (None, false, false);
    loop {
        block.clear();
        from.take(BLOCK as u64).read_to_end(&mut block)?;
        if kept.is_empty() && block.len() < BLOCK {
            return Ok(block);
        }
        if block.is_empty() {
            return Ok(kept);
        }
        for &byte in &block {
            let is_quote = byte == b'"' && !is_escaped;
            match text {
                None => text = is_quote.then_some(kept.len() + 1),
                Some(_) if is_quote => (text, is_long) = (None, false),
                Some(start) => {
                    is_escaped = byte == b'\\' && !is_escaped;
                    if kept.len() == start + LONG {
                        let before = kept[..start - 1].trim_ascii_end();
                        is_long = !before.ends_with(b"\"summary\":");
                    }
                    if is_long {
                        kept.truncate(start);
                        continue;
                    }
                }
            }
            kept.push(byte);
        }
        if kept.len() > KEPT_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
    }
}

/// `1 file`, `3 files`.
pub(super) fn counted(number: u64, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

fn lines_changed(change: &Change) -> Option<String> {
    let (more, less) = (change.insertions?, change.deletions?);
    Some(format!("+{more} −{less}"))
}

/// What a job changed: `3 files, +12 −3, 1 commit on main`.
pub(super) fn change_line(change: &Change) -> Option<String> {
    let files = change.files?;
    let commits = change.commits.filter(|commits| *commits > 0);
    if files == 0 && commits.is_none() {
        return Some("nothing".to_owned());
    }
    let mut parts = vec![counted(files, "file")];
    parts.extend(lines_changed(change));
    parts.extend(commits.map(|commits| counted(commits, "commit")));
    let branch = change.branch.as_ref().map(|branch| format!(" on {branch}"));
    Some(parts.join(", ") + &branch.unwrap_or_default())
}

/// When a result was written, unless its job ended before `since`.
pub(super) fn written(written_ns: i128, since: Option<Wall>) -> Option<Wall> {
    // Beyond the year 2262 they are all of the same age.
    let written = Wall(i64::try_from(written_ns / 1_000_000).unwrap_or(i64::MAX));
    let may_count = since.is_none_or(|since| written.plus(SLACK) >= since);
    may_count.then_some(written)
}

/// The finished jobs of some projects, those first whose results were written last.
pub(super) struct Newest {
    /// Their ids, a line each: as many small texts would take three times the memory.
    ids: String,
    /// When a result was written, where its job's id begins, and its project's place.
    pub order: Vec<(Wall, u32, u32)>,
}

impl Newest {
    /// All of them, or at least those that ended since then.
    pub(super) fn of(spools: &[Spool], since: Option<Wall>) -> Result<Newest> {
        let (mut ids, mut order) = (String::new(), Vec::new());
        for (place, spool) in spools.iter().enumerate() {
            spool.finished(&mut |id, written_ns| {
                if let Some(written) = written(written_ns, since) {
                    order.push((written, ids.len() as u32, place as u32));
                    ids.push_str(id);
                    ids.push('\n');
                }
            })?;
        }
        let id_at = |at: u32| ids[at as usize..].split('\n').next();
        order.sort_unstable_by(|one, other| {
            let by_id = || id_at(other.1).cmp(&id_at(one.1));
            other.0.cmp(&one.0).then_with(by_id)
        });
        Ok(Newest { ids, order })
    }

    /// The place of each one's project in what was given, and its id.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, JobId)> {
        self.order.iter().filter_map(|&(_, at, place)| {
            let id = self.ids[at as usize..].split('\n').next()?;
            Some((place as usize, JobId::exact(id)?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn of_long_texts_only_the_answer_is_kept() {
        for end in ["", "\"", "\\", "\\\"", "ü\n\u{1f600}"] {
            let long = "x\\\"ü".repeat(LONG) + end;
            let mut result = json!({"a": [long, {"b": long}], "c": end, "error": null,
                "worker_output": {"raw_output": long, "summary": long, "usage": {"n": [1, {}]}}});
            let text = serde_json::to_vec_pretty(&result).unwrap();
            let kept = super::read(&mut text.as_slice()).unwrap();
            result["a"] = json!(["", {"b": ""}]);
            result["worker_output"]["raw_output"] = json!("");
            let value: Value = serde_json::from_slice(&kept).unwrap();
            assert!(value == result, "{end:?}");
            let read = Finished::parse(kept);
            for key in ["a", "c", "worker_output"] {
                assert!(
                    read.get(key).as_ref() == Some(&result[key]),
                    "{key} {end:?}"
                );
            }
            assert!(read.get::<Value>("error").is_none());
            assert_eq!(read.output().get("usage"), Some(json!({"n": [1, {}]})));
        }
    }

    #[test]
    fn what_is_no_whole_object_is_not_read_and_what_is_odd_in_one_hides_nothing_else() {
        for broken in [
            "",
            "{",
            "[]",
            "5",
            "\"{}\"",
            "{\"a\": \"}",
            "{\"a\": [1}",
            "{}x",
            "}",
            "{]}",
            "{\"\\",
        ] {
            assert!(Finished::parse(broken.into()).is_unreadable, "{broken}");
        }
        for odd in [
            "{}",
            "{\"b\"}",
            "{,}",
            "{:}",
            "{\"a\": }",
            "{\"a\" 1}",
            "{\"a\": 1 2}",
            "{\"b\": {\"a\": 1}}",
        ] {
            let read = Finished::parse(odd.into());
            assert!(
                !read.is_unreadable && read.get::<u64>("a").is_none(),
                "{odd}"
            );
            let read = Finished::parse(odd.replacen('{', "{\"c\": 7, ", 1).into());
            assert_eq!(read.get("c"), Some(7), "{odd}");
        }
        let read = Finished::parse(b" {\"a\": 1, \"a\":\t2\n}\n".to_vec());
        assert_eq!(read.get("a"), Some(2));
    }
}
