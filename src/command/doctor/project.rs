//! A project: its directories, the documents in them, and what its agent finds there.

use super::ask::variable;
use super::{
    Finding, Level, Task, World, agent, edit, machine, quoted, quoted_path, without_advice,
};
use crate::files;
use crate::job::Name;
use crate::project::{AgentSpec, Policy, Project, Protocol};
use crate::record::Object;
use crate::spool::{Leftovers, Spool};
use serde_json::Value;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The CLI keeps histories in it.
const CLI_CONFIG_MAX: u64 = 256 << 20;
const CLI_SETTINGS_MAX: u64 = 4 << 20;
/// So many odd documents are named.
const ODD_SHOWN: usize = 3;

/// The checks of a project.
pub(super) fn check(world: &Arc<World>, project: Project, policy: Policy) -> Task {
    let env = agent::environment(world, &policy.agent);
    let name = project.name.clone();
    Task::start("directories", Some(&name), None, move || {
        let mut findings = spool_findings(&project);
        let there = findings.iter().all(|f| f.level != Level::Problem);
        if there && policy.agent.protocol == Protocol::Claude {
            findings.push(skill_finding(&project, &policy.agent));
            findings.extend(trust_finding(&project, &policy.agent, &env));
        }
        findings
    })
}

fn spool_findings(project: &Project) -> Vec<Finding> {
    let root = &project.path;
    let layout = project.layout;
    let problem = |message: String| Finding::problem("directories", message);
    if let Err(error) = std::fs::read_dir(root) {
        let error = crate::error::Error::io("open directory", root, error);
        let remedy = format!("job-monitor unregister {}", quoted(&project.name));
        let message = format!("{error}; mount or restore it, or take the project out:");
        return vec![problem(message).remedy(remedy)];
    }
    let items = root.join(layout.items());
    if !items.exists() {
        let message = format!("{} is not there", items.display());
        return vec![problem(message).remedy(format!("mkdir -p {}", quoted_path(&items)))];
    }
    let below = [
        layout.items(),
        layout.results(),
        layout.state(),
        layout.logs(),
    ];
    let above = layout.items().rsplit_once('/').map(|(above, _)| above);
    let opened = Spool::open(project);
    let refused = opened.as_ref().err().map(without_advice);
    // The spool says what it refuses, a look at each directory how to mend it.
    let looks = above.into_iter().chain(below).filter_map(|part| {
        let path = root.join(part);
        machine::directory(&path, 0).or_else(|| {
            let wide = machine::directory(&path, 0o022)?;
            let is_this = |why: &String| why.contains(&format!("{} ", path.display()));
            refused.as_ref().is_some_and(is_this).then_some(wide)
        })
    });
    let mut findings: Vec<Finding> = looks.collect();
    if findings.is_empty() {
        findings.extend(refused.map(problem));
    }
    let Ok(spool) = opened else { return findings };
    if findings.is_empty() {
        let message = format!("{} is in order", spool.items_path().display());
        findings.push(Finding::ok("directories", message));
    }
    findings.extend(machine::disk(root));
    findings.extend(odd_finding(&spool));
    findings
}

/// What lies among the documents and will never run.
fn odd_finding(spool: &Spool) -> Option<Finding> {
    let odd = match spool.scan(Leftovers::Leave) {
        Ok(scan) => scan.odd,
        Err(error) => return Some(Finding::problem("documents", error.to_string())),
    };
    let (name, why) = odd.first()?;
    let names: Vec<_> = odd
        .iter()
        .map(|(name, _)| name.as_str())
        .take(ODD_SHOWN)
        .collect();
    let message = match odd.len() {
        1 => format!("{name} is not run: {why}"),
        count => format!(
            "{count} documents are not run, among them {}: {why}",
            names.join(", ")
        ),
    };
    let path = spool.items_path().join(name);
    let is_bad_name = Name::of(name, spool.layout()) == Name::Bad;
    // What has only a bad name can be handed in under a good one.
    let remedy = match is_bad_name && path.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
        true => format!(
            "job-monitor -p {} submit {path} && rm {path}",
            quoted(&spool.project().name),
            path = quoted_path(&path)
        ),
        false => format!("ls -l {}", quoted_path(&path)),
    };
    Some(Finding::warning("documents", message).remedy(remedy))
}

/// The command that the prompt calls: of the built-in one, or of a template's first word.
fn skill_finding(project: &Project, agent: &AgentSpec) -> Finding {
    let called = match &agent.prompt {
        None => "task-coordination",
        Some(prompt) => {
            let word = prompt.split_whitespace().next().unwrap_or_default();
            match word.strip_prefix('/').filter(|_| prompt.starts_with('/')) {
                Some(name) if is_command_name(name) => name,
                _ => return Finding::ok("skill", "the prompt of the settings calls none"),
            }
        }
    };
    let claude = project.path.join(".claude");
    let places = [
        claude.join("skills").join(called).join("SKILL.md"),
        claude.join("commands").join(format!("{called}.md")),
    ];
    if places.iter().any(|place| place.is_file()) {
        return Finding::ok("skill", format!("/{called} is there"));
    }
    let message = format!("the project has no skill {called}, so jobs go to the agent without it");
    let finding = Finding::warning("skill", message);
    match agent.prompt {
        None => finding.remedy(format!(
            "job-monitor register --skills {}",
            quoted_path(&project.path)
        )),
        Some(_) => finding.remedy(edit(&places[0])),
    }
}

fn is_command_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    !name.is_empty() && name.chars().all(fits)
}

/// Whether the agent heeds the project's own list of allowed tools.
fn trust_finding(
    project: &Project,
    agent: &AgentSpec,
    env: &[(OsString, OsString)],
) -> Option<Finding> {
    let root = std::fs::canonicalize(&project.path).ok()?;
    let path = root.join(".claude/settings.json");
    let settings = match files::read_path(&path, CLI_SETTINGS_MAX) {
        Ok(None) => return None,
        Ok(Some(bytes)) => serde_json::from_slice::<Value>(&bytes).map_err(|e| e.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let settings = match settings {
        Ok(settings) => settings,
        Err(why) => {
            let message = format!("the agent ignores {}: {why}", path.display());
            return Some(Finding::warning("trust", message).remedy(edit(&path)));
        }
    };
    let rules = settings["permissions"]["allow"]
        .as_array()
        .map_or(0, Vec::len);
    if rules == 0 {
        return None;
    }
    if is_trusted(&root, env) {
        return Some(Finding::ok("trust", "the workspace is trusted"));
    }
    let message = format!(
        "the agent ignores what {} allows, since it was never told to trust this directory; start \
         it there once and say yes:",
        path.display()
    );
    let program = quoted(&agent.command[0]);
    let remedy = format!("cd {} && {program}", quoted_path(&root));
    Some(Finding::warning("trust", message).remedy(remedy))
}

/// The CLI keeps the answers to its question by the real path of the directory.
fn is_trusted(root: &Path, env: &[(OsString, OsString)]) -> bool {
    let directory = variable(env, "CLAUDE_CONFIG_DIR").or_else(|| variable(env, "HOME"));
    let Some(directory) = directory else {
        return false;
    };
    let path = PathBuf::from(directory).join(".claude.json");
    let Ok(Some(bytes)) = files::read_path(&path, CLI_CONFIG_MAX) else {
        return false;
    };
    let answer = serde_json::from_slice::<Object>(&bytes)
        .ok()
        .and_then(|config| {
            let entry: Object = config
                .read::<Object>("projects")?
                .read(&root.to_string_lossy())?;
            entry.read("hasTrustDialogAccepted")
        });
    answer.unwrap_or(false)
}
