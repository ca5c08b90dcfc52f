//! Every parser of foreign bytes against bytes that nobody meant: names, registry, settings,
//! documents, `.env`, claims, streams, views, times, command lines, and, through the program,
//! results and logs. Inputs are seeds that were changed at random; each target says what must
//! hold whatever they are. Nothing may panic, and memory stays bounded.
//!
//! A short run is part of every test run, the same inputs each time. `JOB_MONITOR_FUZZ_SECS=n` gives each
//! target n seconds of inputs that are new each time. A failure names its seed:
//! `JOB_MONITOR_FUZZ_SEED=seed cargo test --test fuzz TARGET` begins with that input.

use job_monitor::agent::fold::audit;
use job_monitor::agent::{Case, Ended, Ending, Fold, TEXT_MAX, dialect, verdict};
use job_monitor::job::{JobId, Meta, Name, log_name};
use job_monitor::process::Token;
use job_monitor::project::{Layout, Protocol};
use job_monitor::record::{Claim, QueueView};
use job_monitor::registry::{self, Registry};
use job_monitor::render;
use job_monitor::settings::{self, Settings};
use job_monitor::time::{Wall, human, parse_duration};
use job_monitor::{cli, document};
use std::alloc::{GlobalAlloc, Layout as Memory, System};
use std::cell::Cell;
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

// --- chance ---

/// Random numbers that depend on nothing but the seed.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % sides.max(1)
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.roll(all.len())]
    }
}

/// What is apt to be mistaken for something else, in whatever format; a bar stands between two words.
const WORDS: &[u8] = b"\0|\n|\r\n|\r|\t| |\x1b[2J|\x1b]0;x\x07|\x7f|\xc2\x9b31m|\xe2\x80\xae|\xe2\x81\xa6|\
    \xef\xbb\xbf|\xff|\xc3|\xed\xa0\x80|\xf0\x9f\x98\x80|\
    /|..|../|.|-|--|~|#|.md|.tmp|.claim|.2|job-|task-|20260130-143000|99999999-999999|job-20260130-143000-|\
    \"|\\|\\u0000|\\ud83d|\\u001b|{|}|[|]|:|,|null|true|{}|[]|0|-1|1e400|1.7976931348623157e308|\
    9223372036854775807|18446744073709551616|0.1|NaN|inf|=|export |'|---\n|timeout: |model: |retries: |\
    max-turns: |max-budget-usd: |4294967296|ms|d|2h|9999-12-31T23:59:59Z|0000-01-01T00:00:00+23:59|+01:00|Z|\
    {\"type\":\"result\",|\"is_error\":false|\"subtype\":\"success\"|\"result\":\"x\"|\"session_id\":\"|\
    \"path\":\"/|\"projects\":{|\"enabled\":0|--json|--all|--|-p";

fn word(dice: &mut Dice) -> &'static [u8] {
    let words: Vec<&[u8]> = WORDS.split(|&byte| byte == b'|').collect();
    words[dice.roll(words.len())]
}

