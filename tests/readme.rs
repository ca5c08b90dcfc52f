//! What the README and the skills say is what the program does: a command, a setting, a kind of
//! error or an exit status that is missing there, or only there, fails here.

use job_monitor::cli::{CommandHelp, commands};
use job_monitor::error::Exit;
use job_monitor::job::{Course, ErrorKind};
use job_monitor::settings::{self, is_project_setting};
use job_monitor::skills::SKILLS;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn readme() -> String {
    read("README.md")
}

/// The README's text from a heading to the next one of the same or a higher level.
fn section(readme: &str, heading: &str) -> String {
    let level = heading.chars().take_while(|c| *c == '#').count();
    let mut lines = readme.lines().skip_while(|line| *line != heading);
    assert_eq!(lines.next(), Some(heading), "the README has this heading");
    let is_next = |line: &&str| {
        let signs = line.chars().take_while(|c| *c == '#').count();
        (1..=level).contains(&signs) && line[signs..].starts_with(' ')
    };
    // A comment of a shell block looks like a heading.
    let mut in_block = false;
    let body: Vec<&str> = lines
        .take_while(|line| {
            in_block ^= line.starts_with("```");
            in_block || !is_next(line)
        })
        .collect();
    body.join("\n")
}

/// The cells of a section's table rows, the heads left out.
fn rows(section: &str) -> Vec<Vec<String>> {
    let lines: Vec<&str> = section.lines().collect();
    let is_row = |at: &usize| lines[*at].starts_with('|') && !lines[*at].starts_with("|---");
    let is_head = |at: &usize| {
        lines
            .get(at + 1)
            .is_some_and(|next| next.starts_with("|---"))
    };
    (0..lines.len())
        .filter(|at| is_row(at) && !is_head(at))
        .map(|at| {
            let row = lines[at].trim().trim_matches('|');
            row.split(" | ")
                .map(|cell| cell.trim().to_owned())
                .collect()
        })
        .collect()
}

/// The texts in backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The first words in backquotes of each row's first cell.
fn names(section: &str) -> BTreeSet<String> {
    let rows = rows(section);
    let words = rows.iter().flat_map(|row| quoted(&row[0]));
    words
        .filter_map(|quoted| quoted.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

/// The fenced blocks of a language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(info) = line.strip_prefix("```") {
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            if info == language {
                blocks.push(block.join("\n"));
            }
        }
    }
    blocks
}

#[test]
fn every_command_is_in_the_table_and_none_that_there_is_not() {
    let readme = readme();
    let commands: BTreeSet<String> = commands().map(|row| row.name.to_owned()).collect();
    let mut told = names(&section(&readme, "## Commands"));
    told.retain(|name| name.chars().all(|c| c.is_ascii_lowercase()));
    assert!(told.is_subset(&commands), "{told:?}");
}

#[test]
fn every_option_that_a_command_line_of_the_readme_has_exists() {
    let readme = readme();
    let known: BTreeSet<String> = commands()
        .flat_map(CommandHelp::options)
        .map(|(long, _)| format!("--{long}"))
        .collect();
    let table = section(&readme, "## Commands");
    let options = quoted(&table).flat_map(str::split_whitespace);
    let mut seen = 0;
    for option in options.filter(|word| word.starts_with("--")) {
        assert!(
            known.contains(option),
            "{option} is an option of no command"
        );
        seen += 1;
    }
    assert!(seen > 5, "the table has options");
}

#[test]
fn commands_that_answer_in_json_are_named() {
    let readme = readme();
    let table = section(&readme, "## Commands");
    let line = table
        .split("\n\n")
        .find(|part| part.contains("`--json`"))
        .expect("a paragraph on --json");
    let sentence = line
        .split(". ")
        .find(|part| part.contains("`--json`"))
        .unwrap();
    let has_json = |row: &CommandHelp| row.options().any(|(long, _)| long == "json");
    for row in commands().filter(|row| has_json(row) && row.name != "config") {
        assert!(
            sentence.contains(&format!("`{}`", row.name)),
            "{}",
            row.name
        );
    }
}

#[test]
fn every_exit_status_is_told() {
    let readme = readme();
    let table = section(&readme, "## Commands");
    let told: BTreeSet<u8> = rows(&table)
        .iter()
        .filter_map(|row| row[0].parse().ok())
        .collect();
    let all = [
        Exit::Done,
        Exit::Failed,
        Exit::Usage,
        Exit::NotFound,
        Exit::NotCompleted,
        Exit::AlreadyRunning,
        Exit::TimedOut,
    ];
    assert_eq!(told, all.iter().map(|exit| *exit as u8).collect());
}

