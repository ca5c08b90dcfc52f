//! A job document as text: whether it can be run, what it asks for, what of it the agent gets.

use crate::job::{JobId, Meta};
use crate::project::Policy;
use crate::time::{Wall, parse_duration};
use std::borrow::Cow;
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
    pub fn tighten<'a>(&self, policy: &'a Policy) -> Result<Cow<'a, Policy>, String> {
        if let Wishes {
            timeout: None,
            max_budget_usd: None,
            retries: None,
            agent: None,
            ..
        } = self
        {
            return Ok(Cow::Borrowed(policy));
        }
        let agent = match &self.agent {
            None => policy.agent.clone(),
            Some(name) => (policy.agents.iter().chain([&policy.agent]))
                .find(|agent| agent.name == *name)
                .ok_or_else(|| {
                    format!(
                        "front matter \"agent\" is {name:?}, but there is no agent of that name; \
                         name one that the settings have, and submit it again"
                    )
                })?
                .clone(),
        };
        let budget = [policy.max_budget_usd, self.max_budget_usd];
        Ok(Cow::Owned(Policy {
            agent,
            timeout: self.timeout.unwrap_or(policy.timeout).min(policy.timeout),
            retries: self.retries.unwrap_or(policy.retries).min(policy.retries),
            max_budget_usd: budget.into_iter().flatten().reduce(f64::min),
            ..policy.clone()
        }))
    }
}

/// Checks a document's content, of which at most `max + 1` bytes need have been read. The error
/// is a sentence that says what is wrong and what to do.
pub fn check<'a>(
    bytes: &'a [u8],
    meta: &Meta,
    max: u64,
    private_group: bool,
) -> Result<Document<'a>, String> {
    if meta.mode & 0o002 != 0 || (meta.mode & 0o020 != 0 && !private_group) {
        return Err(format!(
            "the document can be written by others (mode {:03o}); run chmod go-w on it and submit it again",
            meta.mode & 0o777
        ));
    }
    if bytes.len() as u64 > max {
        return Err(format!(
            "the document has {} bytes, and at most {max} are accepted; shorten it, or raise the setting max_document",
            meta.size.max(bytes.len() as u64)
        ));
    }
    if bytes.contains(&0) {
        return Err("the document has a NUL byte in it; write it as plain text".to_owned());
    }
    let text = std::str::from_utf8(bytes).map_err(|e| {
        format!(
            "the document is not UTF-8 text (byte {}); save it as UTF-8",
            e.valid_up_to()
        )
    })?;
    let (front, body) = split(text);
    let wishes = front.map_or(Ok(Wishes::default()), read_front)?;
    if body.trim().is_empty() {
        return Err(
            "the document has nothing but white space; write what is to be done".to_owned(),
        );
    }
    Ok(Document { wishes, body })
}

/// Splits the front matter off: a first line of `---`, then everything up to the next such line.
/// Without an end there is no front matter, but a text that begins with a ruler.
fn split(text: &str) -> (Option<&str>, &str) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = text.split_inclusive('\n');
    let Some(first) = lines.next().filter(|line| line.trim_end() == "---") else {
        return (None, text);
    };
    let mut end = first.len();
    for line in lines {
        if line.trim_end() == "---" {
            return (Some(&text[first.len()..end]), &text[end + line.len()..]);
        }
        end += line.len();
    }
    (None, text)
}

/// A wish that cannot be read rejects the document: what was meant as a limit must not be lost.
fn read_front(front: &str) -> Result<Wishes, String> {
    let mut wishes = Wishes::default();
    for line in front.lines() {
        // Nested or unknown matter is somebody else's business.
        let Some((key, value)) = line
            .split_once(':')
            .filter(|_| !line.starts_with([' ', '\t', '#']))
        else {
            continue;
        };
        let value = value.split(" #").next().unwrap_or_default().trim();
        let value = value.trim_matches(|c| c == '"' || c == '\'');
        let wrong = |wanted: &str| {
            format!(
                "front matter {:?} must be {wanted}; mend it and submit it again",
                key.trim()
            )
        };
        match key.trim() {
            "timeout" => {
                let timeout = parse_duration(value).filter(|timeout| !timeout.is_zero());
                wishes.timeout = Some(timeout.ok_or_else(|| wrong("a duration such as 30m"))?);
            }
            "model" => {
                let fine = |model: &&str| {
                    !model.is_empty()
                        && !model.starts_with('-')
                        && !model.contains(char::is_control)
                };
                wishes.model = Some(
                    Some(value)
                        .filter(fine)
                        .ok_or_else(|| wrong("the name of a model"))?
                        .to_owned(),
                );
            }
            "max-turns" => {
                let turns = value.parse().ok().filter(|&turns| turns > 0);
                wishes.max_turns = Some(turns.ok_or_else(|| wrong("a whole number from 1"))?);
            }
            "max-budget-usd" => {
                let amount = value
                    .parse()
                    .ok()
                    .filter(|&amount: &f64| amount > 0.0 && amount.is_finite());
                wishes.max_budget_usd = Some(amount.ok_or_else(|| wrong("an amount above 0"))?);
            }
            "retries" => {
                wishes.retries = Some(value.parse().map_err(|_| wrong("a whole number from 0"))?)
            }
            _ => {}
        }
    }
    Ok(wishes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn meta(mode: u32) -> Meta {
        Meta {
            size: 0,
            mtime_ns: 0,
            mode,
            uid: 0,
        }
    }

    fn read(text: &str) -> Result<Document<'_>, String> {
        check(text.as_bytes(), &meta(0o644), 1000, false)
    }

    #[test]
    fn front_matter_is_read_and_kept_from_the_agent() {
        let text = "---\ntimeout: 30m\nmodel: \"opus\" # the best\nmax-turns: 5\nretries: 0\nmax-budget-usd: 1.5\nother: x\nnested:\n  timeout: 1s\n---\n# Do it\n";
        let document = read(text).unwrap();
        assert_eq!(document.body, "# Do it\n");
        let wishes = Wishes {
            timeout: Some(Duration::from_secs(1800)),
            model: Some("opus".to_owned()),
            max_turns: Some(5),
            max_budget_usd: Some(1.5),
            retries: Some(0),
            ..Wishes::default()
        };
        assert_eq!(document.wishes, wishes);
        assert_eq!(read("---\r\ntimeout: 1s\r\n---\r\nx").unwrap().body, "x");
        assert_eq!(
            read("no front\n---\nx\n---\n").unwrap().body,
            "no front\n---\nx\n---\n"
        );
        assert_eq!(read("---\nnever ends\n").unwrap().body, "---\nnever ends\n");
    }

    #[test]
    fn a_limit_that_cannot_be_read_is_not_lost() {
        for front in [
            "timeout: soon",
            "timeout: 0",
            "max-turns: many",
            "max-budget-usd: -1",
            "retries: x",
            "model: -x",
        ] {
            let error = read(&format!("---\n{front}\n---\nx")).unwrap_err();
            assert!(error.contains("front matter"), "{front}: {error}");
        }
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
            let error = check(bytes, &meta(mode), 1000, false).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
        assert!(check(b"x", &meta(0o664), 1000, true).is_ok());
    }
}
