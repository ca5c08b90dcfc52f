//! An agent's output as lines of bounded length, whatever it writes, and texts that lose their middle
//! where they grow too long. What a line means is not known here.

use super::TEXT_MAX;
use serde::de::IgnoredAny;
use std::io::BufRead;

/// The longest line held. The longest recorded had 11 MB.
const LINE_MAX: usize = 16 << 20;
/// How much of a longer one is kept, to know it by.
const START_KEPT: usize = 4 << 10;
/// What a buffer may keep between two lines.
const BUFFER_KEPT: usize = 64 << 10;

/// One line of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A line.
    Whole(&'a str),
    /// Too long to be held: its beginning.
    TooLong(&'a str),
    /// The last line, without a newline, and not a whole JSON value.
    Cut(&'a str),
}

/// Splits a stream of bytes into lines. Blank lines are left out; invalid UTF-8 becomes U+FFFD.
#[derive(Debug, Default)]
pub struct Lines {
    held: Vec<u8>,
    too_long: bool,
}

impl Lines {
    /// Takes the next bytes and hands out every line that they complete.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(Line<'_>)) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let mut after = rest;
            // The standard library's search for a byte, which this is the way to.
            let length = after.skip_until(b'\n').expect("a slice can be read");
            match rest[..length].strip_suffix(b"\n") {
                // Nearly every line comes in one piece and needs no copy.
                Some(line) if self.held.is_empty() => {
                    hand_out(line, |text| Line::Whole(text), &mut each)
                }
                Some(line) => {
                    self.hold(line);
                    self.deliver(|text| Line::Whole(text), &mut each);
                }
                None => self.hold(rest),
            }
            rest = after;
        }
    }

    /// The stream is over: hands out what is left.
    pub fn finish(&mut self, mut each: impl FnMut(Line<'_>)) {
        fn last(text: &str) -> Line<'_> {
            match serde_json::from_str::<IgnoredAny>(text) {
                Ok(_) => Line::Whole(text),
                Err(_) => Line::Cut(text),
            }
        }
        self.deliver(last, &mut each);
    }

    fn hold(&mut self, piece: &[u8]) {
        if !self.too_long && self.held.len() + piece.len() > LINE_MAX {
            self.held
                .extend_from_slice(&piece[..piece.len().min(START_KEPT)]);
            self.held.truncate(START_KEPT);
            self.held.shrink_to_fit();
            self.too_long = true;
        }
        if !self.too_long {
            if self.held.len() > BUFFER_KEPT {
                // Growing by doubling would take twice as much; what is not written to costs nothing.
                self.held.reserve_exact(LINE_MAX - self.held.len());
            }
            self.held.extend_from_slice(piece);
        }
    }

    fn deliver(&mut self, line: fn(&str) -> Line<'_>, each: &mut impl FnMut(Line<'_>)) {
        match self.too_long {
            true => hand_out(&self.held, |text| Line::TooLong(text), each),
            false => hand_out(&self.held, line, each),
        }
        self.too_long = false;
        self.held.clear();
        self.held.shrink_to(BUFFER_KEPT);
    }
}

fn hand_out(bytes: &[u8], line: fn(&str) -> Line<'_>, each: &mut impl FnMut(Line<'_>)) {
    let is_garbled = bytes.len() > BUFFER_KEPT && str::from_utf8(bytes).is_err();
    let kept = if is_garbled { START_KEPT } else { bytes.len() };
    let text = String::from_utf8_lossy(&bytes[..kept]);
    match text.trim_ascii().is_empty() {
        true => {}
        // Its replacement characters would take three times as much.
        false if is_garbled => each(Line::TooLong(&text)),
        false => each(line(&text)),
    }
}

/// A text that grows and keeps at most so many bytes of itself: its head and its tail.
#[derive(Debug)]
pub struct Capped {
    max: usize,
    head: String,
    tail: String,
    dropped: usize,
}

impl Default for Capped {
    fn default() -> Capped {
        Capped::new(TEXT_MAX)
    }
}

impl Capped {
    /// An empty text that keeps `max` bytes.
    pub fn new(max: usize) -> Capped {
        let (head, tail, dropped) = (String::new(), String::new(), 0);
        Capped {
            max,
            head,
            tail,
            dropped,
        }
    }

