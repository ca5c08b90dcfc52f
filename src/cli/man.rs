//! The manual page, in the man(7) macros. Commands, options and examples come from the table;
//! what only a manual tells (files, environment, exit status) stands here.

use super::help::{sentence, signature, synopsis, wrapped};
use super::{COMMANDS, CommandSpec, GLOBALS, OptionSpec};

/// The day on which the texts below were last revised. A page needs one, and the day of the
/// build would make two builds differ.
const REVISED: &str = "2026-11-21";

const DESCRIPTION: &[&str] = &[
    "job-monitor carries out jobs with a coding agent while you are away. Each registered \
     project has a spool, jobs/items/. A Markdown file that appears there is a job; the agent \
     carries it out with the project's root as its working directory; the outcome is one JSON \
     file in jobs/results/. The jobs of a project run one at a time, in the order of their \
     names; projects run in parallel.",
    "A job document is named job-YYYYMMDD-HHMMSS-DESCRIPTION.md. Its name without the ending is \
     the job's id; commands take it with or without. A document may be written by any means; \
     job-monitor submit is one. Deleting a waiting document withdraws the job. Front matter \
     (timeout, model, max-turns, max-budget-usd, retries) may tighten what the settings allow.",
    "Without -p a command is about the project around the current directory, or else about the \
     only one registered. With several to choose from, a command that reads tells of all of \
     them, and any other asks for -p.",
    "Every command answers the same whether or not the daemon runs; when it does not, a line on \
     standard error says so.",
];

const EXIT_STATUS: &[(&str, &str)] = &[
    ("0", "Done."),
    (
        "1",
        "Something failed: input or output, the daemon, or doctor found a problem.",
    ),
    ("2", "The command line was not understood."),
    ("3", "There is no such job or project."),
    (
        "4",
        "A job that was waited for did not complete (wait, submit --wait, submit --follow).",
    ),
    ("5", "The daemon runs already."),
    ("124", "The time of wait --timeout ran out."),
];

const FILES: &[(&str, &str)] = &[
    (
        "~/.config/job-monitor/registered.json",
        "The registry of projects. The daemon follows it.",
    ),
    (
        "~/.config/job-monitor/config.json",
        "Settings; may be missing.",
    ),
    (
        "~/.config/job-monitor/.env",
        "Credentials for agents, KEY=VALUE in each line, readable by you alone; may be missing.",
    ),
    ("~/.local/state/job-monitor/", "The daemon's own state."),
    ("~/.config/systemd/user/job-monitor.service", "The service."),
    (
        "PROJECT/jobs/items/",
        "Job documents. In the layout tasks: PROJECT/tasks/.",
    ),
    (
        "PROJECT/jobs/results/",
        "Results, one JSON document for each job that is done.",
    ),
    (
        "PROJECT/jobs/state/",
        "What the daemon knows of jobs that are not done.",
    ),
    (
        "PROJECT/jobs/logs/",
        "What agents wrote, the text that ran, and monitor.log.",
    ),
];

const ENVIRONMENT: &[(&str, &str)] = &[
    (
        "MONITOR_SYSTEM_ROOT",
        "The absolute path of a directory that takes the place of ~/.config/job-monitor; the \
         state is in state/ in it.",
    ),
    ("XDG_CONFIG_HOME", "Takes the place of ~/.config."),
    ("XDG_STATE_HOME", "Takes the place of ~/.local/state."),
    ("NO_COLOR", "No colour, if set to anything."),
    ("VISUAL, EDITOR", "The editor of submit without FILE."),
    (
        "JOB_MONITOR_JOB_ID, JOB_MONITOR_PROJECT, JOB_MONITOR_RUN",
        "Given to agents: the job, the project's name, and a token of this start.",
    ),
    (
        "JOB_MONITOR_STATUS, JOB_MONITOR_ERROR_KIND, JOB_MONITOR_RESULT, JOB_MONITOR_DURATION, \
         JOB_MONITOR_COST_USD",
        "Given to the command on_finish of the settings, with JOB_MONITOR_JOB_ID and \
         JOB_MONITOR_PROJECT: the outcome, the path of the result, seconds and US dollars.",
    ),
];

