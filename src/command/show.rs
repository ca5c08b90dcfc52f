//! `show`: one job, wherever it stands.

use super::*;

/// So many refused tools are named; a run can be refused hundreds.
const DENIALS_SHOWN: usize = 10;

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
pub(super) fn job(scope: &Scope, typed: Option<&String>, format: Format) -> Result<Exit> {
    let blank = |id: &JobId| {
        json!({"job_id": id, "project": null, "state": "not_found", "position": null,
            "started_at": null, "attempt": null, "retry_at": null, "cancelled": false, "obstacles": [], "result": null})
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
        Standing::Done(file) => {
            view["state"] = json!("done");
            let result = ResultView::need(spool, id, &file);
            if result.is_err() {
                render::answer(format, &view, || Page::of("unreadable", id).0)?;
            }
            let page = of_result(spool, id, &result?);
            if format == Format::Json {
                return show_whole(&view, file).map(|()| Exit::Done);
            }
            page
        }
        Standing::Running(claim) => {
            view["state"] = json!("running");
            view["started_at"] = json!(claim.started_at);
            view["attempt"] = json!(claim.starts);
            of_running(spool, &claim)?
        }
        Standing::Waiting(claim) => of_waiting(&mut view, scope, &job, claim.as_deref())?,
    };
    render::answer(format, &view, || page.0)?;
    Ok(Exit::Done)
}

