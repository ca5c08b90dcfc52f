//! What README, docs, manual and skills say is what the program does: a command, a setting, a kind of
//! error or an exit status that is missing there, or only there, fails here; and every screen of the
//! README is played.

mod common;
// What the end-to-end tests need of their harness and this one does not.
#[allow(dead_code, unused_imports)]
#[path = "e2e/space.rs"]
mod space;

use job_monitor::error::Exit;
use job_monitor::job::{Course, ErrorKind};
use job_monitor::project::KEYS;
use job_monitor::settings;
use job_monitor::skills::SKILLS;
use serde_json::{Map, Value};
use space::{Space, wait_for};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn readme() -> String {
    read("README.md")
}

/// The files of a directory whose name has this ending.
fn files_in(dir: &str, ending: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(root().join(dir)).unwrap();
    let files = files.map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|found| found == ending))
        .collect()
}

/// README and docs, by path.
fn pages() -> Vec<(PathBuf, String)> {
    let mut pages: Vec<PathBuf> = ["README.md", "tests/README.md", "benches/README.md"]
        .map(|name| root().join(name))
        .into();
    pages.extend(
        ["docs", "docs/recipes"]
            .map(|dir| files_in(dir, "md"))
            .concat(),
    );
    let text = |path: PathBuf| (path.clone(), fs::read_to_string(path).unwrap());
    pages.into_iter().map(text).collect()
}

