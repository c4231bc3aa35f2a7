//! One file that is read again and again, and its lines of a key and a value.

use super::SenseError;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The kernel hands seq files out in pages, so a read wants room for several.
const ROOM_BYTES: usize = 8 * 1024;

/// A file of `/proc` that stays open, and the buffer it is read into.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    file: File,
    buffer: Vec<u8>,
    is_one_record: bool,
}

impl Source {
    /// Opens `path` below `root`.
    pub(super) fn open(root: &Path, path: &str) -> Result<Self, SenseError> {
        let path = root.join(path);
        match File::open(&path) {
            Ok(file) => Ok(Self { path, file, buffer: Vec::new(), is_one_record: false }),
            Err(source) => Err(SenseError::Read { path, source }),
        }
    }

    /// Opens a file that the kernel shows as one record (`single_open` of seq_file): a read that leaves room in the buffer
    /// has got all of it, and the read that would only find the end is saved.
    pub(super) fn open_one_record(root: &Path, path: &str) -> Result<Self, SenseError> {
        Ok(Self { is_one_record: true, ..Self::open(root, path)? })
    }

    /// The file as it is now.
    pub(super) fn read(&mut self) -> Result<Text<'_>, SenseError> {
        let mut length = 0;
        loop {
            if self.buffer.len() - length < ROOM_BYTES / 2 {
                self.buffer.resize(self.buffer.len() + ROOM_BYTES, 0);
            }
            match self.file.read_at(&mut self.buffer[length..], length as u64) {
                Ok(0) => break,
                Ok(bytes) => {
                    length += bytes;
                    if self.is_one_record && length < self.buffer.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(SenseError::Read { path: self.path.clone(), source }),
            }
        }
        let bytes = &self.buffer[..length];
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Text { path: &self.path, text }),
            Err(error) => {
                let before = &bytes[..error.valid_up_to()];
                let line = before.split(|&byte| byte == b'\n').count();
                Err(SenseError::Line {
                    path: self.path.clone(),
                    line,
                    expected: "expected text",
                    found: "other bytes".into(),
                })
            }
        }
    }
}

/// What a [`Source`] held.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text<'a> {
    path: &'a Path,
    text: &'a str,
}

impl<'a> Text<'a> {
    /// All of it.
    pub(super) fn as_str(self) -> &'a str {
        self.text
    }

    /// Its lines that begin with a word: the word, and the rest to be parsed.
    pub(super) fn lines(self) -> impl Iterator<Item = (&'a str, Line<'a>)> {
        self.text.lines().enumerate().filter_map(move |(index, whole)| {
            let (key, rest) = whole.split_once(' ')?;
            Some((key, Line { path: self.path, number: index + 1, whole, rest }))
        })
    }

    /// The error for a key that is not in it.
    pub(super) fn missing(self, key: &'static str) -> SenseError {
        SenseError::Missing { path: self.path.to_owned(), key }
    }

    /// The error for what the procfs crate refused.
    pub(super) fn refused(self, source: procfs::ProcError) -> SenseError {
        SenseError::Parse { path: self.path.to_owned(), source }
    }
}

/// A line, and where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    path: &'a Path,
    number: usize,
    whole: &'a str,
    rest: &'a str,
}

impl<'a> Line<'a> {
    /// The whole line.
    pub(super) fn whole(self) -> &'a str {
        self.whole
    }

    /// The number after the key, whatever unit follows it.
    pub(super) fn number(self) -> Result<u64, SenseError> {
        let word = self.rest.split_ascii_whitespace().next();
        word.and_then(|word| word.parse().ok()).ok_or_else(|| self.unexpected("expected a number"))
    }

    /// The number in a `name=number` word after the key.
    pub(super) fn named(self, name: &str, expected: &'static str) -> Result<u64, SenseError> {
        let value = self.rest.split_ascii_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        value.and_then(|value| value.parse().ok()).ok_or_else(|| self.unexpected(expected))
    }

    /// The error for a line that is not what it should be.
    pub(super) fn unexpected(self, expected: &'static str) -> SenseError {
        let found = self.whole.chars().take(80).collect();
        SenseError::Line { path: self.path.to_owned(), line: self.number, expected, found }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::write;

    #[test]
    fn reads_the_file_as_it_is_now_however_long() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "f", "a 1\n");
        let mut source = Source::open(dir.path(), "f").unwrap();
        assert_eq!(source.read().unwrap().as_str(), "a 1\n");
        let long = "key 18446744073709551615\n".repeat(4_000);
        write(dir.path(), "f", &long);
        assert_eq!(source.read().unwrap().as_str(), long);
        write(dir.path(), "f", "");
        assert_eq!(source.read().unwrap().as_str(), "");
    }

    #[test]
    fn a_file_of_one_record_is_read_as_a_whole_however_long() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "f", "");
        let mut source = Source::open_one_record(dir.path(), "f").unwrap();
        for length in [0, 1, ROOM_BYTES / 2, ROOM_BYTES - 1, ROOM_BYTES, ROOM_BYTES + 1, 5 * ROOM_BYTES, 3] {
            let text = "x".repeat(length);
            write(dir.path(), "f", &text);
            assert!(source.read().unwrap().as_str() == text, "{length}");
        }
    }

    #[test]
    fn errors_name_the_file_and_the_line() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "f", "a 1\nb x\n\nno_value\nc\n");
        let mut source = Source::open(dir.path(), "f").unwrap();
        let text = source.read().unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        let error = lines[1].1.number().unwrap_err().to_string();
        assert!(error.ends_with("f, line 2: expected a number, found \"b x\""), "{error}");

        std::fs::write(dir.path().join("f"), b"a 1\nb \xff\n").unwrap();
        let error = source.read().unwrap_err().to_string();
        assert!(error.contains("f, line 2: expected text"), "{error}");

        let error = Source::open(dir.path(), "absent").unwrap_err().to_string();
        assert!(error.ends_with("absent"), "{error}");
    }
}
