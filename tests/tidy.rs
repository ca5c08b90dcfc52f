//! Tidiness as ordinary tests: how much code there is, import direction, dependencies, formatting,
//! and a few habits that no compiler checks. The order of the layers is read from the crate documentation itself, so
//! that the map and the territory cannot part.

mod common;

use common::lacks;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The owner's card: nine packages, and two that they bring into the tree anyway.
const CARD: &str =
    "crossbeam-channel ctrlc env_logger lexopt libc log nix notify serde serde_json wait-timeout";

/// SPEC 12 lets so many crates be linked into the program, itself not counted.
const LINKED_MAX: usize = 26;

/// What SPEC 12 allows: lines of code, and lines of a function.
const CODE_MAX: usize = 11_500;
const FUNCTION_MAX: usize = 60;

/// What may lie at the top of the tree.
const TOP: &str = ".ci .git .gitignore Cargo.lock Cargo.toml LICENSE Makefile README.md benches docs \
                   job-monitor.service src tests";

/// All Rust files below a directory, with their text.
fn sources(dir: &str) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut dirs = vec![Path::new(ROOT).join(dir)];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                files.push((path, text));
            }
        }
    }
    files.sort();
    files
}

fn shown(path: &Path) -> String {
    let path = path.strip_prefix(ROOT).unwrap_or(path);
    path.display().to_string()
}

/// A file's lines before its module of tests, numbered from 1.
fn program(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line));
    lines.take_while(|(_, line)| *line != "#[cfg(test)]")
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

/// A file's lines of code: no comments, no blank lines, no tests.
fn code_lines(text: &str) -> usize {
    let is_code = |line: &str| !line.trim().is_empty() && !is_comment(line);
    program(text).filter(|(_, line)| is_code(line)).count()
}

/// The functions of a file: the line where each begins, its name, and its lines from `fn` to the
/// closing brace, which rustfmt puts below the first word of the function's first line.
fn functions(text: &str) -> Vec<(usize, String, usize)> {
    let lines: Vec<(usize, &str)> = program(text).collect();
    let mut found = Vec::new();
    for (at, (number, line)) in lines.iter().enumerate() {
        let words = line.trim_start();
        let indent = &line[..line.len() - words.len()];
        let Some((before, after)) = words.split_once("fn ").filter(|_| !is_comment(line)) else {
            continue;
        };
        let qualifiers = before.split_whitespace().all(|word| {
            ["const", "unsafe", "async", "extern", "\"C\""].contains(&word)
                || word.starts_with("pub")
        });
        let has_body = !line.ends_with(['}', ';']);
        let end = format!("{indent}}}");
        let length = lines[at..].iter().position(|(_, line)| *line == end);
        if let Some(length) = length.filter(|_| qualifiers && has_body) {
            let name = after.split(['(', '<']).next().unwrap_or_default();
            found.push((*number, name.to_owned(), length + 1));
        }
    }
    found
}

/// Not `println!`, of which a passing test shows nothing.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[test]
fn there_is_little_code_in_short_functions() {
    let mut rooms: BTreeMap<String, usize> = BTreeMap::new();
    let mut long = Vec::new();
    let mut longest = (0, String::new());
    for (path, text) in sources("src") {
        *rooms.entry(module_of(&path)).or_default() += code_lines(&text);
        for (number, name, length) in functions(&text) {
            let shown = format!("{}:{number} {name}, {length} lines", shown(&path));
            if length > FUNCTION_MAX {
                long.push(shown.clone());
            }
            longest = longest.max((length, shown));
        }
    }
    let total: usize = rooms.values().sum();
    let rooms = rooms.iter().map(|(name, n)| format!("{name} {n}"));
    let rooms: Vec<String> = rooms.collect();
    say(&format!("lines of code: {total}; at most {CODE_MAX}"));
    say(&format!("  {}", rooms.join(", ")));
    let (count, longest) = (long.len(), longest.1);
    say(&format!(
        "functions above {FUNCTION_MAX} lines: {count}; the longest: {longest}"
    ));
    assert!(total <= CODE_MAX, "{total} lines of code");
    assert!(long.is_empty(), "{}", long.join("\n"));
}

/// The modules in the order of the crate documentation, from the top layer to the bottom.
fn layers() -> Vec<String> {
    let map = fs::read_to_string(Path::new(ROOT).join("src/lib.rs")).unwrap();
    let text = map
        .split("# Layers")
        .nth(1)
        .and_then(|rest| rest.split("```text").nth(1)?.split("```").next())
        .expect("lib.rs shows the layers");
    text.split_whitespace()
        .filter(|word| !(*word == "//!" || *word == "---" || word.ends_with(':')))
        .map(|word| word.trim_end_matches('/').to_owned())
        .collect()
}

/// The module of the crate's root that a file belongs to.
fn module_of(path: &Path) -> String {
    let inner = path.strip_prefix(Path::new(ROOT).join("src")).unwrap();
    let first = inner.components().next().unwrap().as_os_str();
    first.to_str().unwrap().trim_end_matches(".rs").to_owned()
}

