//! A look at single members of a JSON text, which neither builds the rest of it nor minds what that
//! is. A value of an unexpected type counts as absent and spoils nothing around it.

use super::TEXT_MAX;
use super::lines::Capped;
use serde::Deserializer as _;
use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// The longest name, id or class that is kept.
const WORD_MAX: usize = 256;

/// The texts of some members of a JSON object; of one that is cut or garbled, as an error, those that
/// are whole. What stands twice in the object counts as its last.
pub fn pick<'a, const N: usize>(
    json: &'a str,
    keys: [&str; N],
) -> Result<[Option<&'a str>; N], [Option<&'a str>; N]> {
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

    let mut found = [None; N];
    let mut json = serde_json::Deserializer::from_str(json);
    let whole = json.deserialize_map(Picker(keys, &mut found)).is_ok() && json.end().is_ok();
    if whole { Ok(found) } else { Err(found) }
}

/// The same of a value inside a line that was read whole: absent is an object without members.
pub fn members<'a, const N: usize>(json: Option<&'a str>, keys: [&str; N]) -> [Option<&'a str>; N] {
    json.and_then(|json| pick(json, keys).ok())
        .unwrap_or([None; N])
}

/// Calls `each` with the text of every item of a JSON array; with none if it is no array.
pub fn each_item<'a>(json: Option<&'a str>, each: impl FnMut(&'a str)) {
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
    let _ =
        serde_json::Deserializer::from_str(json.unwrap_or_default()).deserialize_seq(Items(each));
}

/// A value of the type wanted.
pub fn parse<T: DeserializeOwned>(json: &str) -> Option<T> {
    serde_json::from_str(json).ok()
}

/// A string, of which more than [`TEXT_MAX`] bytes lose their middle. Half a surrogate pair, which an agent writes when it shortens a text between the two, is
/// no reason to lose the text: read as bytes, it becomes U+FFFD.
pub fn text(json: &str) -> Option<String> {
    struct Bytes;

    impl Visitor<'_> for Bytes {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }

        fn visit_bytes<E>(self, bytes: &[u8]) -> Result<String, E> {
            if bytes.len() <= TEXT_MAX {
                return Ok(String::from_utf8_lossy(bytes).into_owned());
            }
            let mut capped = Capped::new(TEXT_MAX);
            for piece in bytes.chunks(TEXT_MAX) {
                capped.push(&String::from_utf8_lossy(piece));
            }
            Ok(capped.into_text())
        }
    }

    serde_json::Deserializer::from_str(json)
        .deserialize_bytes(Bytes)
        .ok()
}

/// A short string: a name, an id, a class.
pub fn word(json: &str) -> Option<String> {
    text(json).filter(|word| word.len() <= WORD_MAX)
}

/// A number, also one in a string.
pub fn number(json: &str) -> Option<f64> {
    let written = text(json).unwrap_or_else(|| json.to_owned());
    written
        .trim()
        .parse()
        .ok()
        .filter(|number: &f64| number.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_whatever_stands_around_them() {
        let json = r#"{"x":[{"a":9}],"a":1,"b":"t","a":{"c":[2]}}"#;
        assert_eq!(
            pick(json, ["a", "b", "z"]),
            Ok([Some("{\"c\":[2]}"), Some("\"t\""), None])
        );
        assert_eq!(
            pick(r#"{"a":1,"b":"cut"#, ["a", "b"]),
            Err([Some("1"), None])
        );
        for not in ["[1]", "5", "{}x", "", "{\"a\":1}{}"] {
            assert!(pick(not, ["a"]).is_err(), "{not}");
        }
        let mut items = Vec::new();
        each_item(Some("[1, {\"a\": 2}]"), |item| items.push(item));
        each_item(Some("{}"), |_| panic!("no array"));
        assert_eq!(items, ["1", "{\"a\": 2}"]);
    }

    #[test]
    fn half_a_surrogate_pair_is_no_reason_to_lose_a_text() {
        let json = r#""a\ud83d b\\ud83d \ud83d\ude00 \ude00\n""#;
        let read = text(json).unwrap();
        assert!(
            read.starts_with("a\u{fffd}") && read.ends_with("\u{fffd}\n"),
            "{read}"
        );
        assert!(read.contains(" b\\ud83d 😀 "), "{read}");
        assert_eq!(text("[1]"), None);
        assert_eq!(text("5"), None);
    }

    #[test]
    fn numbers_may_stand_in_strings() {
        assert_eq!(number("\" 5.5\""), Some(5.5));
        assert_eq!(number("7"), Some(7.0));
        assert_eq!(number("1e999"), None);
        assert_eq!(number("\"nan\""), None);
        assert_eq!(word(&format!("\"{}\"", "x".repeat(300))), None);
    }
}