/// The texts in backquotes, those of fenced blocks not counted.
fn quoted(text: &str) -> Vec<String> {
    let mut in_block = false;
    let prose: String = text
        .lines()
        .filter(|line| {
            in_block ^= line.starts_with("```");
            !in_block && !line.starts_with("```")
        })
        .map(|line| format!("{line} "))
        .collect();
    let quoted = prose.split('`').skip(1).step_by(2);
    quoted.map(str::to_owned).collect()
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

/// The terms of a section of the manual, each with its explanation.
fn terms(section: &str) -> BTreeMap<String, String> {
    let manual = read("src/cli/manual.txt");
    let (_, rest) = manual
        .split_once(&format!("# {section}\n"))
        .unwrap_or_else(|| panic!("the manual has a section {section}"));
    let section = format!("\n{}", rest.split("\n# ").next().unwrap());
    let items = section.split("\n* ").skip(1);
    let items = items.filter_map(|item| item.split_once('\n'));
    items
        .flat_map(|(terms, text)| terms.split(", ").map(move |term| (term, text)))
        .map(|(term, text)| (term.to_owned(), text.trim().to_owned()))
        .collect()
}

fn names(terms: &BTreeMap<String, String>) -> BTreeSet<&str> {
    terms.keys().map(String::as_str).collect()
}

#[test]
fn the_readme_is_read_in_one_go() {
    let readme = readme();
    assert!(readme.lines().count() <= 300);
    for line in readme.lines() {
        assert!(line.chars().count() <= 130, "{line}");
    }
}

/// A command line as it stands in a text, with something in the place of its placeholders.
fn command_line(text: &str) -> Vec<String> {
    let line = text.split(['|', ';', '#']).next().unwrap();
    let line = line.split("&&").next().unwrap();
    let word = |word: &str| match word {
        "ID" | "ID..." => "job-20261120-132413-x".to_owned(),
        "PATH" => "/shop".to_owned(),
        "WORD" => "x".to_owned(),
        "NAME" => "shop".to_owned(),
        word => word.to_owned(),
    };
    line.split_whitespace().skip(1).map(word).collect()
}

#[test]
fn every_command_line_is_accepted() {
    let mut seen = 0;
    let skills = SKILLS.map(|(name, text)| (PathBuf::from(name), text.to_owned()));
    for (path, text) in pages().into_iter().chain(skills) {
        let typed = [blocks(&text, "sh"), blocks(&text, "console")]
            .concat()
            .join("\n");
        let typed = typed.lines().filter_map(|line| {
            let line = line.strip_prefix("$ ").unwrap_or(line);
            let (before, _) = line.split_once("job-monitor ")?;
            let is_command = before.is_empty() || before.ends_with("| ");
            is_command.then(|| line[before.len()..].to_owned())
        });
        let mut spans = quoted(&text);
        spans.retain(|span| span.starts_with("job-monitor "));
        for line in typed.chain(spans) {
            if line.contains("COMMAND") {
                continue;
            }
            // A verb alone stands for the command as such.
            let line = match line.split(' ').count() {
                2 => format!("{line} --help"),
                _ => line,
            };
            let words = command_line(&line).into_iter().map(Into::into);
            if let Err(error) = job_monitor::cli::parse(words) {
                panic!("{}: {line}: {error}", path.display());
            }
            seen += 1;
        }
    }
    assert!(seen > 40, "{seen} command lines were found");
}

#[test]
fn every_exit_status_is_told() {
    let all = [
        Exit::Done,
        Exit::Failed,
        Exit::Usage,
        Exit::NotFound,
        Exit::NotCompleted,
        Exit::AlreadyRunning,
        Exit::TimedOut,
    ];
    let all = all.map(|exit| (exit as u8).to_string());
    let told = terms("EXIT STATUS");
    assert_eq!(names(&told), all.iter().map(String::as_str).collect());
}

#[test]
fn every_setting_is_told_and_none_that_there_is_not() {
    let told = terms("SETTINGS");
    assert_eq!(names(&told), KEYS.iter().map(|(name, _)| *name).collect());
    let agents = &told["agents"];
    let page = read("docs/agents.md");
    for key in settings::AGENT_KEYS.split(", ") {
        assert!(agents.contains(key), "{key} in the manual");
        let row = format!("\n| `{key}` |");
        assert!(page.contains(&row), "{key} in docs/agents.md");
    }
}

#[test]
fn every_kind_of_error_is_told_with_what_follows() {
    let told = terms("WHEN AN ATTEMPT FAILS");
    let known = ErrorKind::ALL.iter().map(|kind| kind.as_str());
    assert_eq!(names(&told), known.collect());
    for kind in ErrorKind::ALL {
        let text = &told[kind.as_str()];
        let word = match kind.course() {
            Course::Hold => "Hold",
            Course::Retry | Course::Resume => "Retry",
            Course::End if matches!(kind, ErrorKind::Cancelled | ErrorKind::Interrupted) => "",
            Course::End => "Failed",
        };
        assert!(text.starts_with(word), "{kind}: {text}");
    }
}

#[test]
fn every_example_of_settings_is_one() {
    let pages = pages();
    let of_pages = pages.iter().flat_map(|(_, text)| blocks(text, "json"));
    let recipes = files_in("docs/recipes", "json").into_iter();
    let recipes = recipes.map(|path| fs::read_to_string(path).unwrap());
    let examples: Vec<String> = of_pages.chain(recipes).collect();
    assert!(examples.len() > 8);
    let dir = std::env::temp_dir().join(format!("job-monitor-readme-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join("config.json");
    for example in examples {
        fs::write(&path, &example).unwrap();
        let (settings, warnings) = settings::load(&path).expect(&example);
        assert!(warnings.is_empty(), "{warnings:?}");
        settings.policy(&Map::new()).expect(&example);
    }
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn the_front_matter_of_the_examples_is_front_matter() {
    let meta = job_monitor::job::Meta {
        mode: 0o600,
        ..job_monitor::job::Meta::default()
    };
    let manual = read("src/cli/manual.txt");
    let lines = manual.lines().filter_map(|line| line.strip_prefix("    "));
    let front: Vec<&str> = lines.skip_while(|line| *line != "---").collect();
    let writer = SKILLS
        .iter()
        .find(|(name, _)| *name == "job-document-writer");
    let mut examples = blocks(writer.unwrap().1, "markdown");
    examples.retain(|text| text.starts_with("---"));
    examples.push(front.join("\n"));
    assert_eq!(examples.len(), 2);
    for example in examples {
        let example = format!("{example}\n# Something to do\n");
        let document = job_monitor::document::check(example.as_bytes(), &meta, 1 << 20);
        let wishes = document.expect(&example).wishes;
        assert!(wishes.timeout.is_some() && wishes.model.is_some());
        assert!(wishes.max_turns.is_some() && wishes.max_budget_usd.is_some());
        assert!(wishes.retries.is_some());
    }
}

#[test]
fn requirements_and_targets_are_those_of_the_project() {
    let readme = readme();
    let manifest = read("Cargo.toml");
    let mut lines = manifest.lines();
    let version = lines.find_map(|line| line.strip_prefix("rust-version = "));
    let version = version.unwrap().trim_matches('"');
    assert!(readme.contains(&format!("({version} or later)")));
    let makefile = read("Makefile");
    let mut lines = makefile.lines();
    let targets = lines.find_map(|line| line.strip_prefix(".PHONY:")).unwrap();
    for target in ["install", "uninstall", "demo", "test"] {
        let is_told = readme.contains(&format!("make {target}"));
        assert!(is_told, "make {target}");
        assert!(targets.split_whitespace().any(|word| word == target));
    }
}

#[test]
fn paths_and_links_exist() {
    for block in blocks(&read("docs/maintainers.md"), "text") {
        for line in block.lines() {
            let (paths, _) = line.split_once("  ").unwrap();
            let mut dir = "";
            for path in paths.split_whitespace() {
                // `src/daemon.rs worker/ runner.rs`: the first names the directory of the others.
                let path = match path.split_once('/') {
                    Some((first @ ("src" | "tests"), _)) => {
                        dir = first;
                        path.to_owned()
                    }
                    _ if path.starts_with("benches") || path.starts_with("docs") => path.to_owned(),
                    _ => format!("{dir}/{path}"),
                };
                assert!(root().join(&path).exists(), "{path}");
            }
        }
    }
    for (page, text) in pages() {
        for target in text.split("](").skip(1) {
            let target = target.split(')').next().unwrap();
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            if target.starts_with("https://") {
                continue;
            }
            let path = match file {
                "" => page.clone(),
                file => page.parent().unwrap().join(file),
            };
            assert!(path.exists(), "{}: {target}", page.display());
            let of_anchor = |line: &str| {
                let words = line.trim_start_matches('#').trim().to_lowercase();
                line.starts_with('#') && words.replace(' ', "-") == anchor
            };
            let is_there = || fs::read_to_string(path).unwrap().lines().any(of_anchor);
            assert!(anchor.is_empty() || is_there(), "#{anchor}");
        }
    }
}

// --- the screens ---

/// Claude Code as the README's example has it: it forgets `make lint`, and adds it when it is sent back.
const CLAUDE: &str = r###"
case "$*" in *--version*) echo '2.1.328 (Claude Code)'; exit ;; auth*) exit 0 ;; esac
for word; do case $last in --session-id|--resume) session=$word ;; esac; last=$word; done
prompt=$(cat)
event() { echo "$1"; }
event '{"type":"system","subtype":"init","session_id":"'$session'","model":"claude-opus-5-5","claude_code_version":"2.1.328"}'
case $prompt in
*'who may merge'*) echo 'Two maintainers may merge.' >> CONTRIBUTING.md; said='CONTRIBUTING.md says now who may merge.' ;;
*'make check'*'does not name make lint'*) echo 'Style: make lint' >> CONTRIBUTING.md; said='I had forgotten make lint; CONTRIBUTING.md names it now.' ;;
*) printf '# Contributing

