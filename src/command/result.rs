//! Reading results: what one tells, and which are the newest. Neither the size of a result nor the
//! number of results makes the memory that it takes grow much.

use super::*;

/// So much of a result is read in one go; most are smaller.
const BLOCK: usize = 32 << 10;
/// A result is written after its job's end, but the clock of a file system may lag.
const SLACK: Duration = Duration::from_secs(60);
/// An error may quote a page of the agent's; it stands in full where the agent said it.
const ERROR_SHOWN: usize = 200;
/// An audit below this asks for a person's eye (SPEC 9).
const AUDIT_GOOD: f64 = 70.0;

/// What is asked of a result. Its other members, all that the agent said among them, are passed over
/// while it is read.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct ResultView {
    pub status: Option<String>,
    pub started_at: Option<Wall>,
    pub completed_at: Option<Wall>,
    #[serde(deserialize_with = "output")]
    pub worker_output: Output,
    pub audit_score: Option<f64>,
    pub audit_notes: Option<String>,
    pub error: Option<String>,
    pub error_kind: Option<String>,
    pub duration_seconds: Option<f64>,
    pub agent: Option<String>,
    pub session_id: Option<String>,
    pub attempts: Vec<Start>,
    pub permission_denials: Option<Vec<Value>>,
    pub failed_mcp_servers: Vec<String>,
    pub checks: Vec<Check>,
    pub git: Option<Change>,
}

/// What the agent brought.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Output {
    pub summary: Option<String>,
    pub usage: Option<Box<RawValue>>,
    pub cost_usd: Option<f64>,
}

impl Output {
    /// What the agent says that it used.
    pub(super) fn usage(&self) -> Value {
        let raw = self.usage.as_ref().map_or("null", |raw| raw.get());
        serde_json::from_str(raw).unwrap_or_default()
    }
}

/// When an agent ran.
#[derive(Deserialize)]
pub(super) struct Start {
    pub started_at: Wall,
    pub duration_seconds: f64,
}

/// The output of an agent; the predecessor's first version wrote the answer alone.
fn output<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Output, D::Error> {
    struct Either;
    impl<'de> Visitor<'de> for Either {
        type Value = Output;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an agent's output or its answer")
        }

        fn visit_unit<E>(self) -> std::result::Result<Output, E> {
            Ok(Output::default())
        }

        fn visit_str<E>(self, answer: &str) -> std::result::Result<Output, E> {
            let summary = Some(answer.to_owned());
            Ok(Output {
                summary,
                ..Output::default()
            })
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<Output, A::Error> {
            Output::deserialize(MapAccessDeserializer::new(map))
        }
    }
    from.deserialize_any(Either)
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
    /// The sign in its colour.
    pub(super) fn mark(self, style: Style) -> String {
        match self {
            Ending::Good => style.paint("32", "✓"),
            Ending::Doubtful => style.paint("33", "⚠"),
            Ending::Bad => style.paint("31", "✗"),
            Ending::Cancelled => style.paint("2", "–"),
        }
    }
}

impl ResultView {
    /// What a result tells; one that cannot be read, only that.
    pub(super) fn read(file: &File) -> ResultView {
        parse(file).unwrap_or_else(|_| ResultView::unreadable())
    }

    fn unreadable() -> ResultView {
        ResultView {
            status: Some("unreadable".to_owned()),
            ..ResultView::default()
        }
    }

    /// The result of a job.
    pub(super) fn of(spool: &Spool, id: &JobId) -> ResultView {
        match spool.open_result(id) {
            Ok(Some(file)) => ResultView::read(&file),
            _ => ResultView::unreadable(),
        }
    }

    /// The result of a job, of which there is no other word.
    pub(super) fn need(spool: &Spool, id: &JobId, file: &File) -> Result<ResultView> {
        parse(file).map_err(|error| {
            let way_out = format!("mend it, or remove it and run job-monitor retry {id}");
            let path = spool.result_path(id);
            let what = format!("the result {} cannot be read: {error}", path.display());
            Error::new(format!("{what}; {way_out}"))
        })
    }

    /// How it ended, in the document's own word.
    pub(super) fn word(&self) -> String {
        clean_line(self.status.as_deref().unwrap_or("unknown"))
    }

    pub(super) fn ending(&self) -> Ending {
        match self.status.as_deref() {
            // Whether a person should look at it though it completed (SPEC 9).
            Some("completed")
                if self.audit_score.is_some_and(|score| score < AUDIT_GOOD)
                    || self.denied() > 0
                    || !self.failed_mcp_servers.is_empty() =>
            {
                Ending::Doubtful
            }
            Some("completed") => Ending::Good,
            Some("cancelled") => Ending::Cancelled,
            _ => Ending::Bad,
        }
    }

    pub(super) fn is_completed(&self) -> bool {
        matches!(self.ending(), Ending::Good | Ending::Doubtful)
    }

    fn denied(&self) -> usize {
        self.permission_denials.as_ref().map_or(0, Vec::len)
    }

