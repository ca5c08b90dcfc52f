//! An agent's output as lines of bounded length, whatever it writes, and texts that lose their
//! middle where they grow too long. What a line means is not known here.

use super::TEXT_MAX;
use serde::de::IgnoredAny;

/// The longest line held, after its strings were shortened. The longest recorded was 11 MB of
/// two strings; what is longer than this without long strings is no event that we need.
const LINE_MAX: usize = 5 << 20;

/// What of it long strings may use; the rest is for the many short things behind them.
const STRINGS_MAX: usize = 4 << 20;

/// A string of up to this many bytes is never shortened by [`Stream`], however full its line
/// is: room for every key, id, class and path.
const STRING_FLOOR: usize = 8 << 10;

/// What is looked at in one go; bounds how far a buffer can overshoot before it is trimmed.
pub(super) const BLOCK: usize = 64 << 10;

/// How much of a line that is too long is kept, so that one can tell what it was.
const START_KEPT: usize = 4 << 10;

/// The bytes that a JSON escape takes at most: a surrogate pair, `\ud83d\ude00`.
const ESCAPE_MAX: usize = 12;

/// One line of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A line; JSON strings in it that were too long have lost their middle.
    Whole(&'a str),
    /// Too long to be held even so: its first few kilobytes.
    TooLong(&'a str),
    /// The last line, without a newline, and not a whole JSON value.
    Cut(&'a str),
}

/// Splits a stream of bytes into lines and keeps memory bounded whatever the length of a line.
///
/// It knows one thing about JSON, which is where strings begin and end: a string longer than
/// the limit keeps its head and its tail, cut where no escape, character or surrogate pair is
/// split, so that a shortened line is still the same JSON but for the text in the middle. A
/// line that is not JSON may be shortened after an odd quote, and is otherwise left alone.
/// Blank lines are left out; invalid UTF-8 becomes U+FFFD.
#[derive(Debug)]
pub struct Lines {
    string_max: usize,
    /// The line so far: strings that are closed are shortened already.
    held: Vec<u8>,
    /// Of a string that outgrew its head: what comes after it, or the last of that.
    tail: Vec<u8>,
    place: Place,
}

/// Where in a line the next byte belongs.
#[derive(Clone, Copy, Debug)]
enum Place {
    Outside,
    Inside(Text),
    /// The line is given up; the next newline ends that.
    TooLong,
}

/// The JSON string that is being read.
#[derive(Clone, Copy, Debug)]
struct Text {
    /// Where in `held` its content begins.
    start: usize,
    /// What it may keep.
    limit: usize,
    /// Whether its head is complete, so that more goes to `tail`.
    headed: bool,
    /// Whether the last byte was a backslash that escapes the next one.
    escaped: bool,
    /// What was left out so far.
    dropped: usize,
}

impl Default for Lines {
    fn default() -> Lines {
        Lines::new(TEXT_MAX)
    }
}

impl Lines {
    /// Lines whose strings keep at most about `string_max` bytes (at least 256).
    pub fn new(string_max: usize) -> Lines {
        let string_max = string_max.max(256);
        Lines {
            string_max,
            held: Vec::new(),
            tail: Vec::new(),
            place: Place::Outside,
        }
    }

    /// How much memory is kept for a line that is not over yet, in bytes.
    #[cfg(test)]
    pub fn memory(&self) -> usize {
        self.held.capacity() + self.tail.capacity()
    }

    /// Takes the next bytes and hands out every line that they complete.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(Line<'_>)) {
        let mut rest = bytes;
        while let Some(end) = find(rest, b'\n', b'\n') {
            let line = &rest[..end];
            // A line that came in one piece and cannot hold a string that is too long needs
            // neither a look inside nor a copy. Nearly all lines are like that.
            if self.is_between_lines() && line.len() <= self.string_max {
                hand_out(line, |text| Line::Whole(text), &mut each);
            } else {
                self.take(line);
                self.deliver(|text| Line::Whole(text), &mut each);
            }
            rest = &rest[end + 1..];
        }
        self.take(rest);
    }

    /// The stream is over: hands out what is left, as [`Line::Cut`] unless it is a whole value.
    pub fn finish(&mut self, each: impl FnMut(Line<'_>)) {
        fn last(text: &str) -> Line<'_> {
            match serde_json::from_str::<IgnoredAny>(text) {
                Ok(_) => Line::Whole(text),
                Err(_) => Line::Cut(text),
            }
        }
        self.deliver(last, each);
    }

    fn is_between_lines(&self) -> bool {
        self.held.is_empty() && matches!(self.place, Place::Outside)
    }

    /// Takes a piece of a line, in blocks, as callers may hand in any amount.
    fn take(&mut self, piece: &[u8]) {
        for block in piece.chunks(BLOCK) {
            let mut rest = block;
            while !rest.is_empty() {
                rest = match self.place {
                    Place::TooLong => return,
                    Place::Outside => self.take_outside(rest),
                    Place::Inside(text) => self.take_string(text, rest),
                };
                if self.held.len() > LINE_MAX {
                    self.held.truncate(START_KEPT);
                    self.held.shrink_to_fit();
                    self.tail = Vec::new();
                    self.place = Place::TooLong;
                }
            }
        }
    }

    /// Takes up to the next quote and returns what is left.
    fn take_outside<'a>(&mut self, piece: &'a [u8]) -> &'a [u8] {
        let Some(quote) = find(piece, b'"', b'"') else {
            self.held.extend_from_slice(piece);
            return &[];
        };
        let (now, rest) = piece.split_at(quote + 1);
        self.held.extend_from_slice(now);
        // The fuller the line, the less a further string may keep: a result that quotes ten
        // refused files of a megabyte each must still fit, or the job would have no result.
        let share = STRINGS_MAX.saturating_sub(self.held.len()) / 4;
        let limit = self.string_max.min(share.max(STRING_FLOOR));
        let start = self.held.len();
        self.place = Place::Inside(Text {
            start,
            limit,
            headed: false,
            escaped: false,
            dropped: 0,
        });
        rest
    }

    /// Takes up to the end of the string and returns what is left.
    fn take_string<'a>(&mut self, mut text: Text, piece: &'a [u8]) -> &'a [u8] {
        let end = string_end(piece, &mut text.escaped);
        let content = &piece[..end.unwrap_or(piece.len())];
        let keep = text.limit / 2;
        if text.headed {
            self.tail.extend_from_slice(content);
        } else {
            self.held.extend_from_slice(content);
            if self.held.len() - text.start > keep {
                let head = boundary(&self.held[text.start..], keep - ESCAPE_MAX - 4);
                self.tail.extend_from_slice(&self.held[text.start + head..]);
                self.held.truncate(text.start + head);
                text.headed = true;
            }
        }
        // Trimming moves `keep` bytes; waiting for half as many makes that cheap in the mean.
        if self.tail.len() > keep + keep / 2 + BLOCK {
            text.dropped += trim(&mut self.tail, keep);
        }
        match end {
            None => {
                self.place = Place::Inside(text);
                &[]
            }
            Some(end) => {
                self.close_string(text);
                self.held.push(b'"');
                &piece[end + 1..]
            }
        }
    }

    /// Puts the string's tail behind its head, with a word on what is missing between them.
    fn close_string(&mut self, mut text: Text) {
        let whole = self.held.len() - text.start + self.tail.len();
        if text.dropped > 0 || whole > text.limit {
            text.dropped += trim(&mut self.tail, text.limit / 2);
            self.held
                .extend_from_slice(left_out(text.dropped).as_bytes());
        }
        self.held.append(&mut self.tail);
        self.place = Place::Outside;
    }

    /// Hands out the line held, if there is one, and forgets it.
    fn deliver(&mut self, line: impl FnOnce(&str) -> Line<'_>, each: impl FnMut(Line<'_>)) {
        if let Place::Inside(text) = self.place {
            self.close_string(text);
        }
        match self.place {
            Place::TooLong => hand_out(&self.held, |text| Line::TooLong(text), each),
            _ => hand_out(&self.held, line, each),
        }
        self.place = Place::Outside;
        for buffer in [&mut self.held, &mut self.tail] {
            buffer.clear();
            buffer.shrink_to(BLOCK);
        }
    }
}

