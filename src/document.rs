//! A job document as text: whether it can be run, what it asks for, what of it the agent gets.

use crate::job::{JobId, Meta};
use crate::project::Policy;
use crate::time::{Wall, parse_duration, parse_when};
use std::time::Duration;

/// A document that can be run.
#[derive(Debug, PartialEq)]
pub struct Document<'a> {
    /// What it asks for in its front matter.
    pub wishes: Wishes,
    /// The text for the agent, without the front matter.
    pub body: &'a str,
}

/// What a document's front matter asks for; it may only tighten the policy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wishes {
    /// At most this much wall time.
    pub timeout: Option<Duration>,
    /// This model.
    pub model: Option<String>,
    /// At most so many turns.
    pub max_turns: Option<u32>,
    /// At most so many US dollars.
    pub max_budget_usd: Option<f64>,
    /// At most so many repeats.
    pub retries: Option<u32>,
    /// This agent, which must be one of the policy's `agents`.
    pub agent: Option<String>,
    /// Not before this; others go first until then.
    pub not_before: Option<Wall>,
    /// The finished job whose session is resumed.
    pub continues: Option<JobId>,
}

impl Wishes {
    /// The policy with these wishes taken in: whatever is tighter holds. The error is a sentence.
    pub fn tighten(&self, policy: &Policy) -> Result<Policy, String> {
        let mut tight = policy.clone();
        tight.timeout = self.timeout.unwrap_or(policy.timeout).min(policy.timeout);
        tight.retries = self.retries.unwrap_or(policy.retries).min(policy.retries);
        let budgets = [policy.max_budget_usd, self.max_budget_usd];
        tight.max_budget_usd = budgets.into_iter().flatten().reduce(f64::min);
        if let Some(name) = &self.agent {
            let named = policy.agents.iter().find(|agent| agent.name == *name);
            tight.agent = named.cloned().ok_or_else(|| {
                let names: Vec<_> = policy.agents.iter().map(|agent| &*agent.name).collect();
                let known = names.join(", ");
                format!("the settings have no agent {name:?}, only {known}; name one of them and submit it again")
            })?;
        }
        let turns = self.max_turns.map(|_| "max-turns");
        if let Some(limit) = turns.or(tight.budget()).filter(|_| !tight.agent.costs) {
            let name = &tight.agent.name;
            return Err(format!(
                "the agent {name:?} does not tell what it costs, nor its turns, so that {limit} cannot be kept; leave one of them out and submit it again"
            ));
        }
        Ok(tight)
    }
}

/// Checks a document's content, of which at most `max + 1` bytes need have been read. The error
/// is a sentence that says what is wrong and what to do.
pub fn check<'a>(bytes: &'a [u8], meta: &Meta, max: u64) -> Result<Document<'a>, String> {
    let (mode, length) = (meta.mode & 0o777, bytes.len() as u64);
    if mode & 0o022 != 0 {
        return Err(format!(
            "the document can be written by others (mode {mode:03o}); run chmod go-w on it and submit it again"
        ));
    }
    if length > max {
        let size = meta.size.max(length);
        return Err(format!(
            "the document has {size} bytes, and at most {max} are accepted; shorten it, or raise the setting max_document"
        ));
    }
    if bytes.contains(&0) {
        return Err("the document has a NUL byte in it; write it as plain text".to_owned());
    }
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let at = e.valid_up_to();
        format!("the document is not UTF-8 text (byte {at}); save it as UTF-8")
    })?;
    let (front, body) = split(text);
    let wishes = read_front(&front)?;
    if body.trim().is_empty() {
        let what = "the document has nothing but white space; write what is to be done";
        return Err(what.to_owned());
    }
    Ok(Document { wishes, body })
}

/// The keys of front matter that are ours, and what the value of each must be.
const KEYS: [(&str, &str); 8] = [
    ("timeout", "a duration such as 30m"),
    ("model", "the name of a model"),
    ("max-turns", "a whole number from 1"),
    ("max-budget-usd", "an amount above 0"),
    ("retries", "a whole number from 0"),
    ("agent", "the name of an agent"),
    ("not-before", "a time such as 2026-12-01 22:00"),
    ("continues", "the id of a finished job"),
];