Build: make
Test: make check
' > CONTRIBUTING.md; said='CONTRIBUTING.md says how to build, test and propose a change.' ;;
esac
event '{"type":"assistant","message":{"id":"m1","content":[{"type":"tool_use","id":"t1","name":"Write","input":{"file_path":"'$PWD'/CONTRIBUTING.md","content":"x"}}],"usage":{"input_tokens":100,"output_tokens":20}},"session_id":"'$session'"}'
event '{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t1","content":"File created successfully"}]},"session_id":"'$session'"}'
event '{"type":"assistant","message":{"id":"m2","content":[{"type":"text","text":"'"$said"'"}],"usage":{"input_tokens":100,"output_tokens":20}},"session_id":"'$session'"}'
event '{"type":"result","subtype":"success","is_error":false,"num_turns":2,"result":"'"$said"'","total_cost_usd":0.0024,"usage":{"input_tokens":200,"output_tokens":40},"session_id":"'$session'"}'
"###;

/// What `make check` does in that example.
const MAKEFILE: &str = "check:\n\t@for word in 'make check' 'make lint'; do \\\n\t\
    grep -q \"$$word\" CONTRIBUTING.md || { echo \"CONTRIBUTING.md does not name $$word\"; exit 1; }; done\n";

/// The lines of a text less what differs from one run to the next: numbers, and the blanks that align
/// them.
fn words_of(text: &str, home: &Path) -> Vec<String> {
    let text = text.replace(home.to_str().unwrap(), "/home/you");
    let word = |word: &str| {
        let mut plain = String::new();
        for c in word.chars() {
            match c {
                '0'..='9' if plain.ends_with('0') => {}
                '0'..='9' => plain.push('0'),
                c => plain.push(c),
            }
        }
        plain.replace("0.0", "0")
    };
    let words = |line: &str| line.split_whitespace().map(word).collect::<Vec<_>>();
    let lines = text.lines().map(|line| words(line).join(" "));
    lines.filter(|line| !line.is_empty()).collect()
}

