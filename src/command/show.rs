//! `show`: one job, wherever it stands.

use super::*;

/// So many refused tools are named; a run can be refused hundreds.
const DENIALS_SHOWN: usize = 10;
/// So many lines of a failed check's output are shown; its log has them all.
const CHECK_LINES: usize = 12;

/// What is told of a job, in lines that begin with a word of ours.
struct Page(String);

impl Page {
    fn of(status: &str, id: &JobId) -> Page {
        Page(format!("Status: {status}\nJob: {id}\n"))
    }

    /// Adds a line if there is something to tell. What stands in lines of its own begins with an end
    /// of line.
    fn line(&mut self, word: &str, told: Option<impl Display>) {
        if let Some(told) = told.map(|told| told.to_string()) {
            let gap = if told.starts_with('\n') { "" } else { " " };
            self.0 += &format!("{word}:{gap}{}\n", clean(&told));
        }
    }
}

/// One job, wherever it stands: the one that was typed, else the one that runs or the newest.
pub(super) fn job(scope: &Scope, typed: Option<&String>, format: Format) -> Outcome {
    let blank = |id: &JobId| {
        json!({"job_id": id, "project": null, "state": "not_found", "position": null,
            "started_at": null, "attempt": null, "retry_at": null, "obstacles": [], "result": null})
    };
    let whole = typed.and_then(|typed| JobId::parse(typed));
    let job = match (scope.job_or_latest(typed), whole) {
        (Err(error), Some(id)) if error.exit == Exit::NotFound => {
            render::answer(format, &blank(&id), || not_found(scope, &id).0)?;
            return Ok(Exit::NotFound);
        }
        (found, _) => found?,
    };
    let (Job { id, spool }, mut view) = (&job, blank(&job.id));
    view["project"] = json!(spool.project().name);
    let page = match scope.standing(&job)? {
        Standing::Done(result) => return done(view, spool, id, result, format),
        Standing::Running(claim) => {
            view["state"] = json!("running");
            view["started_at"] = json!(claim.started_at);
            view["attempt"] = json!(claim.starts);
            of_running(spool, &claim)
        }
        Standing::Suspended(claim) => {
            of_waiting(&mut view, &Seen::around(scope, spool)?, id, Some(&claim))?
        }
        Standing::Waiting { .. } => of_waiting(&mut view, &Seen::around(scope, spool)?, id, None)?,
    };
    render::answer(format, &view, || page.0)?;
    Ok(Exit::Done)
}

/// A finished job. A result that cannot be read ends it all the same.
fn done(mut view: Value, spool: &Spool, id: &JobId, file: File, format: Format) -> Outcome {
    view["state"] = json!("done");
    let result = match Finished::need(spool, id, &file) {
        Ok(result) => result,
        Err(error) => {
            render::answer(format, &view, || Page::of("unreadable", id).0)?;
            return Err(error);
        }
    };
    match format {
        Format::Json => render::unless_gone(show_whole(&view, file))?,
        Format::Text => render::print(&of_result(spool, id, &result).0)?,
    }
    Ok(Exit::Done)
}

/// Answers with the result as it was written, line by line, since it may be large.
fn show_whole(view: &Value, mut file: File) -> Result<()> {
    let failed = |e| Error::io("read", Path::new("the result"), e);
    let (view, member) = (render::json(view)? + "\n", "\"result\":");
    let parts = view.split_once(&format!("{member}null"));
    let (before, behind) = parts.expect("the view has no result yet");
    render::show(&format!("{before}{member}"))?;
    file.rewind().map_err(failed)?;
    for line in BufReader::new(file).split(b'\n') {
        let line = line.map_err(failed)?;
        render::show(&render::calm_json(&String::from_utf8_lossy(&line)))?;
    }
    render::show(behind)
}

