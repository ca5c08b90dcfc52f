//! A look at single members of a JSON text, which neither builds the rest of it nor minds what
//! that is. A value of an unexpected type counts as absent and spoils nothing around it.

use super::lines::escape_len;
use serde::Deserializer as _;
use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// The longest name, id or class that is kept.
const WORD_MAX: usize = 256;

/// The texts of some members of a JSON object, without building anything of the rest; `None`
/// if it is no whole object. What is asked for twice in the object is its last.
pub(crate) fn pick<'a, const N: usize>(
    json: &'a str,
    keys: [&str; N],
) -> Option<[Option<&'a str>; N]>
where
    [Option<&'a str>; N]: Default,
{
    let mut found = Default::default();
    pick_into(json, keys, &mut found).then_some(found)
}

/// The same for an object that may be cut: `found` gets what is whole. Returns whether all is.
pub(super) fn pick_into<'a, const N: usize>(
    json: &'a str,
    keys: [&str; N],
    found: &mut [Option<&'a str>; N],
) -> bool {
    struct Picker<'f, 'k, 'a, const N: usize>([&'k str; N], &'f mut [Option<&'a str>; N]);

    impl<'a, const N: usize> Visitor<'a> for Picker<'_, '_, 'a, N> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<M: MapAccess<'a>>(self, mut map: M) -> Result<(), M::Error> {
            while let Some(Key(key)) = map.next_key()? {
                match self.0.iter().position(|wanted| *wanted == key) {
                    Some(index) => self.1[index] = Some(map.next_value::<&RawValue>()?.get()),
                    None => drop(map.next_value::<IgnoredAny>()?),
                }
            }
            Ok(())
        }
    }

    #[derive(serde::Deserialize)]
    struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

    let mut json = serde_json::Deserializer::from_str(json);
    json.deserialize_map(Picker(keys, found)).is_ok() && json.end().is_ok()
}

/// Calls `each` with the text of every item of a JSON array; with none if it is no array.
pub(crate) fn each_item<'a>(json: &'a str, each: impl FnMut(&'a str)) {
    struct Items<F>(F);

    impl<'a, F: FnMut(&'a str)> Visitor<'a> for Items<F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }

        fn visit_seq<S: SeqAccess<'a>>(mut self, mut items: S) -> Result<(), S::Error> {
            while let Some(item) = items.next_element::<&RawValue>()? {
                (self.0)(item.get());
            }
            Ok(())
        }
    }

    // The text is part of a value that was read whole, so the only error is another type.
    let _ = serde_json::Deserializer::from_str(json).deserialize_seq(Items(each));
}

/// A value of the type wanted. Half a surrogate pair, which the agent writes when it shortens a
/// text between the two, is no reason to lose the text.
pub(crate) fn parse<T: DeserializeOwned>(json: &str) -> Option<T> {
    let mended = || {
        json.contains("\\u")
            .then(|| serde_json::from_str(&mend(json)).ok())
    };
    serde_json::from_str(json).ok().or_else(|| mended()?)
}

/// Replaces what is half of a surrogate pair.
fn mend(json: &str) -> String {
    let mut mended = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        let escape = escape_len(&rest.as_bytes()[at..]);
        let Some((before, after)) = rest.split_at_checked(at + escape) else {
            break;
        };
        let is_half = escape == 6
            && matches!(&before.as_bytes()[at + 2..], [b'd' | b'D', high, ..] if *high >= b'8');
        mended.push_str(if is_half { &before[..at] } else { before });
        mended.push_str(if is_half { "\\ufffd" } else { "" });
        rest = after;
    }
    mended + rest
}

/// A short string: a name, an id, a class.
pub(crate) fn word(json: &str) -> Option<String> {
    parse::<String>(json).filter(|word| word.len() <= WORD_MAX)
}

/// A number, also one in a string.
pub(super) fn number(json: &str) -> Option<f64> {
    let text = parse::<String>(json).unwrap_or_else(|| json.to_owned());
    text.trim()
        .parse()
        .ok()
        .filter(|number: &f64| number.is_finite())
}