fn changed(dice: &mut Dice, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = dice.one_of(seeds).clone();
    for _ in 0..=dice.roll(6) {
        let at = dice.roll(bytes.len() + 1);
        let end = at + dice.roll(bytes.len() - at + 1);
        let end = if dice.roll(4) > 0 {
            end.min(at + 8)
        } else {
            end
        };
        match dice.roll(10) {
            0 if at < bytes.len() => bytes[at] ^= 1 << dice.roll(8),
            1 if at < bytes.len() => bytes[at] = dice.roll(256) as u8,
            2 => drop(bytes.drain(at..end)),
            3 => {
                let piece = bytes[at..end].to_vec();
                let to = dice.roll(bytes.len() + 1);
                bytes.splice(to..to, piece);
            }
            4 => bytes.truncate(at),
            5 => {
                let other = dice.one_of(seeds);
                let from = dice.roll(other.len() + 1);
                bytes.splice(at..end, other[from..].iter().copied());
            }
            6 if dice.roll(8) == 0 => {
                let times = 1 << dice.roll(13);
                let piece = word(dice).repeat(times);
                bytes.splice(at..at, piece);
            }
            7 => drop(bytes.splice(at..end, word(dice).iter().copied())),
            _ => drop(bytes.splice(at..at, word(dice).iter().copied())),
        }
    }
    bytes
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// So long does a short run take for one target, or so many inputs if that is more.
const SHORT: Duration = Duration::from_millis(500);
const LEAST: u64 = 100;

/// Gives `check` the seeds as they are, then changed ones, until the time is over.
fn fuzz(target: &str, seeds: &[Vec<u8>], mut check: impl FnMut(&[u8], &mut Dice)) {
    let secs = variable("JOB_MONITOR_FUZZ_SECS");
    let bound = secs.map_or(SHORT, Duration::from_secs);
    // Short runs are the same everywhere; long ones are for what is new.
    let first = variable("JOB_MONITOR_FUZZ_SEED").unwrap_or(match secs {
        None => 1,
        Some(_) => u64::from(std::process::id()) << 32,
    });
    let mut run = |seed: u64, input: &[u8]| {
        let checked = catch_unwind(AssertUnwindSafe(|| check(input, &mut Dice::new(!seed))));
        let (bytes, start) = (input.len(), input[..input.len().min(4000)].escape_ascii());
        assert!(
            checked.is_ok(),
            "{target}: JOB_MONITOR_FUZZ_SEED={seed}, {bytes} bytes: {start}"
        );
    };
    for seed in seeds {
        run(0, seed);
    }
    let began = Instant::now();
    let mut tried = 0;
    while tried < LEAST || began.elapsed() < bound {
        let seed = first + tried;
        run(seed, &changed(&mut Dice::new(seed), seeds));
        tried += 1;
    }
    println!("{target}: {tried} inputs");
}

fn seeds(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

// --- memory ---

/// Counts what the thread holds, so that a target can say how much it may be at most.
struct Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static MOST: Cell<usize> = const { Cell::new(0) };
}

fn count(grown: usize, shrunk: usize) {
    // A thread that ends has no counter any more, and nobody asks.
    let _ = HELD.try_with(|held| {
        let now = (held.get() + grown).saturating_sub(shrunk);
        held.set(now);
        let _ = MOST.try_with(|most| most.set(most.get().max(now)));
    });
}

// SAFETY: every call goes to the system's allocator as it came; what is counted beside it are two
// numbers of the thread, whose keeping allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, memory: Memory) -> *mut u8 {
        count(memory.size(), 0);
        // SAFETY: as for the whole.
        unsafe { System.alloc(memory) }
    }

    unsafe fn dealloc(&self, at: *mut u8, memory: Memory) {
        count(0, memory.size());
        // SAFETY: as for the whole.
        unsafe { System.dealloc(at, memory) }
    }

    unsafe fn realloc(&self, at: *mut u8, memory: Memory, size: usize) -> *mut u8 {
        // While it is copied both are there.
        count(size, 0);
        count(0, memory.size());
        // SAFETY: as for the whole.
        unsafe { System.realloc(at, memory, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The most that the thread held above what it holds now, while `what` ran.
fn most_held<T>(what: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    MOST.set(before);
    let result = what();
    (result, MOST.get().saturating_sub(before))
}

// --- what must hold of texts ---

fn is_calm(text: &str) -> bool {
    let bidi = |c| matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars()
        .all(|c| c == '\n' || c == '\t' || !(c.is_control() || bidi(c)))
}

fn assert_safe_name(id: &JobId) {
    let text = id.as_str();
    assert!(text.is_ascii() && is_calm(text), "{text:?}");
    assert!(!text.contains(['/', '\0', '\n', '\t', ' ']), "{text:?}");
    assert!(!text.starts_with(['.', '-']) && !text.is_empty());
    assert_eq!(Path::new(text).file_name(), Some(text.as_ref()));
    // The longest names that are made of it, each a temporary one's too.
    let log = log_name(id, u32::MAX, "jsonl");
    for name in [log, format!("{id}.release")] {
        assert!(name.len() + "..4194304.tmp".len() <= 255, "{name}");
    }
}

/// Times that RFC 3339 can tell, with room for an offset.
fn is_of_four_digits(time: Wall) -> bool {
    (0..253_000_000_000_000).contains(&time.0)
}

fn meta() -> Meta {
    Meta {
        mode: 0o100_600,
        ..Meta::default()
    }
}

/// A directory of a test's own, gone with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let name = format!("jm-fuzz-{name}-{}", std::process::id());
        let path = fs::canonicalize(std::env::temp_dir()).unwrap().join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

// --- targets ---

#[test]
fn names_are_ids_that_are_safe_as_file_names_or_nothing() {
    let seeds = seeds(&[
        "job-20260130-143000-fix.md",
        "job-20260130-143000-a.b_c-1.md.md",
        "task-data-export-20250129-150000.md",
        "task-x.md",
        ".job-20260130-143000-x.md.tmp",
        "../../etc/passwd",
    ]);
    let mut last = JobId::parse("task-zz").unwrap();
    fuzz("names", &seeds, |bytes, _| {
        let text = String::from_utf8_lossy(bytes);
        for layout in [Layout::Jobs, Layout::Tasks] {
            if let Name::Job(id) = Name::of(&text, layout) {
                assert_eq!(id.file_name(), text);
                assert_eq!(id.layout(), layout);
                assert_eq!(JobId::parse(&text).as_ref(), Some(&id));
            }
        }
        let Some(id) = JobId::parse(&text) else {
            return;
        };
        assert_safe_name(&id);
        assert_eq!(JobId::exact(id.as_str()).as_ref(), Some(&id));
        assert_eq!(JobId::parse(&id.file_name()).as_ref(), Some(&id));
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(serde_json::from_str::<JobId>(&json).unwrap(), id);
        assert!(id.as_str().contains(id.description()));
        if let Some(stamp) = id.stamp() {
            assert_eq!(stamp.len(), 15);
        }
        // An order: each pair has one, and both see the same.
        assert_eq!(id.cmp(&last), last.cmp(&id).reverse());
        assert_eq!(id.cmp(&last).is_eq(), id == last);
        last = id;
    });
}

const REGISTRY: &str = r#"{ "projects": { "datachat": { "path": "/home/u/datachat", "enabled": true,
    "registered_at": "2026-01-30T12:43:00", "note": [1, 2] }, "b": { "path": "/b", "layout": "tasks",
    "timeout": "5m", "retries": 3, "agent": "claude" }, "c": { "path": "c" }, "d": { "path": "/b" },
    "e\u0007": { "path": "/e" }, "f": 1 }, "version": 1 }"#;