#[test]
fn every_setting_is_in_the_table_and_none_that_there_is_not() {
    let readme = readme();
    let keys = settings::KEYS.iter().chain(settings::GLOBAL_KEYS);
    let known = keys.map(|(key, _)| (*key).to_owned()).collect();
    assert_eq!(names(&section(&readme, "## Settings")), known);
    let agents = section(&readme, "## Agents");
    let (own, _) = agents.split_once("### ").unwrap();
    let known = settings::AGENT_KEYS.iter().map(|key| (*key).to_owned());
    assert_eq!(names(own), known.collect());
}

#[test]
fn every_example_of_settings_is_one() {
    let readme = readme();
    let dir = std::env::temp_dir().join(format!("job-monitor-readme-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join("config.json");
    let mut agents = BTreeSet::new();
    for block in blocks(&readme, "json") {
        let value: Value = serde_json::from_str(&block).unwrap_or_else(|e| panic!("{e}: {block}"));
        if let Some(projects) = value.get("projects") {
            let entries = projects.as_object().unwrap().values();
            for key in entries.flat_map(|entry| entry.as_object().unwrap().keys()) {
                let own = ["path", "enabled", "registered_at"].contains(&key.as_str());
                assert!(own || is_project_setting(key), "{key}");
            }
            continue;
        }
        fs::write(&path, &block).unwrap();
        let (settings, warnings) = settings::load(&path).unwrap_or_else(|e| panic!("{e}: {block}"));
        assert!(warnings.is_empty(), "{warnings:?}");
        agents.insert(settings.policy(&Map::new()).unwrap().agent.name);
    }
    fs::remove_dir_all(&dir).unwrap();
    let wanted = ["aider", "claude", "codex", "gemini", "opencode"];
    assert_eq!(agents, wanted.map(str::to_owned).into());
}

#[test]
fn every_kind_of_error_is_told_with_what_follows() {
    let readme = readme();
    let table = rows(&section(&readme, "## When an attempt fails"));
    let told: Vec<&str> = table.iter().map(|row| row[0].trim_matches('`')).collect();
    let known: Vec<&str> = ErrorKind::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(told, known);
    for (row, kind) in table.iter().zip(ErrorKind::ALL) {
        let word = match kind.course() {
            Course::Hold => "hold",
            Course::Retry => "retry",
            Course::Resume => "resume",
            Course::End if *kind == ErrorKind::Cancelled => "cancelled",
            Course::End => "failed",
        };
        assert!(row[2].starts_with(word), "{kind}: {}", row[2]);
    }
}

#[test]
fn front_matter_in_the_examples_is_front_matter() {
    let meta = job_monitor::job::Meta {
        size: 0,
        mtime_ns: 0,
        mode: 0o600,
        uid: 0,
    };
    let writer = SKILLS
        .iter()
        .find(|(name, _)| *name == "job-document-writer")
        .unwrap()
        .1;
    let mut seen = 0;
    for text in [readme().as_str(), writer] {
        let examples = blocks(text, "markdown");
        for example in examples.iter().filter(|text| text.starts_with("---")) {
            let example = format!("{example}\n# Something to do\n");
            let document =
                job_monitor::document::check(example.as_bytes(), &meta, 1 << 20, true).unwrap();
            let wishes = document.wishes;
            assert!(wishes.timeout.is_some() && wishes.model.is_some());
            assert!(wishes.max_turns.is_some() && wishes.max_budget_usd.is_some());
            assert!(wishes.retries.is_some());
            seen += 1;
        }
    }
    assert_eq!(seen, 2);
}

#[test]
fn requirements_and_targets_are_those_of_the_project() {
    let readme = readme();
    let manifest = read("Cargo.toml");
    let version = manifest
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = "))
        .unwrap();
    assert!(readme.contains(&format!("({} or later)", version.trim_matches('"'))));
    let makefile = read("Makefile");
    let targets = makefile
        .lines()
        .find_map(|line| line.strip_prefix(".PHONY:"))
        .unwrap();
    let mut words = readme.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let mut seen = BTreeSet::new();
    while let Some(word) = words.next() {
        if word == "make" {
            seen.extend(words.next());
        }
    }
    for target in ["install", "uninstall", "demo", "test"] {
        assert!(seen.contains(target), "make {target} is told");
        assert!(targets.split_whitespace().any(|word| word == target));
    }
}

#[test]
fn paths_and_links_of_the_readme_exist() {
    let readme = readme();
    for block in blocks(&section(&readme, "## The source"), "text") {
        for line in block.lines() {
            let (paths, _) = line.split_once("  ").unwrap();
            let mut dir = "";
            for path in paths.split_whitespace() {
                // `src/daemon.rs worker/ runner.rs`: the first names the directory of the others.
                let path = match path.rsplit_once('/') {
                    _ if path.starts_with("src/") || path.starts_with("tests/") => {
                        dir = path.split_inclusive('/').next().unwrap();
                        path.to_owned()
                    }
                    _ => format!("{dir}{path}"),
                };
                assert!(root().join(&path).exists(), "{path}");
            }
        }
    }
    for target in readme.split("](").skip(1) {
        let target = target.split(')').next().unwrap();
        match target.strip_prefix('#') {
            Some(anchor) => assert!(
                readme
                    .lines()
                    .filter(|line| line.starts_with('#'))
                    .any(|line| {
                        let words = line.trim_start_matches('#').trim().to_lowercase();
                        words.replace(' ', "-") == anchor
                    }),
                "#{anchor}"
            ),
            None => assert!(
                target.starts_with("https://") || root().join(target).exists(),
                "{target}"
            ),
        }
    }
}

/// What Claude Code wants of a SKILL.md: front matter with the name of its directory, in lower
/// case and hyphens, and a description without tags that fits its list of skills. And no text
/// that it would replace or run when it loads the skill: arguments and commands in a job's text
/// would land in the middle of ours.
#[test]
fn the_skills_are_skills_of_claude_code() {
    for (name, text) in SKILLS {
        let (front, body) = text
            .strip_prefix("---\n")
            .and_then(|rest| rest.split_once("\n---\n"))
            .unwrap_or_else(|| panic!("{name} begins with front matter"));
        let pairs: Vec<(&str, &str)> = front
            .lines()
            .map(|line| line.split_once(": ").expect("one key in each line"))
            .collect();
        let keys: Vec<&str> = pairs.iter().map(|(key, _)| *key).collect();
        assert_eq!(keys, ["name", "description"]);
        assert_eq!(pairs[0].1, name);
        assert!(name.len() <= 64 && !name.contains("--"));
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '-'));
        let description = pairs[1].1;
        assert!((50..=1024).contains(&description.len()), "{name}");
        // As YAML it must be one plain text.
        assert!(description.starts_with(|c: char| c.is_ascii_alphabetic()));
        assert!(!description.contains(['<', '>', '#']) && !description.contains(": "));
        assert!(!body.contains('$'), "{name}");
        assert!(!body.contains("!`") && !body.contains("```!"), "{name}");
        // The reader's patience, and the model's: a skill is loaded whole.
        assert!(body.lines().count() < 500, "{name}");
        assert!(body.lines().all(|line| line.len() <= 125), "{name}");
    }
}