/// A job that does not run yet, or not again yet.
fn of_waiting(view: &mut Value, seen: &Seen, id: &JobId, claim: Option<&Claim>) -> Result<Page> {
    let held = seen.marks.held.contains(id);
    let place = seen.all().position(|waiting| waiting == id);
    let place = place.map(|at| at + 1);
    view["state"] = json!(if held { "held" } else { "waiting" });
    view["position"] = json!(place);
    view["attempt"] = json!(claim.map(|claim| claim.starts));
    view["retry_at"] = json!(claim.and_then(retry_at));
    view["obstacles"] = json!(seen.obstacle_lines());
    let mut page = Page::of("waiting", id);
    let meta = seen.spool.document_meta(id)?;
    page.line("Created", meta.map(|meta| meta.mtime()));
    page.line("Size", meta.map(|meta| format!("{} bytes", meta.size)));
    let of_all = |place| format!("{place} of {}", seen.all().count());
    page.line("Queue position", place.map(of_all));
    page.line("Attempts", claim.map(|claim| claim.starts));
    page.line("Left alone", seen.left_alone(id));
    let is_cancelled = seen.marks.cancelled.contains(id);
    let release = || format!("job-monitor release {id} lets it run");
    let what = "it is withdrawn when the monitor runs";
    page.line("Cancelled", is_cancelled.then_some(what));
    page.line("Held", (held && !is_cancelled).then(release));
    if !held && !is_cancelled {
        let why = claim.map(|claim| suspension_text(claim, Wall::now()));
        page.line("Suspended", why);
        let now = Wall::now();
        let at = claim.map_or_else(|| put_off(&seen.spool, id, now), |_| None);
        page.line("Not before", at.map(|at| at.short(now)));
        for (word, why) in &seen.obstacles {
            page.line(word, Some(why));
        }
    }
    Ok(page)
}

fn not_found(scope: &Scope, id: &JobId) -> Page {
    let places = match &scope.entries[..] {
        [] => format!("\n  - {NO_PROJECT}"),
        [only] => {
            let (path, layout) = (&only.project.path, only.project.layout);
            let places = [layout.state(), layout.items(), layout.results()];
            let lines = places.map(|place| format!("\n  - {}", path.join(place).display()));
            lines.concat()
        }
        // Three lines for each would be many.
        all => {
            let lines = all.iter().map(|entry| {
                let name = &entry.project.name;
                format!("\n  - state, items and results of \"{name}\"")
            });
            lines.collect()
        }
    };
    let mut page = Page::of("not_found", id);
    let head = "The job was not found in any of the following locations";
    page.line(head, Some(places));
    page
}

fn of_running(spool: &Spool, claim: &Claim) -> Page {
    let (now, id, started) = (Wall::now(), &claim.job_id, claim.started_at);
    let log = spool.open_log(&log_name(id, claim.starts, dialect(claim.protocol).ending));
    let written = || log.ok()??.metadata().ok()?.modified().ok();
    let ago = written().map(|at| human(now.since(Wall::from(at))));
    let mut page = Page::of("processing", id);
    page.line("Started", Some(started));
    page.line("Elapsed", Some(human(now.since(started))));
    page.line("Last activity", ago.map(|ago| format!("{ago} ago")));
    page.line("Attempt", Some(claim.starts).filter(|starts| *starts > 1));
    page.line("Check", check(&claim.checks));
    page.line("Project", Some(&spool.project().name));
    page.line("Agent", Some(&claim.agent));
    page
}

fn of_result(spool: &Spool, id: &JobId, result: &Finished) -> Page {
    let mut page = Page::of(&result.word(), id);
    let (error, agent) = (result.text("error"), result.text("agent"));
    let seconds: Option<f64> = result.get("duration_seconds");
    let score: Option<f64> = result.get("audit_score");
    page.line("Duration", seconds.map(|all| format!("{all:.2} seconds")));
    let kind = around(" (", result.text("error_kind"), ")");
    page.line("Error", error.map(|error| format!("{error}{kind}")));
    page.line("Started", result.get::<Wall>("started_at"));
    page.line("Ended", result.completed_at());
    page.line("Project", agent.as_ref().map(|_| &spool.project().name));
    let version =
        around(" ", result.text("agent_version"), "") + &around(" ", result.text("model"), "");
    page.line("Agent", agent.map(|agent| format!("{agent}{version}")));
    page.line("Continues", result.text("continues"));
    let notes = around(": ", result.text("audit_notes"), "");
    page.line("Audit", score.map(|score| format!("{score} of 100{notes}")));
    page.line("Check", check(&result.list("checks")));
    let change = result.change();
    let patch = change.as_ref().and_then(|change| change.patch.as_ref());
    let hint = patch.map_or(String::new(), |_| format!("\n  job-monitor diff {id}"));
    let change = change.as_ref().and_then(change_line);
    page.line("Changed", change.map(|line| line + &hint));
    page.line("Denied tools", denials(result));
    let joined = |list: Vec<String>, gap| (!list.is_empty()).then(|| list.join(gap));
    let servers = joined(result.list("failed_mcp_servers"), ", ");
    page.line("MCP servers missing", servers);
    let paths = joined(result.list("artifacts"), "\n  ");
    page.line("Artifacts", paths.map(|paths| format!("\n  {paths}")));
    let summary = result.output().text("summary");
    let summary = summary.or_else(|| result.text("worker_output"));
    page.line("Summary", summary.as_deref().map(without_audit));
    page.line("Usage", usage(result));
    let hint = format!("job-monitor reply {id} -\n  job-monitor open {id}");
    let session = result.text("session_id");
    let session = session.map(|session| format!("{session}\n  {hint}"));
    page.line("Session", session);
    page
}