fn hand_out(bytes: &[u8], line: impl FnOnce(&str) -> Line<'_>, mut each: impl FnMut(Line<'_>)) {
    let text = String::from_utf8_lossy(bytes);
    if !text.trim_ascii().is_empty() {
        each(line(&text));
    }
}

/// Cuts the front off `tail` so that about `keep` bytes stay; returns how many went.
fn trim(tail: &mut Vec<u8>, keep: usize) -> usize {
    let from = boundary(tail, tail.len().saturating_sub(keep));
    tail.drain(..from);
    from
}

/// What stands for the middle of a text; nothing in it needs an escape in JSON.
pub(super) fn left_out(bytes: usize) -> String {
    format!(" … [{bytes} bytes left out] … ")
}

/// Where a JSON string ends in `piece`: at its first quote that is not escaped. `escaped` is
/// carried from piece to piece.
fn string_end(piece: &[u8], escaped: &mut bool) -> Option<usize> {
    let mut at = usize::from(std::mem::take(escaped));
    while let Some(hit) = piece.get(at..).and_then(|rest| find(rest, b'"', b'\\')) {
        at += hit;
        if piece[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
    *escaped = at > piece.len();
    None
}

/// The first place at or after `least` where the content of a JSON string may be cut, given
/// that it may be cut at 0. Backslashes can only be understood from the left, which is why this
/// walks: an escape looks just like the second half of `\\` followed by letters.
fn boundary(text: &[u8], least: usize) -> usize {
    let mut at = 0;
    while at < least {
        match find(&text[at..least], b'\\', b'\\') {
            Some(escape) => at += escape + escape_len(&text[at + escape..]),
            None => at = least,
        }
    }
    // Not more than a character has, or garbage would never be cut.
    let inside = text
        .iter()
        .skip(at)
        .take(3)
        .take_while(|&&byte| byte & 0xC0 == 0x80)
        .count();
    (at + inside).min(text.len())
}

/// The length of the escape that `text` begins with, two of them if they are one character.
pub(super) fn escape_len(text: &[u8]) -> usize {
    match text {
        [
            _,
            b'u',
            b'd' | b'D',
            high,
            _,
            _,
            b'\\',
            b'u',
            b'd' | b'D',
            low,
            ..,
        ] if matches!(high, b'8' | b'9' | b'a' | b'b' | b'A' | b'B')
            && matches!(low, b'c'..=b'f' | b'C'..=b'F') =>
        {
            ESCAPE_MAX
        }
        [_, b'u', ..] => 6,
        _ => 2,
    }
}

/// The first `a` or `b` in `text`, eight bytes at a time: this is where the time goes, and the
/// release profile's `opt-level` leaves a loop over bytes as it is.
fn find(text: &[u8], a: u8, b: u8) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // The high bit of the lowest byte that equals `byte`; bits above it may be wrong.
    let equal = |word: u64, byte: u8| {
        let word = word ^ (ONES * u64::from(byte));
        word.wrapping_sub(ONES) & !word & (ONES << 7)
    };
    let (words, rest) = text.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let hits = equal(word, a) | equal(word, b);
        if hits != 0 {
            return Some(index * 8 + hits.trailing_zeros() as usize / 8);
        }
    }
    rest.iter()
        .position(|&byte| byte == a || byte == b)
        .map(|at| words.len() * 8 + at)
}

