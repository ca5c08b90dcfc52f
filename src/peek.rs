//! A look at single members of a result, whatever its size, in bounded memory.
//!
//! Results are written with one member to a line, indented by its depth: by us as by the
//! predecessor. So what is wanted is found without parsing the rest, which is most of the time
//! that it takes to list a hundred thousand of them. A document of any other shape, one that was
//! mended by hand, say, is parsed as a whole.

use serde::de::IgnoredAny;
use serde_json::Value;
use std::fs::File;
use std::io::{self, BufRead, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// What is read in one go. Only texts of the agent's make longer lines.
const BLOCK: usize = 64 << 10;
/// The longest value that is kept: a text of 1 MiB, each character of it escaped.
const VALUE_MAX: usize = 7 << 20;
/// The largest document of another shape that is parsed.
const ODD_MAX: u64 = 64 << 20;
/// One up to this size is parsed, too, if something was not found in it: it is in another shape
/// after all, or its writer did not know of such a member.
const SMALL: u64 = 256 << 10;

/// What names a member: its own key, behind that of the object that it is in, which is empty for a
/// member of the document itself. What is deeper is not looked for.
pub type Key<'a> = (&'a str, &'a str);

/// A place to read documents into, one after the other.
#[derive(Debug)]
pub struct Peek(Vec<u8>);

impl Default for Peek {
    fn default() -> Peek {
        Peek(vec![0; BLOCK])
    }
}

impl Peek {
    /// The JSON texts of the members wanted, in their order. `None` if the document is no whole JSON
    /// object, or cannot be read.
    pub fn members(&mut self, document: &File, wanted: &[Key<'_>]) -> Option<Vec<Option<String>>> {
        let whole = || At(document, 0);
        let mut found = vec![None; wanted.len()];
        let is_regular = self.walk(whole(), wanted, &mut found);
        let found = texts(found);
        // What is not found may stand behind another member in its line, for instance.
        let is_clear = |text: &Option<String>| text.as_deref().is_some_and(is_json);
        let is_small = || document.metadata().is_ok_and(|meta| meta.len() <= SMALL);
        if is_regular && (found.iter().all(is_clear) || !is_small()) {
            return Some(found);
        }
        let mut text = Vec::new();
        whole().take(ODD_MAX).read_to_end(&mut text).ok()?;
        let value: Value = serde_json::from_slice(&text).ok()?;
        let member = |(above, key): &Key<'_>| match *above {
            "" => value.get(key),
            above => value.get(above)?.get(key),
        };
        let text = |key| member(key).map(Value::to_string);
        value.is_object().then(|| wanted.iter().map(text).collect())
    }

    /// Whether the document is an object in the shape that is expected; if it is not, what was found
    /// in it means nothing. Once all is found, the rest is not looked at, but for its end.
    fn walk(&mut self, from: At<'_>, wanted: &[Key<'_>], found: &mut [Option<Vec<u8>>]) -> bool {
        let mut lines = Lines {
            from,
            block: &mut self.0,
            unread: 0..0,
            is_over: false,
        };
        let mut place = Place::Before;
        let mut whole: Option<(usize, usize)> = None;
        while let Some((line, is_cut)) = lines.next() {
            let line = &lines.block[line];
            let indent = line.iter().take_while(|byte| **byte == b' ').count();
            let text = &line[indent..];
            if let Some((first, at)) = whole {
                // An array or object that is wanted; its last line is indented as its first.
                let value: &mut Vec<u8> = found[at].get_or_insert_default();
                value.extend_from_slice(text);
                if is_cut {
                    lines.rest(Some(value));
                }
                if indent <= first {
                    whole = None;
                    if first == 2 {
                        place = Place::Top;
                    }
                }
                continue;
            }
            let Ok(member) = place.member(indent, text, is_cut) else {
                return false;
            };
            let value = member.and_then(|member| {
                let parent = place.parent(indent);
                let (at, value) = wanted.iter().enumerate().find_map(|(at, (above, key))| {
                    let value = member.value_of(key)?;
                    let is_it = parent.map_or(above.is_empty(), |key| key == above.as_bytes());
                    is_it.then_some((at, value))
                })?;
                if member.opens().is_some() {
                    whole = Some((indent, at));
                }
                Some(found[at].insert(value.to_vec()))
            });
            if is_cut {
                lines.rest(value);
            }
            if whole.is_none() && place != Place::Over && found.iter().all(Option::is_some) {
                return lines.end_well();
            }
        }
        place == Place::Over
    }
}