#[test]
fn a_registry_gives_usable_entries_or_a_sentence_and_keeps_what_is_not_ours() {
    let scratch = Scratch::new("registry");
    let path = scratch.0.join("registered.json");
    let seeds = seeds(&[REGISTRY, "{}", r#"{"projects":{}}"#]);
    fuzz("registry", &seeds, |bytes, dice| {
        fs::write(&path, bytes).unwrap();
        let registry = match Registry::load(&path).map_err(|error| error.to_string()) {
            Ok(registry) => registry,
            Err(error) => return assert!(error.contains("registered.json"), "{error}"),
        };
        let (entries, _) = registry.entries();
        let mut paths = HashSet::new();
        for entry in &entries {
            assert!(registry::valid_name(&entry.project.name));
            assert!(entry.project.path.is_absolute());
            assert!(paths.insert(&entry.project.path));
            if let Err(error) = entry.policy(&Settings::new(serde_json::Map::new()).unwrap()) {
                assert!(error.to_string().contains("project "), "{error}");
            }
        }
        // Writing is durable and so takes its time; now and then will do.
        if dice.roll(16) == 0 {
            registry::update(&path, |_| Ok(())).unwrap();
            assert_eq!(Registry::load(&path).unwrap().entries().0, entries);
            if let Some(entry) = entries.first() {
                let name = &entry.project.name;
                registry::update(&path, |registry| registry.enable(name, false)).unwrap();
                let (after, _) = Registry::load(&path).unwrap().entries();
                assert!(!after[0].enabled && after.len() == entries.len());
            }
        }
    });
}

#[test]
fn settings_are_a_policy_that_can_be_kept_or_a_sentence() {
    let scratch = Scratch::new("settings");
    let seeds = seeds(&[
        r#"{"agent": "x", "agents": {"x": {"command": ["p", "{job_id}"], "args": ["-a"], "protocol": "claude",
            "prompt": "do {content}", "env": {"KEY": "v"}}}, "timeout": "1h30m", "silence_timeout": "0"}"#,
        r#"{"retries": 2, "max_document": "2 KiB", "max_output": 1, "daily_budget_usd": 0.5, "max_parallel": 3,
            "on_interrupt": "rerun", "archive": true, "on_finish": ["notify"], "settle": "200ms"}"#,
        r#"{"hours": ["22:00-07:00", "9:30-24:00"], "usage_ceiling": {"five_hour": 0.8}, "check": ["make"],
            "check_timeout": "5m", "check_rounds": 1, "on_failure": "hold", "breaker": 0, "git": false}"#,
    ]);
    fuzz("settings", &seeds, |bytes, _| {
        let path = scratch.put("config.json", bytes);
        match settings::load(&path) {
            Err(error) => assert!(error.to_string().contains("config.json"), "{error}"),
            Ok((settings, _)) => {
                let policy = settings.policy(&serde_json::Map::new()).unwrap();
                assert!(!policy.agent.command[0].is_empty() && !policy.timeout.is_zero());
                // Deadlines are points of time.
                for span in [policy.timeout, policy.settle, policy.grace, policy.linger] {
                    assert!(Instant::now().checked_add(span).is_some());
                }
            }
        }
    });
}