    /// What else is known of how well it went: audit, check, what the agent had to do without.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        notes.extend(self.audit_score.map(|score| format!("audit {score}")));
        let passed = last_check(&self.checks).filter(|end| end.starts_with("passed"));
        notes.extend(passed.map(|end| format!("check {end}")));
        let (denied, missing) = (self.denied(), self.failed_mcp_servers.len());
        notes.extend((denied > 0).then(|| counted(denied as u64, "tool") + " denied"));
        notes.extend((missing > 0).then(|| counted(missing as u64, "MCP server") + " missing"));
        notes
    }

    /// How it ended, with the kind of its error if that says more: `failed (check_failed)`.
    pub(super) fn verdict(&self) -> String {
        let kind = self.error_kind.as_deref().map(clean_line);
        match (self.word(), kind) {
            (word, Some(kind)) if kind != word => format!("{word} ({kind})"),
            (word, _) => word,
        }
    }

    /// How long its agent was at work; nothing for a job that had no start.
    pub(super) fn duration(&self) -> Option<String> {
        let lasted = Duration::try_from_secs_f64(self.duration_seconds?).ok()?;
        Some(human(lasted)).filter(|_| !lasted.is_zero())
    }

    /// What it cost.
    pub(super) fn cost(&self) -> Option<String> {
        Some(format!("${:.4}", self.worker_output.cost_usd?))
    }

    /// The size of the change in lines, `+12 −3`; nothing where nothing changed.
    pub(super) fn lines_changed(&self) -> Option<String> {
        let change = self.git.as_ref().filter(|change| change.files != Some(0))?;
        lines_changed(change)
    }

    /// How the job ended, in a line.
    pub(super) fn line(&self) -> String {
        let mut line = self.verdict();
        line.extend(self.duration().map(|duration| format!(" after {duration}")));
        let parts = self.cost().into_iter().chain(self.notes());
        line.extend(parts.map(|part| format!(", {part}")));
        let error = self.error.as_deref().map(clean_line);
        line.extend(error.map(|error| format!(": {}", fit(&error, ERROR_SHOWN))));
        line
    }
}

fn parse(mut file: &File) -> serde_json::Result<ResultView> {
    let mut block = Vec::with_capacity(BLOCK);
    let begun = file.rewind();
    let length = begun.and_then(|()| file.take(BLOCK as u64).read_to_end(&mut block));
    match length.map_err(serde_json::Error::io)? {
        // To read from memory is quicker, but a large result need not all be there.
        BLOCK => serde_json::from_reader(block.as_slice().chain(BufReader::new(file))),
        _ => serde_json::from_str(str::from_utf8(&block).map_err(serde_json::Error::custom)?),
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
pub(super) fn change_line(change: &Change) -> String {
    let mut parts: Vec<String> = Vec::new();
    let files = change.files.map(|files| counted(files, "file"));
    parts.push(files.unwrap_or_else(|| "an unknown number of files".to_owned()));
    parts.extend(lines_changed(change));
    let commits = change.commits.filter(|commits| *commits > 0);
    parts.extend(commits.map(|commits| counted(commits, "commit")));
    let branch = change.branch.as_ref().map(|branch| format!(" on {branch}"));
    parts.join(", ") + &branch.unwrap_or_default()
}

/// The finished jobs of some projects, those first whose results were written last.
pub(super) struct Newest<'a> {
    spools: &'a [Spool],
    since: Option<Wall>,
    /// Their ids, a line each: as many small texts would take three times the memory.
    ids: String,
    /// When a result was written, where its job's id begins, and its project's place.
    order: Vec<(Wall, u32, u32)>,
}

impl Newest<'_> {
    /// All of them, or those that ended since then.
    pub(super) fn of(spools: &[Spool], since: Option<Wall>) -> Result<Newest<'_>> {
        let (mut ids, mut order) = (String::new(), Vec::new());
        for (place, spool) in spools.iter().enumerate() {
            spool.finished(&mut |id, written| {
                if since.is_none_or(|since| written.plus(SLACK) >= since) {
                    order.push((written, ids.len() as u32, place as u32));
                    ids.push_str(id.as_str());
                    ids.push('\n');
                }
            })?;
        }
        order.sort_unstable_by(|one, other| other.cmp(one));
        Ok(Newest {
            spools,
            since,
            ids,
            order,
        })
    }

    /// Each one's project and id, and when its result was written.
    pub(super) fn ids(&self) -> impl Iterator<Item = (&Spool, JobId, Wall)> {
        self.order.iter().filter_map(|&(written, at, place)| {
            let id = self.ids[at as usize..].lines().next()?;
            Some((&self.spools[place as usize], JobId::exact(id)?, written))
        })
    }

    /// Each one's project and id, when it ended (if it does not say so, when its result was written), and
    /// its result.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Spool, JobId, Wall, ResultView)> {
        self.ids().filter_map(|(spool, id, written)| {
            let result = ResultView::of(spool, &id);
            let ended = result.completed_at.unwrap_or(written);
            let is_meant = self.since.is_none_or(|since| ended >= since);
            is_meant.then_some((spool, id, ended, result))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn of_a_result_of_any_size_what_is_asked_is_known() {
        let path = std::env::temp_dir().join(format!("job-monitor-result-{}", std::process::id()));
        for size in [1, BLOCK / 8, BLOCK, 3 << 20] {
            let long = "x\\\"ü\n\u{1f600}".repeat(size / 8);
            let text = json!({"a": [long, {"b": long}], "error": null, "stdout": long,
                "worker_output": {"raw_output": long, "summary": long, "usage": {"n": [1, {}]}}});
            std::fs::write(&path, text.to_string()).unwrap();
            let result = parse(&File::open(&path).unwrap()).unwrap();
            assert!(result.error.is_none() && result.worker_output.summary == Some(long));
            assert_eq!(result.worker_output.usage(), json!({"n": [1, {}]}));
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn what_is_no_whole_result_is_not_taken_for_one() {
        for broken in r#"|{|[5]|5|"{}"|{"a": "}|{}x|{"status": 5}"#.split('|') {
            let read = serde_json::from_str::<ResultView>(broken);
            assert!(read.is_err(), "{broken}");
        }
        let result: ResultView = serde_json::from_str("{\"worker_output\": \"Done.\"}").unwrap();
        assert_eq!(result.worker_output.summary.as_deref(), Some("Done."));
    }
}