/// The beginnings of keys that were probably meant as limits, and the key of ours that is named then. The
/// first row that fits counts.
const LIMITS: [(&str, &str); 9] = [
    ("max-budget", "max-budget-usd"),
    ("max-cost", "max-budget-usd"),
    ("max-", "max-turns"),
    ("budget", "max-budget-usd"),
    ("cost", "max-budget-usd"),
    ("limit", "max-turns"),
    ("retr", "retries"),
    ("timeo", "timeout"),
    ("time-limit", "timeout"),
];

/// A line of front matter: the key in our spelling, and the value.
type Line<'a> = (String, &'a str);

/// Splits the front matter off: the block between `---` at the very top and `---` or `...`, if all of
/// it reads like front matter and a key of it concerns us. Else it is text that begins with a rule,
/// and all of it is the agent's.
fn split(text: &str) -> (Vec<Line<'_>>, &str) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut front = Vec::new();
    let mut is_open = false;
    let mut end = 0;
    for line in text.split_inclusive('\n') {
        end += line.len();
        match line.trim_end() {
            "---" if !is_open => is_open = true,
            "" => {}
            "---" | "..." if is_open => {
                let concerns_us = |(key, _): &Line<'_>| nearest(key).is_some();
                return match front.iter().any(concerns_us) {
                    true => (front, &text[end..]),
                    false => (Vec::new(), text),
                };
            }
            line if is_open && is_passed_over(line) => {}
            line => match key_line(line).filter(|_| is_open) {
                Some(line) => front.push(line),
                None => break,
            },
        }
    }
    (Vec::new(), text)
}

/// Comments, and the continuations of keys.
fn is_passed_over(line: &str) -> bool {
    line.starts_with(['#', ' ', '\t']) || line == "-" || line.starts_with("- ")
}

/// Reads `key: value`. Without a space behind the colon it may be anything, such as an address: then
/// it is a key only if it is one that concerns us.
fn key_line(line: &str) -> Option<Line<'_>> {
    let (key, value) = line.split_once(':')?;
    let key = unquoted(key).to_lowercase().replace('_', "-");
    let is_key = value.is_empty() || value.starts_with([' ', '\t']) || nearest(&key).is_some();
    let value = value.split(" #").next().unwrap_or_default();
    (is_key && !key.is_empty()).then_some((key, unquoted(value)))
}

fn unquoted(text: &str) -> &str {
    text.trim().trim_matches(['"', '\''])
}

/// The key of ours that this one is, or is a slip away from, or that limits what it seems to limit;
/// and what the value of that must be.
fn nearest(key: &str) -> Option<(&'static str, &'static str)> {
    let named = |name: &str| KEYS.into_iter().find(|(ours, _)| *ours == name);
    let is_it = |(ours, _): &(&str, &str)| is_slip(key, ours);
    let slip = || KEYS.into_iter().find(is_it);
    let limit = || LIMITS.into_iter().find(|(start, _)| key.starts_with(start));
    named(key).or_else(slip).or_else(|| named(limit()?.1))
}

/// Whether one word becomes another by a letter more, less or other, or by two that are swapped.
fn is_slip(from: &str, to: &str) -> bool {
    let pairs = from.bytes().zip(to.bytes());
    let same = pairs.take_while(|(mine, other)| mine == other).count();
    let (mine, theirs) = (&from.as_bytes()[same..], &to.as_bytes()[same..]);
    match (mine, theirs) {
        ([a, b, rest @ ..], [c, d, others @ ..]) if (a, b, rest) == (d, c, others) => true,
        ([_, rest @ ..], [_, others @ ..]) => rest == others || rest == theirs || mine == others,
        _ => mine.len() + theirs.len() == 1,
    }
}