#[test]
fn a_document_is_run_within_the_settings_or_refused_with_a_sentence() {
    let seeds = seeds(&[
        "# Do this\n\nAnd that.\n",
        "---\ntimeout: 30m\nmodel: opus\nmax-turns: 5\nmax-budget-usd: 1.5\nretries: 1\n---\nDo it.\n",
        "---\nother: [x]\n  timeout: 1s\n# timeout: 2s\n---\n---\nDo it.\n",
        "\u{feff}---\r\ntimeout: \"1h\" # c\r\n---\r\nx",
        "\n---\nAgent: codex\nNOT_BEFORE: 2026-12-01T22:00\ncontinues: job-20260130-143000-x\n...\nx",
    ]);
    let path = Path::new("/nowhere/config.json");
    let (settings, _) = settings::load(path).unwrap();
    let policy = settings.policy(&serde_json::Map::new()).unwrap();
    let mut thrifty = policy.clone();
    thrifty.max_budget_usd = Some(0.5);
    fuzz("document", &seeds, |bytes, _| {
        let document = match document::check(bytes, &meta(), 100_000) {
            Ok(document) => document,
            Err(error) => return assert!(is_calm(&error) && !error.contains('\n'), "{error:?}"),
        };
        let text = std::str::from_utf8(bytes).unwrap();
        assert!(text.ends_with(document.body) && !document.body.trim().is_empty());
        assert!(bytes.len() <= 100_000 && !bytes.contains(&0));
        let wishes = &document.wishes;
        assert!(!wishes.timeout.is_some_and(|timeout| timeout.is_zero()));
        assert_ne!(wishes.max_turns, Some(0));
        if let Some(model) = &wishes.model {
            // It becomes an argument of the command line.
            assert!(!model.starts_with('-') && !model.contains(char::is_control));
        }
        for before in [&policy, &thrifty] {
            let after = match wishes.tighten(before) {
                Ok(after) => after,
                Err(error) => {
                    assert!(is_calm(&error) && wishes.agent.is_some(), "{error:?}");
                    continue;
                }
            };
            assert!(after.timeout <= before.timeout && after.retries <= before.retries);
            if let Some(limit) = before.max_budget_usd {
                assert!(after.max_budget_usd.is_some_and(|after| after <= limit));
            }
            assert!(after.max_budget_usd.is_none_or(|budget| budget > 0.0));
        }
    });
}