/// The values without the comma behind them.
fn texts(found: Vec<Option<Vec<u8>>>) -> Vec<Option<String>> {
    let text = |value: Option<Vec<u8>>| {
        let mut text = String::from_utf8(value?).ok()?;
        text.truncate(text.trim_ascii_end().trim_end_matches(',').len());
        Some(text)
    };
    found.into_iter().map(text).collect()
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// A file from some place on.
struct At<'a>(&'a File, u64);

impl Read for At<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.0.read_at(into, self.1)?;
        self.1 += length as u64;
        Ok(length)
    }
}

/// Where in a document a line stands.
#[derive(PartialEq)]
enum Place {
    Before,
    /// Among the members of the document.
    Top,
    /// In a member that is an object, of this key.
    Object(Vec<u8>),
    /// In a member that is an array, whose items nobody looks for.
    Array,
    Over,
}

/// A member that begins in a line.
#[derive(Clone, Copy)]
struct Member<'a> {
    /// What stands behind the quote that opens its key.
    text: &'a [u8],
    /// Whether the line goes on.
    is_cut: bool,
}

/// A line has no business in a document of the shape expected.
struct Odd;

impl Place {
    /// The member that begins in a line with so many blanks before its text.
    fn member<'a>(
        &mut self,
        indent: usize,
        text: &'a [u8],
        is_cut: bool,
    ) -> Result<Option<Member<'a>>, Odd> {
        if matches!(self, Place::Object(_) | Place::Array) && indent >= 4 {
            let member = Member::of(text, is_cut).ok();
            return Ok(member.filter(|_| indent == 4 && *self != Place::Array));
        }
        let bare = text.trim_ascii_end();
        match (&*self, indent) {
            (Place::Before, 0) if bare == b"{" => *self = Place::Top,
            (Place::Before, 0) if bare == b"{}" => *self = Place::Over,
            (Place::Top, 0) if bare == b"}" => *self = Place::Over,
            (Place::Over, _) if bare.is_empty() => {}
            (Place::Object(_), 2) if bare == b"}" || bare == b"}," => *self = Place::Top,
            (Place::Array, 2) if bare == b"]" || bare == b"]," => *self = Place::Top,
            (Place::Top, 2) => {
                let member = Member::of(text, is_cut)?;
                match member.opens() {
                    Some(b'{') => *self = Place::Object(member.key().to_vec()),
                    Some(_) => *self = Place::Array,
                    None => {}
                }
                return Ok(Some(member));
            }
            _ => return Err(Odd),
        }
        Ok(None)
    }

    /// The key of the object that a member with so many blanks before it is in, if that is not the
    /// document itself.
    fn parent(&self, indent: usize) -> Option<&[u8]> {
        match self {
            Place::Object(key) if indent == 4 => Some(key),
            _ => None,
        }
    }
}

impl<'a> Member<'a> {
    fn of(text: &'a [u8], is_cut: bool) -> Result<Member<'a>, Odd> {
        match text {
            [b'"', text @ ..] => Ok(Member { text, is_cut }),
            _ => Err(Odd),
        }
    }

    /// Its key; of one with escapes, which nobody asks for, what no key is.
    fn key(&self) -> &'a [u8] {
        let is_end = |byte: &u8| matches!(byte, b'"' | b'\\');
        match self.text.iter().position(is_end) {
            Some(end) if self.text[end] == b'"' => &self.text[..end],
            _ => b"\\",
        }
    }