/// `job-monitor(1)`.
pub fn man_page() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut page = format!(
        ".TH JOB\\-MONITOR 1 {REVISED} \"job\\-monitor {version}\" \"User Commands\"\n\
         .nh\n.ad l\n.SH NAME\njob\\-monitor \\- carry out a queue of coding-agent jobs\n\
         .SH SYNOPSIS\n.B job\\-monitor\n.RB [ \\-p\n.IR PROJECT ]\n.I COMMAND\n.br\n\
         .B job\\-monitor\n.I ID\n.SH DESCRIPTION\n"
    );
    page += &paragraphs(DESCRIPTION);
    page += ".SH COMMANDS\n";
    let mut group = None;
    for spec in COMMANDS {
        if group.replace(spec.group) != Some(spec.group) {
            page += &format!(".SS {:?}\n", spec.group);
        }
        page += &command(spec);
    }
    page += ".SH OPTIONS\nThese are accepted before and after the command.\n";
    page.extend(GLOBALS.iter().map(option));
    for (heading, rows) in [
        ("EXIT STATUS", EXIT_STATUS),
        ("FILES", FILES),
        ("ENVIRONMENT", ENVIRONMENT),
    ] {
        page += &format!(".SH {heading}\n");
        page.extend(rows.iter().map(|(term, text)| item(term, text)));
    }
    page += ".SH EXAMPLES\n";
    let examples = COMMANDS.iter().flat_map(|spec| spec.examples);
    let examples = examples.map(|(line, purpose)| {
        let (line, purpose) = (escaped(line), filled(purpose));
        format!("{purpose}.PP\n.RS 4\n.EX\n{line}\n.EE\n.RE\n")
    });
    page += &examples.collect::<Vec<_>>().join(".PP\n");
    page + ".SH SEE ALSO\n.BR systemctl (1),\n.BR journalctl (1)\n"
}

fn command(spec: &CommandSpec) -> String {
    let usage = synopsis(spec);
    let usage = usage.strip_prefix("job-monitor ").unwrap_or(&usage);
    let mut text = item(usage, &format!("{}.", sentence(spec.summary)));
    if spec.details.is_empty() && spec.options.is_empty() {
        return text;
    }
    text += ".RS\n";
    if !spec.details.is_empty() {
        text += &format!(".PP\n{}", paragraphs(spec.details));
    }
    text.extend(spec.options.iter().map(option));
    text + ".RE\n"
}

fn option(option: &OptionSpec) -> String {
    item(&signature(option), &format!("{}.", sentence(option.help)))
}

fn item(term: &str, text: &str) -> String {
    format!(".TP\n.B {}\n{}", escaped(term), filled(text))
}

fn paragraphs(texts: &[&str]) -> String {
    let filled: Vec<_> = texts.iter().map(|text| filled(text)).collect();
    filled.join(".PP\n")
}

/// A paragraph in lines of a width that people can edit.
fn filled(text: &str) -> String {
    let lines = wrapped(&escaped(text), 0);
    lines
        .lines()
        .map(|line| format!("{}{line}\n", if line.starts_with('.') { "\\&" } else { "" }))
        .collect()
}

/// Text as roff prints it unchanged, with hyphens that can be pasted.
fn escaped(text: &str) -> String {
    let mut roff = String::new();
    for letter in text.chars() {
        match letter {
            '\\' => roff.push_str("\\e"),
            '-' => roff.push_str("\\-"),
            '\'' => roff.push_str("\\(aq"),
            '`' => roff.push_str("\\(ga"),
            '^' => roff.push_str("\\(ha"),
            '~' => roff.push_str("\\(ti"),
            '"' => roff.push_str("\\(dq"),
            _ => roff.push(letter),
        }
    }
    roff
}
