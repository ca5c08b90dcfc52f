//! A text in a log file: its head and its tail where it is long. It is read piece by piece when it
//! is shown, so that a gigabyte of output is never held, nor even its share of a result.

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Files are read in pieces of this size.
const PIECE: usize = 2 << 10;

/// A part of a file, shown as text. What is no UTF-8 is shown as U+FFFD; what cannot be read is left
/// out, since a result must be written all the same.
#[derive(Clone, Debug)]
pub struct Excerpt {
    file: Arc<File>,
    head: Range<u64>,
    /// Empty where the head is all.
    tail: Range<u64>,
}

impl Excerpt {
    /// The first `size` bytes of a file; of more than `max` bytes, the head and the tail.
    pub fn new(file: File, size: u64, max: u64) -> Excerpt {
        let half = max / 2;
        let (head, tail) = match size <= max {
            true => (0..size, size..size),
            false => (0..half, size - half..size),
        };
        let file = Arc::new(file);
        Excerpt { file, head, tail }
    }

    /// The same without white space around it; `None` if there is nothing else.
    pub fn trimmed(&self) -> Option<Excerpt> {
        let mut part = self.clone();
        part.head.start = self.first_black(&self.head);
        let end = if self.tail.is_empty() {
            &mut part.head
        } else {
            &mut part.tail
        };
        end.end = self.last_black(end);
        (!part.head.is_empty() || !part.tail.is_empty()).then_some(part)
    }

    /// Where the first byte stands that is no white space, or else the end.
    fn first_black(&self, range: &Range<u64>) -> u64 {
        let mut at = range.start;
        let mut piece = [0; PIECE];
        while let Some(bytes) = self.read(&mut piece, at..range.end) {
            match bytes.iter().position(|byte| !byte.is_ascii_whitespace()) {
                Some(found) => return at + found as u64,
                None => at += bytes.len() as u64,
            }
        }
        range.end
    }

    /// Behind the last byte that is no white space, or else the beginning.
    fn last_black(&self, range: &Range<u64>) -> u64 {
        let mut end = range.end;
        let mut piece = [0; PIECE];
        while end > range.start {
            let from = end.saturating_sub(PIECE as u64).max(range.start);
            let bytes = self.read(&mut piece, from..end).unwrap_or_default();
            if let Some(found) = bytes.iter().rposition(|byte| !byte.is_ascii_whitespace()) {
                return from + found as u64 + 1;
            }
            end = from;
        }
        range.start
    }

    /// As much of a range as fits; `None` where nothing is left, or nothing can be read.
    fn read<'a>(&self, piece: &'a mut [u8], range: Range<u64>) -> Option<&'a [u8]> {
        if range.is_empty() {
            return None;
        }
        let left = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let room = left.min(piece.len());
        match self.file.read_at(&mut piece[..room], range.start) {
            Ok(length @ 1..) => Some(&piece[..length]),
            _ => None,
        }
    }

    fn show(&self, range: &Range<u64>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut piece = [0; PIECE];
        // A character that goes on in the next piece is taken with it.
        let (mut at, mut kept) = (range.start, 0);
        while let Some(length) = self
            .read(&mut piece[kept..], at..range.end)
            .map(<[u8]>::len)
        {
            at += length as u64;
            let bytes = &piece[..kept + length];
            let mut chunks = bytes.utf8_chunks().peekable();
            let mut cut = 0..0;
            while let Some(chunk) = chunks.next() {
                f.write_str(chunk.valid())?;
                let is_cut =
                    chunks.peek().is_none() && at < range.end && is_beginning(chunk.invalid());
                if is_cut {
                    cut = bytes.len() - chunk.invalid().len()..bytes.len();
                } else if !chunk.invalid().is_empty() {
                    f.write_str("\u{fffd}")?;
                }
            }
            kept = cut.len();
            piece.copy_within(cut, 0);
        }
        Ok(())
    }
}

/// Whether bytes that are no character may be the beginning of one.
fn is_beginning(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.show(&self.head, f)?;
        if self.tail.is_empty() {
            return Ok(());
        }
        write!(
            f,
            "\n[… {} bytes left out …]\n",
            self.tail.start - self.head.end
        )?;
        self.show(&self.tail, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use std::io::Write;

    fn file(bytes: &[u8]) -> File {
        let mut file = File::from(memfd_create(c"log", MFdFlags::empty()).unwrap());
        file.write_all(bytes).unwrap();
        file
    }

    fn excerpt(bytes: &[u8], max: u64) -> Excerpt {
        Excerpt::new(file(bytes), bytes.len() as u64, max)
    }

    #[test]
    fn it_shows_what_decoding_the_whole_would_wherever_pieces_end() {
        let units: [&[u8]; 7] = [
            b"a",
            "é".as_bytes(),
            "中".as_bytes(),
            "😀".as_bytes(),
            b"\xff",
            b"\xe4\xb8",
            b"\xf0\x9f",
        ];
        for unit in units {
            for shift in 0..5 {
                let mut bytes = vec![b'-'; shift];
                while bytes.len() < 3 * PIECE {
                    bytes.extend(unit);
                }
                let whole = String::from_utf8_lossy(&bytes);
                assert!(
                    excerpt(&bytes, u64::MAX).to_string() == whole,
                    "{unit:?} after {shift}"
                );
            }
        }
    }

    #[test]
    fn a_long_text_keeps_its_ends_and_says_what_is_missing() {
        let text: Vec<u8> = (0..100_u8).map(|n| b'0' + n % 10).collect();
        let shown = excerpt(&text, 20).to_string();
        assert_eq!(shown, "0123456789\n[… 80 bytes left out …]\n0123456789");
        assert_eq!(excerpt(&text, 100).to_string().len(), 100);
    }

    #[test]
    fn white_space_around_it_goes_also_where_there_is_much() {
        let blank = vec![b'\n'; 2 * PIECE + 1];
        let text = [blank.as_slice(), b"a b", &blank].concat();
        assert_eq!(
            excerpt(&text, u64::MAX).trimmed().unwrap().to_string(),
            "a b"
        );
        assert!(excerpt(&blank, u64::MAX).trimmed().is_none());
        assert!(excerpt(b"", u64::MAX).trimmed().is_none());
        let ends = excerpt(b"  xx....yy  ", 8).trimmed().unwrap();
        assert_eq!(ends.to_string(), "xx\n[… 4 bytes left out …]\nyy");
    }

    #[test]
    fn what_was_cut_off_meanwhile_is_left_out() {
        let log = file(b"0123456789");
        let text = Excerpt::new(log.try_clone().unwrap(), 10, u64::MAX);
        log.set_len(4).unwrap();
        assert_eq!(text.to_string(), "0123");
    }
}