#[test]
fn credentials_are_variables_or_a_line_number_and_never_in_a_message() {
    const SECRET: &str = "s3cr3t-Value";
    let scratch = Scratch::new("env");
    let seeds = seeds(&[
        "# c\nA=s3cr3t-Value\nexport B = 's3cr3t-Value' # c\nC=\"s3cr3t-Value\"\r\nD=\n",
        "s3cr3t-Value\n",
        "KEY='s3cr3t-Value\nOTHER=s3cr3t-Value",
    ]);
    fuzz("env", &seeds, |bytes, dice| {
        let lines = bytes.iter().filter(|&&byte| byte == b'\n').count() + 1;
        match settings::parse_env(bytes) {
            Err(line) => assert!((1..=lines).contains(&line), "line {line} of {lines}"),
            Ok(variables) => {
                assert!(variables.len() <= lines);
                let mut again = String::new();
                let mut kept = Vec::new();
                for (name, value) in variables {
                    let (name, value) = (name.into_string().unwrap(), value.into_string().unwrap());
                    assert!(!name.starts_with(|c: char| c.is_ascii_digit()) && !name.is_empty());
                    let is_fine = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
                    assert!(name.bytes().all(is_fine), "{name:?}");
                    assert!(!value.contains(['\0', '\n']), "{value:?}");
                    // A lone carriage return at the end of a line belongs to the line's end.
                    if !value.contains(['\'', '\r']) {
                        again.push_str(&format!("export {name}='{value}' # {SECRET}\n"));
                        kept.push((OsString::from(name), OsString::from(value)));
                    }
                }
                assert_eq!(settings::parse_env(again.as_bytes()), Ok(kept));
            }
        }
        if dice.roll(8) == 0 {
            let path = scratch.put(".env", bytes);
            if let Err(error) = settings::credentials(&path) {
                let text = error.to_string();
                assert!(text.contains(".env line "), "{text}");
                assert!(!text.contains(SECRET), "{text}");
            }
        }
    });
}

const CLAIM: &str = concat!(
    r#"{"job_id":"job-20260130-143000-x","run":"0123456789abcdef0123456789abcdef","boot_id":"b","starts":2,"#,
    r#""started_at":"2026-11-20T12:00:00.000+00:00","created_at":"2026-11-20T11:00:00.000+00:00","#,
    r#""queue_position":1,"document_sha256":"","agent":"claude","protocol":"claude","session_id":"s","#,
    r#""resumed":true,"attempts":[{"started_at":"2026-11-20T11:30:00.000+00:00","duration_seconds":1.5,"#,
    r#""exit_code":1,"signal":null,"error_kind":"overloaded","error":"e","session_id":"s","cost_usd":0.25}],"#,
    r#""retries":1,"interruptions":0,"carried":{"usage":{"n":1},"num_turns":3,"edited":["a"],"#,
    r#""permission_denials":[{"tool_name":"Bash"}],"failed_mcp_servers":[],"leftovers":0},"checking":false,"stopped":false,"#,
    r#""checks":[],"files":{"witness":null,"answer":null,"require_answer":false},"suspended":{"kind":"overloaded","#,
    r#""error":"e","retry_at":"2026-11-20T12:00:30.000+00:00","afresh":false},"#,
    r#""process":{"pid":42,"start_time":4711}}"#,
    "\n"
);

#[test]
fn a_claim_is_one_that_we_could_have_written_or_none() {
    let running = CLAIM.replace(r#""attempts":[{"#, r#""attempts":[],"more":[{"#);
    fuzz("claim", &seeds(&[CLAIM, &running]), |bytes, _| {
        let Ok(claim) = Claim::parse(bytes) else {
            return;
        };
        assert_safe_name(&claim.job_id);
        if let Some(token) = Token::parse(&claim.run) {
            assert!(token.as_str().len() == 32 && token.as_str().is_ascii());
        }
        // What cannot be told in four digits was not written by us; and a float may lose its
        // last bit on the way, which is why it is compared only where there is none.
        let suspended = claim.suspended.as_ref().and_then(|why| why.retry_at);
        let times = [Some(claim.started_at), Some(claim.created_at), suspended];
        let attempts = claim.attempts.is_empty() && claim.carried.permission_denials.is_empty();
        if times.into_iter().flatten().all(is_of_four_digits)
            && attempts
            && claim.carried.usage.is_none()
            && claim.checks.is_empty()
            && claim.inherited.is_none()
        {
            assert_eq!(Claim::parse(&claim.to_line()), Ok(claim));
        }
    });
}

/// Every recorded stream, with its standard error.
fn streams() -> Vec<Vec<u8>> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/claude");
    let files = fs::read_dir(dir).unwrap();
    let mut paths: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "jsonl"));
    paths.sort();
    let streams: Vec<_> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(streams.len() > 50, "the fixtures are there");
    streams
}

/// A stream holds its capped texts, one line twice, and what it collects: none of it grows with input.
const STREAM_MAX: usize = 48 << 20;

fn read(pieces: &[&[u8]]) -> Fold {
    let mut stream = Fold::new(dialect(Protocol::Claude), false);
    for piece in pieces {
        stream.feed(piece);
    }
    stream.finish();
    stream
}

