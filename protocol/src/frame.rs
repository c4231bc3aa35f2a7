//! Bytes to lines and messages to bytes; no I/O.

use crate::MAX_LINE_BYTES;
use serde::Serialize;

/// Why bytes could not become a line, or a message could not become bytes.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The peer went past the bound without a newline.
    #[error("a line is longer than {MAX_LINE_BYTES} bytes")]
    TooLong,
    /// The message could not be written as JSON.
    #[error("the message cannot be written as JSON")]
    Json(#[from] serde_json::Error),
}

/// Received bytes, given out a line at a time. Holds at most one line's bound beyond what was just pushed.
#[derive(Debug, Default)]
pub struct LineBuffer {
    bytes: Vec<u8>,
    /// Where the first line that was not given out begins.
    start: usize,
    /// Up to here there is no newline: a slow sender does not make us search the same bytes twice.
    searched: usize,
}

impl LineBuffer {
    /// Appends what was read from the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole line without its newline, or `None` until more bytes come.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] once a line passes [`MAX_LINE_BYTES`]; the stream is of no use from then on.
    pub fn next_line(&mut self) -> Result<Option<&[u8]>, FrameError> {
        let newline = self.bytes[self.searched..].iter().position(|&b| b == b'\n');
        let end = newline.map_or(self.bytes.len(), |at| self.searched + at);
        self.searched = end;
        if end - self.start >= MAX_LINE_BYTES {
            return Err(FrameError::TooLong);
        }
        if newline.is_none() {
            return Ok(None);
        }
        let line = self.start..end;
        self.start = end + 1;
        self.searched = self.start;
        Ok(Some(&self.bytes[line]))
    }

    /// Whether the beginning of a line waits for its end.
    pub fn is_partial(&self) -> bool {
        self.start < self.bytes.len()
    }
}

/// The message as one line, newline included.
///
/// # Errors
/// [`FrameError::TooLong`] when it does not fit the bound, [`FrameError::Json`] when it cannot be written.
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, FrameError> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    if line.len() > MAX_LINE_BYTES {
        return Err(FrameError::TooLong);
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_of_the_bound_passes_and_one_byte_more_does_not() {
        let mut longest = vec![b'x'; MAX_LINE_BYTES - 1];
        longest.push(b'\n');
        let mut buffer = LineBuffer::default();
        buffer.push(&longest);
        assert_eq!(buffer.next_line().unwrap().unwrap().len(), MAX_LINE_BYTES - 1);

        let mut buffer = LineBuffer::default();
        buffer.push(&vec![b'x'; MAX_LINE_BYTES]);
        assert!(matches!(buffer.next_line(), Err(FrameError::TooLong)));
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_grows() {
        let mut buffer = LineBuffer::default();
        let refused = (0..100).find(|_| {
            buffer.push(&[b'x'; 1024]);
            buffer.next_line().is_err()
        });
        assert_eq!(refused, Some(63));
    }

    #[test]
    fn a_message_past_the_bound_is_not_encoded() {
        assert!(matches!(encode(&"x".repeat(MAX_LINE_BYTES)), Err(FrameError::TooLong)));
    }

    proptest! {
        #[test]
        fn lines_come_out_as_they_went_in_however_they_are_cut(
            lines in prop::collection::vec("[^\n]{0,40}", 0..20),
            cut in 1usize..17,
        ) {
            let stream: Vec<u8> = lines.iter().flat_map(|l| [l.as_bytes(), b"\n"].concat()).collect();
            let mut buffer = LineBuffer::default();
            let mut seen = Vec::new();
            for piece in stream.chunks(cut) {
                buffer.push(piece);
                while let Some(line) = buffer.next_line().unwrap() {
                    seen.push(String::from_utf8(line.to_vec()).unwrap());
                }
            }
            prop_assert_eq!(seen, lines);
            prop_assert!(!buffer.is_partial());
        }
    }
}