/// Answers with the result as it was written, line by line, since it may be large.
fn show_whole(view: &Value, mut file: File) -> Result<()> {
    let failed = |e| Error::io("read", Path::new("the result"), e);
    let (view, member) = (render::json(view) + "\n", "\"result\":");
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
fn of_waiting(view: &mut Value, scope: &Scope, job: &Job, claim: Option<&Claim>) -> Result<Page> {
    let Job { id, spool } = job;
    let (seen, now) = (Seen::around(scope, spool)?, Wall::now());
    let is_in = |marks: &BTreeSet<JobId>| marks.contains(id);
    let (held, cancelled) = (is_in(&seen.marks.held), is_in(&seen.marks.cancelled));
    let place = seen.all().position(|waiting| waiting == id);
    let place = place.map(|at| at + 1);
    view["state"] = json!(if held { "held" } else { "waiting" });
    view["cancelled"] = json!(cancelled);
    view["position"] = json!(place);
    view["attempt"] = json!(claim.map(|claim| claim.starts));
    view["retry_at"] = json!(claim.and_then(retry_at));
    view["obstacles"] = json!(seen.obstacle_lines());
    let mut page = Page::of("waiting", id);
    let meta = spool.document_meta(id)?;
    page.line("Created", meta.map(|meta| meta.mtime()));
    page.line("Size", meta.map(|meta| format!("{} bytes", meta.size)));
    if cancelled {
        page.line("Cancelled", Some(CANCELLED));
        return Ok(page);
    }
    let of_all = |place| format!("{place} of {}", seen.all().count());
    page.line("Queue position", place.map(of_all));
    page.line("Left alone", seen.left_alone(id));
    let release = || format!("job-monitor release {id} lets it run");
    page.line("Held", held.then(release));
    page.line("Suspended", claim.map(|claim| suspension_text(claim, now)));
    let at = put_off(spool, id, now).filter(|_| claim.is_none());
    page.line("Not before", at.map(|at| at.short(now)));
    for (word, why) in &seen.obstacles {
        page.line(word, Some(why));
    }
    Ok(page)
}

fn not_found(scope: &Scope, id: &JobId) -> Page {
    let places = |entry: &Entry| {
        let Project { path, layout, name } = &entry.project;
        let places = [layout.state(), layout.items(), layout.results()];
        let path = path.display();
        match scope.entries.len() {
            1 => places.map(|place| format!("\n  - {path}/{place}")).concat(),
            // Three lines for each would be many.
            _ => format!("\n  - {} of \"{name}\"", places.join(", ")),
        }
    };
    let places: String = scope.entries.iter().map(places).collect();
    let mut page = Page::of("not_found", id);
    let head = "The job was not found in any of the following locations";
    page.line(head, Some(places));
    page
}

fn of_running(spool: &Spool, claim: &Claim) -> Result<Page> {
    let now = Wall::now();
    let mut page = Page::of("processing", &claim.job_id);
    page.line("Started", Some(claim.started_at));
    page.line("Elapsed", Some(running_for(claim, now)));
    page.line("Last activity", Some(action(spool, claim, now)?));
    page.line("Project", Some(&spool.project().name));
    page.line("Agent", Some(&claim.agent));
    Ok(page)
}

fn of_result(spool: &Spool, id: &JobId, result: &ResultView) -> Page {
    let mut page = Page::of(&result.word(), id);
    let seconds = result.duration_seconds;
    page.line("Duration", seconds.map(|all| format!("{all:.2} seconds")));
    let kind = result.error_kind.as_ref();
    let kind = kind.map_or(String::new(), |kind| format!(" ({kind})"));
    let error = result.error.as_ref();
    page.line("Error", error.map(|error| format!("{error}{kind}")));
    page.line("Started", result.started_at);
    page.line("Ended", result.completed_at);
    let agent = result.agent.as_ref();
    page.line("Project", agent.map(|_| &spool.project().name));
    page.line("Agent", agent);
    let notes = result.audit_notes.as_ref();
    let notes = notes.map_or(String::new(), |notes| format!(": {notes}"));
    let score = result.audit_score;
    page.line("Audit", score.map(|score| format!("{score} of 100{notes}")));
    page.line("Check", last_check(&result.checks));
    let change = result.git.as_ref();
    let change = change.filter(|change| change.files > Some(0) || change.commits > Some(0));
    let hint = format!("\n  job-monitor diff {id}");
    page.line("Changed", change.map(|change| change_line(change) + &hint));
    page.line("Denied tools", denials(result));
    let servers = Some(result.failed_mcp_servers.join(", "));
    let servers = servers.filter(|all| !all.is_empty());
    page.line("MCP servers missing", servers);
    let summary = result.worker_output.summary.as_deref();
    page.line("Summary", summary.map(without_audit));
    page.line("Usage", usage(result));
    let hint = format!("\n  job-monitor reply {id} -\n  job-monitor open {id}");
    let session = result.session_id.as_ref();
    page.line("Session", session.map(|session| format!("{session}{hint}")));
    page
}

/// The answer without its audit block, which is told in words.
fn without_audit(summary: &str) -> String {
    let found = audit(summary).filter(|(_, audit, _)| audit.score.is_some());
    let (before, behind) = found.map_or((summary, ""), |(before, _, behind)| (before, behind));
    let text = format!("{}\n{}", before.trim_end(), behind.trim());
    text.trim_end().to_owned()
}

fn usage(result: &ResultView) -> Option<String> {
    let usage = result.worker_output.usage();
    let tokens = |key: &str| usage[key].as_u64().unwrap_or(0);
    let (input, output) = (tokens("input_tokens"), tokens("output_tokens"));
    let tokens = || format!("\n  Tokens: {input} in, {output} out");
    let tokens = usage.is_object().then(tokens);
    let cost = result.cost().map(|cost| format!("\n  Cost: {cost}"));
    let told: String = tokens.into_iter().chain(cost).collect();
    Some(told).filter(|told| !told.is_empty())
}

/// What was refused, and how to allow it: the agent went on without, so that the answer may say
/// "done" of something that was not.
fn denials(result: &ResultView) -> Option<String> {
    let denials = result.permission_denials.as_deref()?;
    let (mut lines, mut rules) = (Vec::new(), BTreeSet::new());
    for denial in denials.iter().take(DENIALS_SHOWN) {
        let (tool, input) = (denial["tool_name"].as_str(), &denial["tool_input"]);
        let tool = clean_line(tool.unwrap_or("unknown"));
        let subject = fit(&transcript::subject(&input.to_string()), 100);
        let gap = if subject.is_empty() { "" } else { ": " };
        lines.push(format!("{tool}{gap}{subject}"));
        let command = input["command"].as_str().filter(|_| tool == "Bash");
        let program = command.and_then(|command| command.split_whitespace().next());
        rules.insert(program.map_or(tool.clone(), |program| format!("{tool}({program} *)")));
    }
    lines.first()?;
    lines.dedup();
    if denials.len() > DENIALS_SHOWN {
        lines.push(format!("and {} more", denials.len() - DENIALS_SHOWN));
    }
    let agent = result.agent.as_deref().unwrap_or("claude");
    let rules = Vec::from_iter(rules).join(" ");
    let args = json!({agent: {"args": ["--allowedTools", rules]}});
    lines.push(format!("to allow them, in config.json: \"agents\": {args}"));
    Some(format!("\n  {}", lines.join("\n  ")))
}