    /// The text of its value if it has this key. Of a line that is cut, white space at the end may be
    /// in the middle of a text, and so belongs to it.
    fn value_of(&self, key: &str) -> Option<&'a [u8]> {
        if self.text.first() != key.as_bytes().first() {
            return None;
        }
        match self.text.strip_prefix(key.as_bytes())? {
            [b'"', b':', b' ', value @ ..] => Some(value),
            _ => None,
        }
    }

    /// The bracket with which its line ends if its value is an array or object of more than one line;
    /// other values end in quotes, digits or letters.
    fn opens(&self) -> Option<u8> {
        let last = self.text.trim_ascii_end().last().copied();
        last.filter(|last| !self.is_cut && matches!(last, b'{' | b'['))
    }
}

/// The lines of a document, without their ends.
struct Lines<'a> {
    from: At<'a>,
    block: &'a mut Vec<u8>,
    unread: Range<usize>,
    is_over: bool,
}

impl Lines<'_> {
    /// Where in the block the next line stands, and whether it is only the beginning of one that is
    /// longer than the block.
    fn next(&mut self) -> Option<(Range<usize>, bool)> {
        loop {
            let Range { start, end } = self.unread;
            if let Some(length) = line_length(&self.block[start..end]) {
                self.unread.start = start + length + 1;
                return Some((start..start + length, false));
            }
            let is_full = end - start == self.block.len();
            if is_full || self.is_over {
                self.unread = end..end;
                return (start < end).then_some((start..end, is_full));
            }
            self.read_on();
        }
    }

    /// The rest of a line that was longer than the block, as much of it as is kept at all.
    fn rest(&mut self, mut into: Option<&mut Vec<u8>>) {
        loop {
            if self.unread.is_empty() {
                self.read_on();
            }
            let Range { start, end } = self.unread;
            let length = line_length(&self.block[start..end]);
            let part = start..length.map_or(end, |length| start + length);
            if let Some(into) = &mut into {
                let room = VALUE_MAX.saturating_sub(into.len()).min(part.len());
                into.extend_from_slice(&self.block[part.start..part.start + room]);
            }
            self.unread.start = length.map_or(end, |length| start + length + 1);
            if length.is_some() || self.is_over {
                return;
            }
        }
    }

    /// Whether the last line to come closes the document, or there is more to come than the block
    /// holds. No text in a document has a line's end in it.
    fn end_well(&self) -> bool {
        let unread = self.block[self.unread.clone()].trim_ascii_end();
        !self.is_over || unread == b"}" || unread.ends_with(b"\n}")
    }

    fn read_on(&mut self) {
        self.block.copy_within(self.unread.clone(), 0);
        self.unread = 0..self.unread.len();
        let room = &mut self.block[self.unread.end..];
        // A file that gives less than it was asked for is at its end; one that cannot be read ends
        // there, too.
        let length = self.from.read(room).unwrap_or(0);
        self.is_over = length < room.len();
        self.unread.end += length;
    }
}

