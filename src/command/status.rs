//! `status`: the finished jobs, newest first. They are told as they are read, so that memory does not
//! grow with their number.

use super::finished::{Brief, newest};
use super::projects::Scope;
use crate::board;
use crate::cli::Format;
use crate::error::Result;
use crate::job::JobId;
use crate::peek::Peek;
use crate::record::HoldView;
use crate::render::{self, Pager, Style, clean};
use crate::spool::Spool;
use crate::time::{Wall, human};
use serde::Serialize;
use std::fmt::Write;

#[derive(Serialize)]
struct FinishedJob<'a> {
    job_id: JobId,
    project: &'a str,
    status: String,
    error_kind: Option<String>,
    completed_at: Option<Wall>,
    duration_seconds: Option<f64>,
    cost_usd: Option<f64>,
}

/// Tells the finished jobs, at most `limit` of them.
pub(super) fn status(scope: &Scope, limit: Option<usize>, format: Format) -> Result<()> {
    let spools = scope.spools();
    let mut out = Pager::default();
    let told = match format {
        Format::Text => as_text(&spools, limit, &mut out),
        Format::Json => as_json(scope, &spools, limit, &mut out),
    };
    render::unless_gone(told.and_then(|()| out.flush()))
}

fn as_text(spools: &[Spool], limit: Option<usize>, out: &mut Pager) -> Result<()> {
    out.put("Completed jobs:\n")?;
    let style = Style::of_stdout();
    let marks = [false, true].map(|good| style.mark(good));
    let (mut peek, mut shown) = (Peek::default(), 0);
    let total = newest(spools, limit, &mut |at, id| {
        let spool = &spools[at];
        let brief = read(spool, &id, &mut peek);
        let status = brief.status();
        let mark = &marks[usize::from(status == "completed")];
        let mut line = format!("  {mark} {id}: {}", clean(&status));
        if let Some(kind) = brief.remark() {
            let _ = write!(line, " ({})", clean(&kind));
        }
        if let Some(duration) = brief.duration() {
            let _ = write!(line, ", {}", human(duration));
        }
        if let Some(cost) = brief.cost_usd() {
            let _ = write!(line, ", ${cost:.4}");
        }
        if spools.len() > 1 {
            let _ = write!(line, "  [{}]", clean(&spool.project().name));
        }
        line.push('\n');
        shown += 1;
        out.put(&line)
    })?;
    if total == 0 {
        out.put("  none yet\n")?;
    }
    if shown < total {
        out.put(&format!("  and {} more; --all shows them\n", total - shown))?;
    }
    Ok(())
}

/// One that has gone meanwhile is as good as one that cannot be read.
fn read(spool: &Spool, id: &JobId, peek: &mut Peek) -> Brief {
    match spool.open_result(id) {
        Ok(Some(result)) => Brief::for_list(&result, peek),
        _ => Brief::unreadable(),
    }
}

fn as_json(scope: &Scope, spools: &[Spool], limit: Option<usize>, out: &mut Pager) -> Result<()> {
    out.put("{\"jobs\":[")?;
    let (mut peek, mut gap) = (Peek::default(), "");
    newest(spools, limit, &mut |at, id| {
        let brief = read(&spools[at], &id, &mut peek);
        out.put(std::mem::replace(&mut gap, ","))?;
        out.put(&render::json(&FinishedJob {
            job_id: id,
            project: &spools[at].project().name,
            status: brief.status(),
            error_kind: brief.error_kind(),
            completed_at: brief.completed_at(),
            duration_seconds: brief.seconds(),
            cost_usd: brief.cost_usd(),
        })?)
    })?;
    let now = Wall::now();
    let records = board::read(&scope.places.state);
    let holds: Vec<HoldView> = records
        .all(now)
        .into_iter()
        .map(|hold| hold.view(now))
        .collect();
    out.put(&format!("],\"holds\":{}}}\n", render::json(&holds)?))
}