    /// Adds to the end.
    pub fn push(&mut self, text: &str) {
        // All that fits is in the head until something does not.
        let is_full = self.dropped > 0 || !self.tail.is_empty();
        let room = if is_full {
            0
        } else {
            (self.max / 2).saturating_sub(self.head.len())
        };
        let (head, tail) = text.split_at(boundary(text, room));
        self.head.push_str(head);
        self.tail.push_str(tail);
        // Once in a while only: what is kept is moved each time.
        if self.tail.len() > self.max {
            self.trim();
        }
    }

    fn trim(&mut self) {
        let cut = boundary(&self.tail, self.tail.len().saturating_sub(self.max / 2));
        self.tail.drain(..cut);
        self.dropped += cut;
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.head.is_empty()
    }

    /// The text, with a word on what is missing in its middle.
    pub fn into_text(mut self) -> String {
        self.trim();
        match self.dropped {
            0 => self.head + &self.tail,
            bytes => format!("{} … [{bytes} bytes left out] … {}", self.head, self.tail),
        }
    }
}

/// The first place at or after `least` where a text may be cut.
fn boundary(text: &str, least: usize) -> usize {
    let mut at = least.min(text.len());
    while !text.is_char_boundary(at) {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
        let mut lines = Lines::default();
        let mut out = Vec::new();
        let mut note = |line: Line<'_>| {
            out.push(match line {
                Line::Whole(text) => text.to_owned(),
                Line::TooLong(start) => format!("too long: {}", start.len()),
                Line::Cut(text) => format!("cut: {text}"),
            });
        };
        for piece in pieces {
            lines.feed(piece, &mut note);
        }
        lines.finish(&mut note);
        assert!(lines.held.capacity() <= BUFFER_KEPT);
        out
    }

    #[test]
    fn it_does_not_matter_how_lines_are_cut_into_pieces() {
        let input = "one\r\n\n  \n{\"a\":\"ü😀\"}\n\u{feff}\nlast".as_bytes();
        let whole = split([input]);
        assert_eq!(whole.len(), 4);
        assert_eq!(whole[3], "cut: last");
        for size in 1..input.len() {
            assert_eq!(split(input.chunks(size)), whole, "{size}");
        }
        assert_eq!(
            split([&b"\xff{}\n{\"a\":1}"[..]]),
            ["\u{fffd}{}", "{\"a\":1}"]
        );
    }

    #[test]
    fn a_line_of_300_mb_is_skipped_and_costs_no_more_than_one_that_is_held() {
        let mut lines = Lines::default();
        let block = vec![b'x'; 64 << 10];
        for _ in 0..300_000_000 / block.len() {
            lines.feed(&block, |_| panic!("not over yet"));
            assert!(lines.held.capacity() <= LINE_MAX);
        }
        let mut seen = Vec::new();
        lines.feed(b"x\nnext\n", |line| seen.push(format!("{line:?}")));
        assert!(seen[0].starts_with("TooLong(\"xxx") && seen[0].len() < START_KEPT + 20);
        assert_eq!(seen[1], "Whole(\"next\")");
    }

    #[test]
    fn a_text_that_grows_too_long_keeps_head_and_tail() {
        let mut text = Capped::new(20);
        text.push("short");
        text.push(" and");
        assert_eq!(text.into_text(), "short and");
        for piece in ["ab", "äöü", "0123456789"] {
            let mut text = Capped::new(20);
            let mut whole = String::new();
            for _ in 0..100 {
                text.push(piece);
                whole.push_str(piece);
            }
            let text = text.into_text();
            let (head, rest) = text.split_once(" … [").unwrap();
            let (dropped, tail) = rest.split_once(" bytes left out] … ").unwrap();
            assert!(whole.starts_with(head) && whole.ends_with(tail), "{text}");
            assert!(head.len() <= 12 && (7..=10).contains(&tail.len()), "{text}");
            let dropped: usize = dropped.parse().unwrap();
            assert_eq!(dropped + head.len() + tail.len(), whole.len());
        }
    }
}