/// A text with something around it, where there is one.
fn around(before: &str, text: Option<String>, behind: &str) -> String {
    let text = text.map(|text| format!("{before}{text}{behind}"));
    text.unwrap_or_default()
}

/// The answer without its closing audit block, which is told in words.
fn without_audit(summary: &str) -> &str {
    let (before, block) = summary.rsplit_once("```json").unwrap_or((summary, ""));
    let behind = block.split_once("```").map_or("", |(_, behind)| behind);
    let is_audit = block.contains("\"audit_score\"") && behind.trim().is_empty();
    (if is_audit { before } else { summary }).trim_end()
}

fn usage(result: &Finished) -> Option<String> {
    let mut told = String::new();
    if let Some(usage) = result.output().get::<Map<String, Value>>("usage") {
        let tokens = |key: &str| usage.get(key).and_then(Value::as_u64).unwrap_or(0);
        let (input, output) = (tokens("input_tokens"), tokens("output_tokens"));
        told = format!("\n  Tokens: {input} in, {output} out");
        let kinds = ["cache_creation", "cache_read", "cached"];
        let cached = kinds.map(|kind| tokens(&format!("{kind}_input_tokens")));
        let cached = cached.into_iter().reduce(u64::saturating_add);
        let cached = cached.filter(|cached| *cached > 0);
        told.extend(cached.map(|cached| format!(", {cached} cached")));
    }
    told.extend(result.cost().map(|cost| format!("\n  Cost: {cost}")));
    (!told.is_empty()).then_some(told)
}

fn check(checks: &[Check]) -> Option<String> {
    let last = checks.last()?;
    let mut text = check_end(last);
    if checks.len() > 1 {
        text += &format!(" at try {}", checks.len());
    }
    if last.exit_code != Some(0) {
        let lines: Vec<&str> = last.output.trim_end().lines().collect();
        let shown = &lines[lines.len().saturating_sub(CHECK_LINES)..];
        text.extend(shown.iter().map(|line| format!("\n  {line}")));
    }
    Some(text)
}

/// What was refused, and how to allow it: the agent went on without, so that the answer may say
/// "done" of something that was not.
fn denials(result: &Finished) -> Option<String> {
    let denials: Vec<Value> = result.list("permission_denials");
    let (mut text, mut rules) = (String::new(), Vec::new());
    for denial in &denials {
        let word = |of: &Value| of.as_str().map(clean_line);
        let tool = word(&denial["tool_name"]).unwrap_or_else(|| "unknown".to_owned());
        let keys = ["command", "file_path", "url", "query", "pattern"];
        let subject = keys.iter().find_map(|key| word(&denial["tool_input"][key]));
        let subject = subject.unwrap_or_default();
        let program = subject
            .split(' ')
            .find(|word| tool == "Bash" && !word.is_empty());
        let rule = program.map_or(tool.clone(), |program| format!("Bash({program} *)"));
        if !rules.contains(&rule) && rules.len() < DENIALS_SHOWN {
            let told = format!("{tool}: {}", fit(&subject, 100));
            text += &format!("\n  {}", told.trim_end_matches(": "));
            rules.push(rule);
        }
    }
    if denials.len() > rules.len() {
        text += &format!("\n  {} times in all", denials.len());
    }
    let agent = clean_line(result.text("agent").as_deref().unwrap_or("claude"));
    let args = json!(["--allowedTools", rules.join(" ")]);
    (!denials.is_empty()).then(|| format!(
        "{text}\n  To allow them, in config.json:\n    \"agents\": {{\"{agent}\": {{\"args\": {args}}}}}\n  \
         or in .claude/settings.json, if the project is trusted (run claude in it)"
    ))
}
