//! An agent's output as lines of bounded length, whatever it writes, and texts that lose their middle
//! where they grow too long. What a line means is not known here.

use super::*;

/// The longest line held. The longest recorded had 11 MB.
const LINE_MAX: usize = 16 << 20;
/// What a buffer may keep between two lines.
const BUFFER_KEPT: usize = 64 << 10;

/// Splits a stream of bytes into lines. Blank lines are left out; invalid UTF-8 becomes U+FFFD; of a
/// line that is too long to be held only the beginning is handed out.
#[derive(Debug, Default)]
pub struct Lines {
    /// The line that is not complete, as far as it is held.
    held: Vec<u8>,
}

impl Lines {
    /// Takes the next bytes and hands out every line that they complete.
    pub fn feed(&mut self, bytes: &[u8], each: &mut dyn FnMut(&str)) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let piece = rest;
            // This is the way to the standard library's fast search for a byte.
            let length = rest.skip_until(b'\n').expect("a slice can be read");
            match piece[..length].strip_suffix(b"\n") {
                // Nearly every line comes in one piece and needs no copy.
                Some(line) if self.held.is_empty() => hand_out(line, each),
                Some(line) => {
                    self.hold(line);
                    self.finish(each);
                }
                None => self.hold(piece),
            }
        }
    }

    /// The stream is over: hands out what is left.
    pub fn finish(&mut self, each: &mut dyn FnMut(&str)) {
        hand_out(&self.held, each);
        self.held.clear();
        self.held.shrink_to(BUFFER_KEPT);
    }

    fn hold(&mut self, piece: &[u8]) {
        let room = LINE_MAX - self.held.len();
        self.held.extend_from_slice(&piece[..piece.len().min(room)]);
    }
}

fn hand_out(line: &[u8], each: &mut dyn FnMut(&str)) {
    let text = String::from_utf8_lossy(line);
    if !text.trim_ascii().is_empty() {
        each(&text);
    }
}

/// A text that grows and keeps at most [`TEXT_MAX`] bytes of itself: its head and its tail.
#[derive(Debug, Default)]
pub struct Capped {
    text: String,
    dropped: usize,
}

impl Capped {
    /// Adds to the end.
    pub fn push(&mut self, text: &str) {
        self.text.push_str(text);
        // Not each time, since this moves the tail.
        if self.text.len() > 2 * TEXT_MAX {
            self.shorten();
        }
    }

    /// Drops the middle, and tells where it was.
    fn shorten(&mut self) -> usize {
        let from = boundary(&self.text, TEXT_MAX / 2);
        let to = self.text.len().saturating_sub(TEXT_MAX / 2);
        let to = boundary(&self.text, to).max(from);
        self.dropped += to - from;
        self.text.drain(from..to);
        from
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// The text, with a word on what is missing in its middle.
    pub fn into_text(mut self) -> String {
        if self.text.len() > TEXT_MAX || self.dropped > 0 {
            let at = self.shorten();
            let missing = format!(" … [{} bytes left out] … ", self.dropped);
            self.text.insert_str(at, &missing);
        }
        self.text
    }
}

/// The first place at or after `least` where a text may be cut.
fn boundary(text: &str, least: usize) -> usize {
    let mut places = least..text.len();
    let found = places.find(|at| text.is_char_boundary(*at));
    found.unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
        let mut lines = Lines::default();
        let mut out = Vec::new();
        let mut note = |line: &str| out.push(line.to_owned());
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
        for size in 1..input.len() {
            assert_eq!(split(input.chunks(size)), whole, "{size}");
        }
        let odd = split([&b"\xff{}\n{\"a\":1}"[..]]);
        assert_eq!(odd, ["\u{fffd}{}", "{\"a\":1}"]);
    }

    #[test]
    fn a_line_of_300_mb_is_skipped_and_costs_no_more_than_one_that_is_held() {
        let mut lines = Lines::default();
        let block = vec![b'x'; 64 << 10];
        for _ in 0..300_000_000 / block.len() {
            lines.feed(&block, &mut |_| panic!("not over yet"));
            assert!(lines.held.capacity() <= LINE_MAX);
        }
        let mut seen = Vec::new();
        lines.feed(b"x\nnext\n", &mut |line| seen.push(line.to_owned()));
        assert_eq!((seen[0].len(), &*seen[1]), (LINE_MAX, "next"));
    }

    #[test]
    fn a_text_that_grows_too_long_keeps_head_and_tail() {
        let mut text = Capped::default();
        text.push("short");
        text.push(" and");
        assert_eq!(text.into_text(), "short and");
        for piece in ["abc", "äöü", "0123456789"] {
            let piece = piece.repeat(50_000);
            let mut text = Capped::default();
            let mut whole = String::new();
            for _ in 0..30 {
                text.push(&piece);
                whole.push_str(&piece);
            }
            let text = text.into_text();
            let (head, rest) = text.split_once(" … [").unwrap();
            let (dropped, tail) = rest.split_once(" bytes left out] … ").unwrap();
            assert!(whole.starts_with(head) && whole.ends_with(tail));
            let half = TEXT_MAX / 2 - 4..=TEXT_MAX / 2 + 4;
            assert!(half.contains(&head.len()) && half.contains(&tail.len()));
            let dropped: usize = dropped.parse().unwrap();
            assert_eq!(dropped + head.len() + tail.len(), whole.len());
        }
    }
}