#[test]
fn a_file_imports_only_what_stands_below_it() {
    let order = layers();
    let place = |module: &str| order.iter().position(|name| name == module);
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for (path, text) in sources("src") {
        let module = module_of(&path);
        if module == "lib" {
            continue;
        }
        let Some(own) = place(&module) else {
            wrong.push(format!("{} is not on the map in lib.rs", shown(&path)));
            continue;
        };
        seen.insert(module.clone());
        for (number, line) in text.lines().enumerate() {
            if is_comment(line) {
                continue;
            }
            for rest in line.split("crate::").skip(1) {
                let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_'));
                let named = &rest[..end.unwrap_or(rest.len())];
                let fine = named == module || place(named).is_some_and(|theirs| theirs > own);
                if !fine {
                    let at = format!("{}:{}", shown(&path), number + 1);
                    wrong.push(format!("{at}: {module} must not know {named:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let mapped: BTreeSet<String> = order.into_iter().collect();
    assert_eq!(seen, mapped, "the map and the files agree");
}

#[test]
fn the_dependencies_are_the_card_s() {
    let manifest = fs::read_to_string(Path::new(ROOT).join("Cargo.toml")).unwrap();
    let mut names = BTreeSet::new();
    let mut in_list = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            let table = line.trim_matches(['[', ']']);
            assert!(
                !table.contains("dependencies.") && table != "build-dependencies",
                "{line}: dependencies stand in one list"
            );
            in_list = table == "dependencies";
        } else if let Some((name, _)) = line.split_once('=').filter(|_| in_list) {
            names.insert(name.trim().to_owned());
        }
    }
    assert_eq!(names, CARD.split(' ').map(str::to_owned).collect());
}

fn cargo() -> Command {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = Command::new(cargo);
    command.current_dir(ROOT);
    command
}

#[test]
fn few_crates_are_linked_into_the_program() {
    let tree = cargo()
        .args(["tree", "--locked", "--offline", "--prefix", "none"])
        .args(["--edges", "normal,no-proc-macro", "--format", "{p}"])
        .output();
    let tree = match tree {
        Ok(output) if output.status.success() => output.stdout,
        other => return lacks("cargo", &format!("cargo tree cannot be asked: {other:?}")),
    };
    let crates: BTreeSet<String> = String::from_utf8_lossy(&tree)
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "job-monitor")
        .map(str::to_owned)
        .collect();
    let count = crates.len();
    assert!(count >= CARD.split(' ').count(), "{crates:?}");
    assert!(count <= LINKED_MAX, "{count} crates are linked: {crates:?}");
}

#[test]
fn the_code_is_formatted() {
    match cargo().args(["fmt", "--check"]).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) if String::from_utf8_lossy(&output.stderr).contains("not installed") => {
            lacks("rustfmt", "rustfmt is not installed");
        }
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            panic!("run cargo fmt\n{}", String::from_utf8_lossy(&said));
        }
        Err(error) => lacks("cargo", &format!("cargo cannot be run: {error}")),
    }
}

#[test]
fn every_file_says_first_what_it_is_for() {
    for (path, text) in sources("src").into_iter().chain(sources("tests")) {
        assert!(text.starts_with("//! "), "{}", shown(&path));
    }
}

#[test]
fn nothing_unfinished_or_forgotten_is_left() {
    // Put together here, so that this file does not find itself.
    let words = [
        concat!("todo", "!"),
        concat!("dbg", "!"),
        concat!("unimplemented", "!"),
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("#[", "ignore"),
    ];
    for (path, text) in sources("src").into_iter().chain(sources("tests")) {
        for (number, line) in text.lines().enumerate() {
            let at = format!("{}:{}: {line}", shown(&path), number + 1);
            assert!(!words.iter().any(|word| line.contains(word)), "{at}");
        }
    }
}

#[test]
fn nothing_in_the_program_panics_without_saying_why_it_cannot() {
    for (path, text) in sources("src") {
        let mut before = "";
        for (number, line) in program(&text) {
            let explained = line.contains("//") || is_comment(before);
            let at = format!("{}:{number}: {line}", shown(&path));
            if !is_comment(line) {
                assert!(!line.contains(".unwrap()") || explained, "{at}");
                // These panic when nobody reads any more, or the disk is full.
                for printer in ["print!(", "println!(", "eprint!(", "eprintln!("] {
                    let found = line.find(printer).is_some_and(|at| {
                        let before = line[..at].chars().next_back();
                        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
                    });
                    assert!(!found, "{at}");
                }
            }
            before = line;
        }
    }
}

#[test]
fn what_is_allowed_against_a_lint_has_its_reason_beside_it() {
    for (path, text) in sources("src").into_iter().chain(sources("tests")) {
        let mut before = "";
        for (number, line) in text.lines().enumerate() {
            let starts = [concat!("#[", "allow"), concat!("#![", "allow")];
            if starts
                .iter()
                .any(|start| line.trim_start().starts_with(start))
            {
                let explained = line.contains("//") || is_comment(before);
                assert!(explained, "{}:{}: {line}", shown(&path), number + 1);
            }
            before = line;
        }
    }
}

#[test]
fn the_top_of_the_tree_holds_only_what_belongs_there() {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(ROOT)
        .output();
    let listed = match listed {
        Ok(output) if output.status.success() => output.stdout,
        _ => return lacks("git", "this is no git repository"),
    };
    let names: BTreeSet<String> = String::from_utf8_lossy(&listed)
        .lines()
        .filter_map(|line| line.split('/').next())
        .map(str::to_owned)
        .collect();
    let known: Vec<&str> = TOP.split(' ').collect();
    for name in names {
        assert!(known.contains(&&*name), "{name} does not belong here");
    }
}