/// Reads what the keys of ours ask for. What cannot be read rejects the document, and so does a key
/// that looks like one of ours: no limit is ever lost silently.
fn read_front(front: &[Line<'_>]) -> Result<Wishes, String> {
    let mut wishes = Wishes::default();
    let mut seen = Vec::new();
    for (key, value) in front {
        let Some((ours, form)) = nearest(key) else {
            continue;
        };
        let what = if key != ours {
            format!("is no key of ours; the nearest is {ours:?}")
        } else if seen.contains(&ours) {
            "stands there twice".to_owned()
        } else if read_wish(ours, value, &mut wishes).is_none() {
            format!("must be {form}")
        } else {
            seen.push(ours);
            continue;
        };
        let error = format!("front matter {key:?} {what}; mend it and submit it again");
        return Err(error);
    }
    Ok(wishes)
}

fn read_wish(key: &str, value: &str, wishes: &mut Wishes) -> Option<()> {
    let word = || {
        let is_fine = !value.starts_with(['-', '|', '>']) && !value.contains(char::is_control);
        (is_fine && !value.is_empty()).then(|| value.to_owned())
    };
    let is_money = |usd: &f64| *usd > 0.0 && usd.is_finite();
    match key {
        "timeout" => wishes.timeout = Some(parse_duration(value).filter(|time| !time.is_zero())?),
        "model" => wishes.model = Some(word()?),
        "max-turns" => wishes.max_turns = Some(value.parse().ok().filter(|&turns| turns > 0)?),
        "max-budget-usd" => wishes.max_budget_usd = Some(value.parse().ok().filter(is_money)?),
        "retries" => wishes.retries = Some(value.parse().ok()?),
        "agent" => wishes.agent = Some(word()?),
        "not-before" => wishes.not_before = Some(parse_when(value)?),
        _ => wishes.continues = Some(JobId::parse(value)?),
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::{AgentSpec, Protocol};
    use std::sync::Arc;

    fn meta(mode: u32) -> Meta {
        Meta {
            mode,
            ..Meta::default()
        }
    }

    fn read(text: &str) -> Result<Document<'_>, String> {
        check(text.as_bytes(), &meta(0o644), 1000)
    }

    #[test]
    fn front_matter_is_read_and_kept_from_the_agent() {
        let text = "---\ntimeout: 30m\nmodel: \"opus\" # the best\nmax-turns: 5\nretries: 0\nmax-budget-usd: 1.5\n\
            other: x\nnested:\n  timeout: 1s\n- max-turns: 1\n\n# retries: 9\nagent: codex\n\
            not-before: 2026-12-01T22:00:00Z\ncontinues: job-20260130-143000-x\n---\n# Do it\n";
        let document = read(text).unwrap();
        assert_eq!(document.body, "# Do it\n");
        let wishes = Wishes {
            timeout: Some(Duration::from_secs(1800)),
            model: Some("opus".to_owned()),
            max_turns: Some(5),
            max_budget_usd: Some(1.5),
            retries: Some(0),
            agent: Some("codex".to_owned()),
            not_before: Wall::parse("2026-12-01T22:00:00Z"),
            continues: JobId::parse("job-20260130-143000-x"),
        };
        assert_eq!(document.wishes, wishes);
        for front in [
            "---\r\nretries: 1\r\n---\r\n",
            "\u{feff}---\nretries: 1\n...\n",
            "\u{feff}\n--- \nRetries: 1\n... \n",
            "---\nRETRIES:1\n---\n",
            "---\n\"retries\": '1'\ntitle: a: b\nsee also: http://x\n---\n",
        ] {
            let text = format!("{front}x\n---\ny");
            let document = read(&text).unwrap();
            assert_eq!(document.body, "x\n---\ny", "{front:?}");
            assert_eq!(document.wishes.retries, Some(1), "{front:?}");
        }
    }

    #[test]
    fn what_is_no_front_matter_is_text_and_all_of_it_the_agent_s() {
        for text in [
            "no front\n---\nretries: 1\n---\n",
            "---\nnever ends: 1\nretries: 1\n",
            "---\nDo this first.\n---\nThen that.\n",
            "---\nretries: 1\nDo this first.\n---\nThen that.\n",
            "---\ntitle: a plan\ntags: [x, y]\n---\nThen that.\n",
            "---\nretries: 1\nhttp://example.org\n---\nThen that.\n",
            "---\n---\nretries: 1\n---\n",
            "---\n  retries: 1\n---\nx\n",
            "--- a rule\nretries: 1\n---\n",
            "----\nretries: 1\n---\n",
        ] {
            let document = read(text).unwrap();
            assert_eq!(document.body, text);
            assert_eq!(document.wishes, Wishes::default());
        }
    }

    #[test]
    fn a_limit_that_cannot_be_read_is_not_lost() {
        for (front, wanted) in [
            ("timeout: soon", "a duration"),
            ("timeout: 0", "a duration"),
            ("timeout:", "a duration"),
            ("timeout: # later", "a duration"),
            ("Timeout: 5", "a duration"),
            ("max_turns: many", "a whole number from 1"),
            ("max-turns: 0", "a whole number from 1"),
            ("MAX_BUDGET_USD: -1", "an amount above 0"),
            ("max-budget-usd: $5", "an amount above 0"),
            ("max-budget-usd: inf", "an amount above 0"),
            ("retries: x", "a whole number from 0"),
            ("model: -x", "the name of a model"),
            ("model: |\n  x", "the name of a model"),
            ("agent: ''", "the name of an agent"),
            ("not-before: tonight", "a time such as"),
            ("continues: ../x", "the id of a finished job"),
            ("retries: 1\nRetries: 2", "twice"),
            ("max-budget: 5", "max-budget-usd"),
            ("max-cost: 5", "max-budget-usd"),
            ("max_steps: 5", "max-turns"),
            ("max turns: 5", "max-turns"),
            ("maxturns: 5", "max-turns"),
            ("timeuot: 5m", "timeout"),
            ("timeouts: 5m", "timeout"),
            ("timeout-minutes: 5", "timeout"),
            ("time_limit: 5m", "timeout"),
            ("budget: 5", "max-budget-usd"),
            ("cost-limit: 5", "max-budget-usd"),
            ("limit: 5", "max-turns"),
            ("retry: 5", "retries"),
            ("modl: x", "model"),
            ("no-before: 2026-12-01", "not-before"),
            ("continue: x", "continues"),
        ] {
            for text in [
                format!("---\ntitle: x\n{front}\n---\nx"),
                format!("\n---\n{front}\nnote: y\n...\nx"),
            ] {
                let error = read(&text).unwrap_err();
                assert!(error.starts_with("front matter \""), "{front}: {error}");
                assert!(error.contains(wanted), "{front}: {error}");
            }
        }
    }

    #[test]
    fn wishes_only_tighten() {
        let mut policy = Policy {
            max_budget_usd: Some(2.0),
            ..Policy::standard()
        };
        let mute = AgentSpec {
            costs: false,
            ..AgentSpec::new("mute", Protocol::Plain)
        };
        policy.agents = Arc::new(vec![policy.agent.clone(), mute]);
        let tight = |front: &str, policy: &Policy| {
            let text = format!("---\n{front}\n---\nx");
            let wishes = read(&text).unwrap().wishes;
            wishes.tighten(policy)
        };
        let wide = tight("timeout: 9h\nretries: 9\nmax-budget-usd: 9", &policy).unwrap();
        assert_eq!(wide, policy);
        let narrow = tight("timeout: 9s\nretries: 1\nmax-budget-usd: 1", &policy).unwrap();
        assert_eq!(narrow.timeout, Duration::from_secs(9));
        assert_eq!((narrow.retries, narrow.max_budget_usd), (1, Some(1.0)));
        for (front, why) in [
            ("agent: mute", "does not tell what it costs"),
            (
                "agent: nobody",
                "the settings have no agent \"nobody\", only claude, mute;",
            ),
        ] {
            let error = tight(front, &policy).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        policy.max_budget_usd = None;
        assert_eq!(tight("agent: mute", &policy).unwrap().agent.name, "mute");
        assert!(tight("agent: mute\nmax-budget-usd: 1", &policy).is_err());
    }

    #[test]
    fn content_that_cannot_be_run_is_told_with_its_remedy() {
        for (bytes, mode, wanted) in [
            (&b"a\0b"[..], 0o600, "NUL"),
            (b"\xff\xfe", 0o600, "UTF-8"),
            (b" \n\t", 0o600, "white space"),
            (b"---\nretries: 1\n---\n\n", 0o600, "white space"),
            (b"x", 0o666, "by others"),
            (b"x", 0o664, "by others"),
            (&[b'x'; 1001], 0o600, "at most 1000"),
        ] {
            let error = check(bytes, &meta(mode), 1000).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