/// How long a text's first line is, if it ends in the text. A reader's way to find out is the
/// fastest that the standard library has.
fn line_length(text: &[u8]) -> Option<usize> {
    let mut rest = text;
    let length = rest.skip_until(b'\n').unwrap_or(0);
    text[..length].strip_suffix(b"\n").map(<[u8]>::len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use serde_json::json;
    use std::io::Write;

    fn file(text: &[u8]) -> File {
        let mut file = File::from(memfd_create(c"result", MFdFlags::empty()).unwrap());
        file.write_all(text).unwrap();
        file
    }

    fn look<const N: usize>(text: &str, wanted: [Key<'_>; N]) -> Option<[Option<String>; N]> {
        let found = Peek::default().members(&file(text.as_bytes()), &wanted)?;
        Some(found.try_into().unwrap())
    }

    /// The same through serde: what the members are.
    fn plain(text: &str, (parent, key): Key<'_>) -> Option<Value> {
        let value: Value = serde_json::from_str(text).unwrap();
        match parent {
            "" => value.get(key).cloned(),
            parent => value.get(parent)?.get(key).cloned(),
        }
    }

    fn documents() -> Vec<Value> {
        let long = "x\"\\: {\n".repeat(BLOCK / 4);
        vec![
            json!({}),
            json!({"a": {"b": {"c": 1}}, "d": []}),
            json!({"a": {}, "b": 1, "c": {"a": 2, "b": [{"a": 3, "b": "}"}]}}),
            json!({"a": "\": {", "b": "}", "c": {"a": "  \"b\": 7", "b": ["x\": y", {"c": 1}]}}),
            json!({"a": [[1, {"b": 2}], {"b": 3}], "b": {"a": null}}),
            json!({"a": long, "b": {"a": long, "b": 5}, "c": [long, {"b": long}, 1], "d": 9}),
            json!({"a": " ".repeat(3 * BLOCK), "b": " ".repeat(2 * BLOCK - 13), "d": 1}),
            json!({"ä": 1, "b": "ü"}),
        ]
    }

    #[test]
    fn a_member_is_found_whatever_the_rest_and_however_it_is_written() {
        let top = ["a", "b", "c", "d", "ä"].map(|key| ("", key));
        let wanted = [
            top,
            [("a", "b"), ("b", "a"), ("b", "b"), ("c", "a"), ("c", "b")],
        ]
        .concat();
        for document in documents() {
            let regular = serde_json::to_string_pretty(&document).unwrap();
            let shapes = [
                regular.clone(),
                regular.clone() + "\n",
                regular.replace('\n', "\r\n"),
                document.to_string(),
                regular.replace("  ", "    "),
                regular.replace("\n", "\n "),
            ];
            for shape in shapes {
                // An array or object is taken as a whole, so that nothing in it is looked for.
                for &wanted in &wanted {
                    let Some([found]) = look(&shape, [wanted]) else {
                        panic!("{wanted:?} in {shape:.300}")
                    };
                    let found = found.map(|text| serde_json::from_str::<Value>(&text).unwrap());
                    assert_eq!(found, plain(&shape, wanted), "{wanted:?} in {shape:.200}");
                }
                let all = look(&shape, [("", "d"), ("", "b")]).unwrap();
                let all = all.map(|text| text.map(|text| serde_json::from_str(&text).unwrap()));
                assert_eq!(all, [plain(&shape, ("", "d")), plain(&shape, ("", "b"))]);
            }
        }
    }

    #[test]
    fn a_document_that_is_not_whole_has_no_members() {
        let regular = serde_json::to_string_pretty(&documents()[2]).unwrap();
        for end in 0..regular.len() {
            assert!(
                look(&regular[..end], [("", "b")]).is_none(),
                "{}",
                &regular[..end]
            );
        }
        for broken in [
            "[]",
            "7",
            "null",
            "{}{}",
            "{\n}\n{\n}",
            "{\n  \"a\": 1\n}\nx",
            "{\n\"a\"\n}",
        ] {
            assert!(look(broken, [("", "a")]).is_none(), "{broken:?}");
        }
    }

    #[test]
    fn of_a_key_that_stands_twice_one_counts() {
        let twice = "{\n  \"a\": 1,\n  \"a\": [\n    2\n  ],\n  \"a\": 3\n}";
        let [found, _] = look(twice, [("", "a"), ("", "b")]).unwrap();
        assert_eq!(found.as_deref(), Some("3"));
    }

    #[test]
    fn in_the_usual_shape_nothing_else_is_parsed() {
        let usual = r#"{
  "f": nothing that serde would read,
  "b": {
    "a": null,
    "b": [
      "x"
    ],
    "c": {
      "d": 1
    }
  },
  "c": [
    {
      "a": 2
    }
  ],
  "d": [],
  "e": 3
}
"#;
        let wanted = [("b", "a"), ("b", "b"), ("", "c"), ("", "e")];
        let found = look(usual, wanted).unwrap();
        let found = found.each_ref().map(|text| text.as_deref().unwrap_or("-"));
        assert_eq!(found, ["null", "[\"x\"]", "[{\"a\": 2}]", "3"]);
    }

    #[test]
    fn one_place_serves_for_documents_of_any_length() {
        let mut peek = Peek::default();
        for document in documents().iter().chain(&documents()) {
            let text = serde_json::to_string_pretty(document).unwrap();
            let found = peek.members(&file(text.as_bytes()), &[("", "d")]);
            assert_eq!(found.unwrap()[0].is_some(), document.get("d").is_some());
        }
    }
}