fn check_stream(stream: &Fold) {
    let report = &stream.report;
    let fits = |text: &str| text.len() <= TEXT_MAX + 100;
    assert!(fits(&report.text) && report.answer.as_deref().is_none_or(fits));
    let audit = report.answer.as_deref().and_then(audit);
    let score = audit.and_then(|(_, audit, _)| audit.score);
    assert!(
        (0.0..=100.0).contains(&score.unwrap_or_default()),
        "{score:?}"
    );
    assert!(report.carried.edited.len() <= 2000 && report.carried.permission_denials.len() <= 100);
    for (code, signal, by) in [
        (Some(0), None, Ending::Itself),
        (Some(1), None, Ending::Itself),
        (None, Some(9), Ending::Itself),
        (None, Some(15), Ending::Linger),
        (None, Some(15), Ending::Timeout),
        (None, Some(15), Ending::Cancelled),
        (None, None, Ending::Interrupted),
    ] {
        let ended = Ended { code, signal, by };
        let case = Case {
            ended: &ended,
            fold: stream,
            stderr: "the tail\nof standard error",
            require_answer: false,
            now: Wall(0),
        };
        match verdict::judge(&case) {
            None => {
                // SPEC 7: exit, last result and answer agree.
                let result = stream.result.as_ref().expect("completed by a result");
                assert!(result.good && report.answer.is_some());
                assert!(code == Some(0) || by != Ending::Itself);
                assert_ne!(by, Ending::Cancelled);
            }
            Some(fault) => assert!(!fault.error.is_empty(), "{fault:?}"),
        }
    }
}

#[test]
fn a_stream_is_read_in_whatever_pieces_and_completes_only_by_a_good_result() {
    let streams = streams();
    fuzz("stream", &streams, |bytes, dice| {
        let (whole, most) = most_held(|| read(&[bytes]));
        assert!(most <= STREAM_MAX, "{most} bytes held");
        check_stream(&whole);
        let at = dice.roll(bytes.len() + 1);
        let (head, tail) = bytes.split_at(at);
        let middle = dice.roll(tail.len() + 1);
        let pieces = read(&[head, &tail[..middle], &tail[middle..]]);
        assert_eq!(pieces.report, whole.report, "cut at {at}, then {middle}");
        assert_eq!(pieces.result, whole.result);
        assert_eq!(pieces.is_final(), whole.is_final());
        assert_eq!(pieces.limit, whole.limit);
    });
}

#[test]
fn a_stream_of_any_length_is_read_in_bounded_memory() {
    let streams = streams();
    let piece_of = |dice: &mut Dice, stream: &[u8]| match dice.roll(4) {
        0 => stream.to_vec(),
        1 => changed(dice, &streams),
        2 => word(dice).repeat(1 << 14),
        _ => stream[dice.roll(stream.len() + 1)..].to_vec(),
    };
    for seed in 1..=4 {
        let mut dice = Dice::new(seed);
        let mut stream = Fold::new(dialect(Protocol::Claude), false);
        let ((), most) = most_held(|| {
            let mut fed = 0;
            while fed < 16 << 20 {
                let recorded = dice.one_of(&streams).clone();
                let piece = piece_of(&mut dice, &recorded);
                fed += piece.len().max(1);
                stream.feed(&piece);
            }
            stream.finish();
        });
        // The pieces themselves are counted as well.
        let bound = STREAM_MAX + (2 << 20);
        assert!(most <= bound, "seed {seed}: {most} bytes held");
        check_stream(&stream);
    }
}

#[test]
fn a_line_without_end_is_read_in_bounded_memory() {
    for word in r#"1, [ "a", {"k": " \" x "\u0001"#.split(' ') {
        let piece = word.repeat((64 << 10) / word.len());
        let mut stream = Fold::new(dialect(Protocol::Claude), false);
        let ((), most) = most_held(|| {
            for _ in 0..(2 * STREAM_MAX / piece.len()) {
                stream.feed(piece.as_bytes());
            }
            stream.finish();
        });
        assert!(most <= STREAM_MAX, "{word}: {most} bytes held");
        check_stream(&stream);
    }
}