/// A text that grows and loses its middle beyond [`TEXT_MAX`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Capped {
    text: String,
    /// What was left out between the halves.
    dropped: usize,
}

impl Capped {
    /// Adds to the end.
    pub fn push(&mut self, more: &str) {
        self.text.push_str(more);
        if self.text.len() > TEXT_MAX + TEXT_MAX / 4 {
            self.trim();
        }
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// The text with a word on what is missing.
    pub fn into_text(mut self) -> String {
        self.trim();
        if self.dropped > 0 {
            let middle = floor(&self.text, TEXT_MAX / 2);
            self.text.insert_str(middle, &left_out(self.dropped));
        }
        self.text
    }

    fn trim(&mut self) {
        if self.text.len() > TEXT_MAX {
            let head = floor(&self.text, TEXT_MAX / 2);
            let tail = floor(&self.text, self.text.len() - TEXT_MAX / 2);
            self.text.drain(head..tail);
            self.dropped += tail - head;
        }
    }
}

/// The last place at or before `at` where `text` can be cut.
pub(super) fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len()))
        .rev()
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::json::parse;
    use super::*;
    use serde_json::{Value, json};

    fn lines_of(string_max: usize, input: &[u8], piece: usize) -> Vec<String> {
        let mut lines = Lines::new(string_max);
        let mut out = Vec::new();
        for piece in input.chunks(piece) {
            lines.feed(piece, |line| out.push(format!("{line:?}")));
        }
        lines.finish(|line| out.push(format!("{line:?}")));
        out
    }

    /// The only line of `input`, as JSON.
    fn shortened(string_max: usize, input: &str, piece: usize) -> Value {
        let mut lines = Lines::new(string_max);
        let mut out = Vec::new();
        let mut each = |line: Line<'_>| match line {
            Line::Whole(text) => out.push(serde_json::from_str(text).expect("valid JSON")),
            other => panic!("{other:?}"),
        };
        for piece in input.as_bytes().chunks(piece) {
            lines.feed(piece, &mut each);
        }
        lines.finish(&mut each);
        assert_eq!(out.len(), 1);
        out.remove(0)
    }

    #[test]
    fn a_long_string_keeps_head_and_tail_and_stays_valid() {
        let units = [
            "a",
            "\\\\",
            "\\n",
            "\\\"",
            "\\u4e2d",
            "\\ud83d\\ude00",
            "é",
            "中",
            "😀",
        ];
        for unit in units {
            for offset in 0..14 {
                let content = "x".repeat(offset) + &unit.repeat(1 + 1500 / unit.len());
                let input = format!("{{\"a\":\"{content}\",\"b\":[\"end\"]}}");
                let original: Value = serde_json::from_str(&input).unwrap();
                for (max, piece) in [(256, 1), (256, 7), (256, 4096), (300, 64), (301, 100)] {
                    let short = shortened(max, &(input.clone() + "\n"), piece);
                    assert_eq!(short["b"], original["b"]);
                    let (short, original) = (
                        short["a"].as_str().unwrap(),
                        original["a"].as_str().unwrap(),
                    );
                    let (head, rest) = short.split_once(" … [").expect(short);
                    let (count, tail) = rest.split_once(" bytes left out] … ").unwrap();
                    assert!(
                        original.starts_with(head) && original.ends_with(tail),
                        "{short}"
                    );
                    assert!(!head.is_empty() && !tail.is_empty());
                    assert!(
                        head.len() <= max && tail.len() <= max,
                        "{unit} {max}: {short}"
                    );
                    // What a decoded text was in JSON: its units are alike but for the offset.
                    let decoded: String = serde_json::from_str(&format!("\"{unit}\"")).unwrap();
                    let raw = |text: &str| {
                        let text = text.trim_start_matches('x');
                        text.len() / decoded.len() * unit.len()
                    };
                    let xs = head.len() - head.trim_start_matches('x').len();
                    let count: usize = count.parse().unwrap();
                    let sum = xs + raw(head) + count + raw(tail);
                    assert_eq!(sum, content.len(), "{unit} {offset}");
                }
            }
        }
    }

    #[test]
    fn no_escape_is_cut_whatever_it_looks_like() {
        let units = [
            r"\\u",
            r"\\u12",
            r"\u005c",
            r"\ud83d",
            r"\ud83d\u0041",
            r#"\\\""#,
            r"\ude00\ud83d",
        ];
        let decoded = |content: &str| parse::<String>(&format!("\"{content}\"")).expect(content);
        for unit in units {
            for offset in 0..14 {
                let content = "x".repeat(offset) + &unit.repeat(300);
                let mut lines = Lines::new(256);
                let mut seen = 0;
                for piece in format!("[\"{content}\",5]\n").as_bytes().chunks(11) {
                    lines.feed(piece, |line| {
                        let Line::Whole(text) = line else {
                            panic!("{line:?}")
                        };
                        let text = text.strip_prefix("[\"").unwrap();
                        let text = text.strip_suffix("\",5]").expect(text);
                        let (head, rest) = text.split_once(" … [").expect(text);
                        let (_, tail) = rest.split_once("] … ").unwrap();
                        assert!(decoded(&content).starts_with(&decoded(head)), "{head}");
                        assert!(decoded(&content).ends_with(&decoded(tail)), "{tail}");
                        seen += 1;
                    });
                }
                assert_eq!(seen, 1);
            }
        }
    }

    #[test]
    fn a_string_as_long_as_the_limit_is_left_alone() {
        for (len, is_cut) in [(255, false), (256, false), (257, true)] {
            let input = json!(["y".repeat(300), "x".repeat(len)]).to_string() + "\n";
            let text = shortened(256, &input, 50)[1].as_str().unwrap().to_owned();
            assert_eq!(text.contains("left out"), is_cut, "{len}");
        }
    }

    #[test]
    fn a_line_that_is_long_without_long_strings_is_dropped_and_named() {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        let mut each = |line: Line<'_>| {
            seen.push(match line {
                Line::TooLong(start) => format!("too long: {}", &start[..30]),
                other => format!("{other:?}"),
            });
        };
        lines.feed(br#"{"type":"user","message":["#, &mut each);
        for _ in 0..100 {
            lines.feed(&b"\"abc\",12345,".repeat(10_000), &mut each);
        }
        assert!(
            lines.held.capacity() <= 2 * START_KEPT,
            "{}",
            lines.held.capacity()
        );
        lines.feed(b"1]}\n{}\n", &mut each);
        lines.finish(&mut each);
        assert_eq!(
            seen,
            [
                r#"too long: {"type":"user","message":["abc"#,
                r#"Whole("{}")"#
            ]
        );
    }

    #[test]
    fn the_last_line_is_whole_only_if_it_is_a_value() {
        assert_eq!(
            lines_of(256, b"{\"a\":1}\r\n\n \n{\"b\":2}", 3),
            [r#"Whole("{\"a\":1}\r")"#, r#"Whole("{\"b\":2}")"#]
        );
        assert_eq!(lines_of(256, br#"{"a":"b\"#, 1), [r#"Cut("{\"a\":\"b\\")"#]);
        assert_eq!(lines_of(256, b"srun: done", 1), [r#"Cut("srun: done")"#]);
        assert!(lines_of(256, b"", 1).is_empty());
    }

    #[test]
    fn bytes_that_are_no_utf_8_are_replaced() {
        let mut input = b"{\"a\":\"\xff\xfe ok".to_vec();
        input.extend([0x80; 5000]);
        input.extend(b"\"}\n");
        for line in [lines_of(256, &input, 1), lines_of(TEXT_MAX, &input, 9)] {
            assert!(
                line[0].starts_with("Whole(\"{\\\"a\\\":\\\"\u{fffd}\u{fffd} ok"),
                "{line:?}"
            );
            assert!(line[0].matches('\u{fffd}').count() > 200, "{line:?}");
            assert_eq!(line.len(), 1);
        }
    }

    #[test]
    fn find_finds_the_first_of_two() {
        let text: Vec<u8> = (0..64)
            .map(|i| [0x21, 0x23, 0xa2, 0x7f, 0x00, 0xff][i % 6])
            .collect();
        for at in 0..64 {
            for then in at..64 {
                let mut text = text.clone();
                (text[then], text[at]) = (b'\\', b'"');
                assert_eq!(find(&text, b'"', b'\\'), Some(at));
                assert_eq!(find(&text, b'\\', b'"'), Some(at));
                let second = if then == at { None } else { Some(then) };
                assert_eq!(find(&text, b'\\', b'\\'), second);
            }
        }
        assert_eq!(find(&text, b'"', b'\\'), None);
    }

    #[test]
    fn the_text_of_a_run_loses_its_middle() {
        let mut text = Capped::default();
        text.push("start");
        for _ in 0..3000 {
            text.push(&"ä€😀".repeat(100));
        }
        assert!(text.text.capacity() < 4 * TEXT_MAX);
        text.push("end");
        let text = text.into_text();
        assert!(text.starts_with("startä") && text.ends_with("😀end"));
        assert!(text.len() < TEXT_MAX + 100);
        let left_out: usize = text
            .split_once(" … [")
            .unwrap()
            .1
            .split_once(' ')
            .unwrap()
            .0
            .parse()
            .unwrap();
        let all = "startend".len() + 3000 * 900;
        assert_eq!(text.len() - super::left_out(left_out).len() + left_out, all);
    }
}