#[test]
fn the_audit_block_of_the_skill_is_the_one_that_is_read() {
    let skill = SKILLS[0].1;
    let examples = blocks(skill, "json");
    let [example] = examples.as_slice() else {
        panic!("one example, that nobody need choose");
    };
    let block: Value = serde_json::from_str(example).unwrap();
    let keys: BTreeSet<&str> = block
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(keys, ["artifacts", "audit_notes", "audit_score"].into());

    let answer = format!("Done.\n\n```json\n{example}\n```");
    let result = serde_json::json!({
        "type": "result", "subtype": "success", "is_error": false, "result": answer,
    });
    let claude = job_monitor::agent::dialect(job_monitor::project::Protocol::Claude);
    let mut fold = job_monitor::agent::Fold::new(claude, false);
    fold.feed(format!("{result}\n").as_bytes());
    fold.finish();
    let audit = &fold.report.audit;
    assert_eq!(audit.score, block["audit_score"].as_f64());
    assert_eq!(audit.notes.as_deref(), block["audit_notes"].as_str());
    assert_eq!(audit.artifacts.len(), 2);
}

#[test]
fn the_command_lines_of_the_skills_are_accepted() {
    for (name, text) in SKILLS {
        let lines = blocks(text, "sh");
        for line in lines.iter().flat_map(|block| block.lines()) {
            let mut words = line.split_whitespace();
            assert_eq!(words.next(), Some("job-monitor"), "{name}: {line}");
            let parsed = job_monitor::cli::parse(words.map(Into::into));
            assert!(parsed.is_ok(), "{name}: {line}: {:?}", parsed.err());
        }
    }
    assert!(!blocks(SKILLS[1].1, "sh").is_empty());
}