#[test]
fn a_view_is_read_back_as_it_was_written_or_not_at_all() {
    let seeds = seeds(&[
        r#"{"project":"p","queue_size":1,"current_task":"job-20260130-143000-x.md","is_processing":true,
            "queued_tasks":["job-20260130-143000-y.md"],"task_start_time":"2026-01-30T12:43:00","attempt":1,
            "retry_at":null,"hold":{"kind":"usage_limit","reason":"r","until":"2026-01-30T12:43:00Z"},
            "updated_at":"2026-01-30T12:43:00+01:00","items_mtime":"1.5"}"#,
        r#"{"project":"p","queue_size":0,"current_task":null,"is_processing":false,"queued_tasks":[]}"#,
    ]);
    fuzz("view", &seeds, |bytes, _| {
        let Ok(view) = serde_json::from_slice::<QueueView>(bytes) else {
            return;
        };
        let until = view.hold.as_ref().and_then(|hold| hold.until);
        let times = [view.task_start_time, view.retry_at, until, view.updated_at];
        if times.into_iter().flatten().all(is_of_four_digits) {
            let again = serde_json::to_vec(&view).unwrap();
            assert_eq!(serde_json::from_slice::<QueueView>(&again).unwrap(), view);
        }
    });
}

#[test]
fn times_and_durations_are_read_whole_and_told_again() {
    let seeds = seeds(&[
        "2026-11-20T12:00:00.123+02:00",
        "2026-11-20 12:00:00Z",
        "2026-01-30T12:43:00.123456",
        "1h30m",
        "200ms",
        "90s",
    ]);
    fuzz("times", &seeds, |bytes, dice| {
        let text = String::from_utf8_lossy(bytes);
        if let Some(time) = Wall::parse(&text) {
            let is_of_time = |b: u8| b.is_ascii_digit() || b"-+:.TtZz ".contains(&b);
            assert!(text.bytes().all(is_of_time));
            if is_of_four_digits(time) {
                assert_eq!(Wall::parse(&time.to_string()), Some(time));
                assert!(time.midnight() > time && time.day().len() == 10);
                assert_eq!(time.stamp().len(), 15);
            }
        }
        if let Some(duration) = parse_duration(&text) {
            assert!(text.bytes().all(|b| b.is_ascii_alphanumeric()));
            assert!(Instant::now().checked_add(duration).is_some());
            assert!(!human(duration).is_empty());
        }
        // Inodes and agents may claim any time at all.
        let any = Wall((dice.roll(usize::MAX) as i64) << dice.roll(8));
        let words = [any.to_string(), any.day(), any.stamp(), any.short(Wall(0))];
        assert!(words.iter().all(|word| !word.is_empty()));
        let (later, since) = (any.plus(Duration::MAX), any.since(Wall(i64::MIN)));
        let _ = (any.midnight(), later, since);
    });
    for most in [i64::MIN, i64::MAX] {
        let any = Wall(most);
        let _ = (any.to_string(), any.stamp(), any.midnight(), any.short(any));
    }
    // Each part could be a duration; the sum could not be added to any time.
    assert_eq!(parse_duration(&"213503982334d".repeat(600)), None);
}

#[test]
fn a_command_line_is_understood_or_refused_without_harm_to_the_terminal() {
    let seeds = seeds(&[
        "queue\0--json",
        "-p\0x\0cancel\0job-20260130-143000-x\0--all",
        "register\0/a/b\0--name\0n\0--layout\0tasks",
        "wait\0job-20260130-143000-x\0--timeout\u{0}5m",
        "logs\0-f\0job-20260130-143000-x.md",
        "submit\0-d\0desc\0-",
        "stats\0--since\u{0}2026-01-01",
    ]);
    fuzz("command line", &seeds, |bytes, _| {
        let words = bytes.split(|&byte| byte == 0);
        let words = words.map(|word| OsString::from_vec(word.to_vec()));
        if let Err(error) = cli::parse(words) {
            assert!(!error.to_string().is_empty());
            assert!(is_calm(&render::clean(&error.to_string())));
        }
    });
}