/// Whether what is shown stands in what was printed; a line of three dots is for any lines.
fn shows(shown: &[String], printed: &[String]) -> bool {
    match shown.split_first() {
        None => printed.is_empty(),
        Some((dots, rest)) if dots == "..." => {
            (0..=printed.len()).any(|at| shows(rest, &printed[at..]))
        }
        Some((line, rest)) => printed.first() == Some(line) && shows(rest, &printed[1..]),
    }
}

#[test]
fn every_screen_of_the_readme_is_what_the_program_shows() {
    let space = Space::new();
    space.claude(CLAUDE);
    let bin = space.root().join("bin");
    symlink(space::job_monitor(), bin.join("job-monitor")).unwrap();
    let home = space.home();
    let shop = home.join("shop");
    fs::create_dir(&shop).unwrap();
    fs::write(shop.join("Makefile"), MAKEFILE).unwrap();
    let readme = readme();
    let document = &blocks(&readme, "markdown")[0];
    fs::write(home.join("contributing.md"), document).unwrap();
    let check: Value = serde_json::from_str(&blocks(&readme, "json")[0]).unwrap();
    space.set(check);
    let shell = |line: &str| {
        let line = line.replace("/tmp/", &format!("{}/", home.display()));
        let output = Command::new("sh")
            .args(["-c", &line])
            .current_dir(&shop)
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
            .env("HOME", &home)
            .env("LANG", "C.UTF-8")
            .env("MONITOR_SYSTEM_ROOT", space.config())
            .output()
            .unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    shell(
        "git init --quiet --initial-branch=main && git add Makefile && git -c user.name=you -c user.email=@ commit --quiet -m first",
    );
    space.start();
    for block in blocks(&readme, "console") {
        for screen in block.split("$ ").filter(|screen| !screen.is_empty()) {
            let (command, shown) = screen.split_once('\n').unwrap_or((screen, ""));
            let printed = shell(command);
            let (shown, got) = (words_of(shown, &home), words_of(&printed, &home));
            assert!(shows(&shown, &got), "$ {command}\n{printed}");
            if printed.trim().starts_with("job-") && !printed.contains(':') {
                let result = shop.join(format!("jobs/results/{}.json", printed.trim()));
                wait_for("the job's result", || result.exists().then_some(()));
            }
        }
    }
    let told = terms("RESULTS");
    let results = fs::read_dir(shop.join("jobs/results")).unwrap();
    for result in results.map(|entry| entry.unwrap().path()) {
        let result: Map<String, Value> =
            serde_json::from_slice(&fs::read(result).unwrap()).unwrap();
        let keys: BTreeSet<&str> = result.keys().map(String::as_str).collect();
        assert_eq!(keys, names(&told));
    }
}

/// What Claude Code wants of a SKILL.md: front matter with the name of its directory, in lower
/// case and hyphens, and a description without tags that fits its list of skills. And no text
/// that it would replace or run when it loads the skill: arguments and commands in a job's text
/// would land in the middle of ours.
#[test]
fn the_skills_are_skills_of_claude_code() {
    for (name, text) in SKILLS {
        let front = text.strip_prefix("---\n").expect(name);
        let (front, body) = front.split_once("\n---\n").expect(name);
        let pairs = front.lines().map(|line| line.split_once(": "));
        let pairs: Vec<(&str, &str)> = pairs.map(|pair| pair.expect(name)).collect();
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
    let keys: Vec<&String> = block.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["artifacts", "audit_notes", "audit_score"]);

    let answer = format!("Done.\n\n```json\n{example}\n```");
    let (before, audit, behind) = job_monitor::agent::fold::audit(&answer).unwrap();
    assert_eq!((before, behind), ("Done.\n\n", ""));
    assert_eq!(audit.score, block["audit_score"].as_f64());
    assert_eq!(audit.notes.as_deref(), block["audit_notes"].as_str());
    assert_eq!(audit.artifacts.len(), 2);
}
