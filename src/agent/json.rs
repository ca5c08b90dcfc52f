//! A look at the members of a JSON object, which does not build what nobody asks for. A value of an
//! unexpected type counts as absent and spoils nothing around it.

use super::*;

/// The longest name, id or class that is kept.
const WORD_MAX: usize = 256;

/// The members of an object, each as the JSON that was written. Of two with one name the last counts.
#[derive(Debug, Default, Deserialize)]
pub struct Object<'a>(#[serde(borrow)] BTreeMap<String, &'a RawValue>);

/// Reads an object; nothing of one that is cut or garbled.
pub fn object(json: &str) -> Option<Object<'_>> {
    serde_json::from_str(json).ok()
}

impl<'a> Object<'a> {
    /// The JSON of a member; empty if it is absent.
    pub fn raw(&self, key: &str) -> &'a str {
        self.0.get(key).map_or("", |json| json.get())
    }

    /// A member that is an object; one without members if it is none.
    pub fn object(&self, key: &str) -> Object<'a> {
        object(self.raw(key)).unwrap_or_default()
    }

    /// The items of a member that is a list, each as JSON.
    pub fn items(&self, key: &str) -> Vec<&'a str> {
        let items: Vec<&RawValue> = serde_json::from_str(self.raw(key)).unwrap_or_default();
        items.into_iter().map(RawValue::get).collect()
    }

    /// The objects in a member that is a list.
    pub fn objects(&self, key: &str) -> Vec<Object<'a>> {
        self.items(key).into_iter().filter_map(object).collect()
    }

    /// A string; empty if it is absent.
    pub fn text(&self, key: &str) -> String {
        text(self.raw(key)).unwrap_or_default()
    }

    /// A short string: a name, an id, a class.
    pub fn word(&self, key: &str) -> Option<String> {
        text(self.raw(key)).filter(|word| word.len() <= WORD_MAX)
    }

    /// Whether a member is this short string.
    pub fn is(&self, key: &str, word: &str) -> bool {
        self.word(key).is_some_and(|found| found == word)
    }

    /// A number, also one in a string.
    pub fn number(&self, key: &str) -> Option<f64> {
        let written = text(self.raw(key)).unwrap_or_else(|| self.raw(key).to_owned());
        let number: Option<f64> = written.trim().parse().ok();
        number.filter(|number| number.is_finite())
    }

    /// A value of the type wanted.
    pub fn value<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        serde_json::from_str(self.raw(key)).ok()
    }
}

/// Reads a string; one of more than [`TEXT_MAX`] bytes loses its middle. An agent that shortens a text
/// may write half a surrogate pair. The string is read as bytes, so that this half becomes U+FFFD and the
/// text is not lost.
pub fn text(json: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Bytes<'a>(#[serde(borrow)] Cow<'a, [u8]>);
    let Bytes(bytes) = serde_json::from_str(json).ok()?;
    let mut capped = Capped::default();
    let pieces = bytes.chunks(TEXT_MAX).map(String::from_utf8_lossy);
    pieces.for_each(|piece| capped.push(&piece));
    Some(capped.into_text())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_whatever_stands_around_them() {
        let json = r#"{"x":[{"a":9}],"a":1,"b":"t","a":{"c":[2]}}"#;
        let found = object(json).unwrap();
        assert_eq!((found.raw("a"), found.raw("z")), ("{\"c\":[2]}", ""));
        assert_eq!(found.text("b"), "t");
        assert_eq!(found.object("a").items("c"), ["2"]);
        assert_eq!(found.objects("x")[0].number("a"), Some(9.0));
        assert!(found.objects("a").is_empty() && found.object("b").0.is_empty());
        for not in ["[1]", "5", "{}x", "", "{\"a\":1}{}", r#"{"a":1,"b":"cut"#] {
            assert!(object(not).is_none(), "{not}");
        }
    }

    #[test]
    fn half_a_surrogate_pair_is_no_reason_to_lose_a_text() {
        let json = r#""a\ud83d b\\ud83d \ud83d\ude00 \ude00\n""#;
        let read = text(json).unwrap();
        assert!(read.starts_with("a\u{fffd}"), "{read}");
        assert!(read.contains(" b\\ud83d 😀 "), "{read}");
        assert!(read.ends_with("\u{fffd}\n"), "{read}");
        assert_eq!(text("[1]"), None);
        assert_eq!(text("5"), None);
    }

    #[test]
    fn numbers_may_stand_in_strings() {
        let found = object(r#"{"a":" 5.5","b":7,"c":1e999,"d":"nan"}"#).unwrap();
        let numbers = ["a", "b", "c", "d"].map(|key| found.number(key));
        assert_eq!(numbers, [Some(5.5), Some(7.0), None, None]);
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(300));
        assert_eq!(object(&long).unwrap().word("a"), None);
    }
}