#[test]
fn no_text_is_shown_that_moves_a_cursor_or_is_too_wide() {
    let seeds = seeds(&[
        "plain text\n\tü 漢字 😀",
        "\x1b[31mred\x1b[0m \u{202e}abc\u{9b}2J",
    ]);
    fuzz("render", &seeds, |bytes, dice| {
        let text = String::from_utf8_lossy(bytes);
        let clean = render::clean(&text);
        assert!(is_calm(&clean));
        assert_eq!(render::clean(&clean), clean);
        let line = render::clean_line(&text);
        assert!(is_calm(&line) && !line.contains(['\n', '\t']));
        let columns = dice.roll(100);
        let wide = render::width(&render::fit(&line, columns));
        assert!(wide <= columns, "{wide} of {columns} columns");
    });
}

const RESULT: &str = r#"{
  "job_id": "job-20260130-143000-x", "status": "completed", "created_at": "2026-01-30T14:30:00.000+00:00",
  "started_at": "2026-01-30T14:30:01.000+00:00", "completed_at": "2026-01-30T14:31:00.000+00:00",
  "queue_position": 1, "worker_output": {"summary": "Done.", "raw_output": "Done.", "usage": {"input_tokens": 10,
  "output_tokens": 20}, "cost_usd": 0.5}, "audit_score": 90, "audit_notes": null, "artifacts": ["a.txt"],
  "error": null, "retry_count": 0, "stdout": "Done.", "stderr": null, "duration_seconds": 59.5, "error_kind": null,
  "project": "p", "agent": "claude", "attempts": [{"started_at": "2026-01-30T14:30:01.000+00:00",
  "duration_seconds": 59.5, "exit_code": 0, "signal": null, "error_kind": null, "error": null, "session_id": "s",
  "cost_usd": 0.5}], "permission_denials": [{"tool_name": "Bash", "tool_input": {"command": "ls"}}],
  "leftovers": 0, "document_sha256": null, "logs": ["jobs/logs/job-20260130-143000-x.jsonl"] }"#;

/// Whatever lies where our files belong, each reading command ends by itself, says something and
/// harms no terminal.
#[test]
fn damaged_results_views_claims_and_logs_are_shown_without_harm() {
    const ID: &str = "job-20260130-143000-x";
    let scratch = Scratch::new("shown");
    for dir in ["items", "results", "state", "logs"] {
        fs::create_dir_all(scratch.0.join("p/jobs").join(dir)).unwrap();
    }
    let root = scratch.0.to_str().unwrap();
    let registry = format!(r#"{{"projects":{{"p":{{"path":"{root}/p"}}}}}}"#);
    scratch.put("registered.json", registry.as_bytes());
    scratch.put(&format!("p/jobs/items/{ID}.md"), b"text");
    let results = seeds(&[
        RESULT,
        &RESULT.replace("Done.", "\u{9b}2J\u{7f}\u{202e}Done.\\u001b[2J"),
    ]);
    let claims = seeds(&[CLAIM]);
    let streams = streams();
    let show_json = format!("{ID} --json");
    let logs = format!("logs {ID}");
    let commands = [
        ID,
        &show_json,
        "status",
        "status --json",
        "queue",
        &logs,
        "stats",
    ];
    let show = |arguments: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_job-monitor"))
            .args(arguments.split(' '))
            .env_clear()
            .env("MONITOR_SYSTEM_ROOT", root)
            .env("HOME", root)
            .env("LANG", "C.UTF-8")
            .current_dir(&scratch.0)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let status = output.status.code();
        let [out, err] =
            [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
        let told = format!("{arguments:?}: {status:?}\n{out:?}\n{err:?}");
        assert!(matches!(status, Some(0 | 1 | 3)), "{told}");
        assert!(is_calm(&out) && is_calm(&err), "{told}");
        if arguments.contains("--json") && status == Some(0) {
            serde_json::from_str::<serde_json::Value>(&out).expect(&told);
        }
        assert!(!(out.is_empty() && err.is_empty()), "{told}");
    };
    let result = format!("p/jobs/results/{ID}.json");
    for bytes in &results {
        scratch.put(&result, bytes);
        for arguments in commands {
            show(arguments);
        }
    }
    fuzz("shown", &results, |bytes, dice| {
        let path = scratch.put(&result, bytes);
        if dice.roll(4) == 0 {
            fs::remove_file(path).unwrap();
        }
        scratch.put(&format!("p/jobs/state/{ID}.claim"), &changed(dice, &claims));
        scratch.put(&format!("p/jobs/logs/{ID}.jsonl"), &changed(dice, &streams));
        show(commands[dice.roll(commands.len())]);
    });
}
