//! One record, one line: `CRC-32 LENGTH JSON`. Pure.
//!
//! The checksum tells a torn or a changed record from a good one, the length says where it ends; after damage, reading
//! goes on at the next line. JSON has no raw newline, so a newline is always the end of a line.

/// What [`Frames`] finds, in the order of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// The JSON of a record that is as it was written.
    Good(&'a [u8]),
    /// So many bytes that are no record.
    Damaged(usize),
}

/// The line of a record.
pub(super) fn line(json: &str) -> String {
    format!("{:08x} {} {json}\n", crc32(json.as_bytes()), json.len())
}

/// The records of a segment.
pub(super) struct Frames<'a>(&'a [u8]);

impl<'a> Frames<'a> {
    /// The records in `bytes`, which begin with one.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        if self.0.is_empty() {
            return None;
        }
        if let Some((json, rest)) = record(self.0) {
            // A record whose newline alone was lost is a good one.
            self.0 = rest.strip_prefix(b"\n").unwrap_or(rest);
            return Some(Piece::Good(json));
        }
        let line = self.0.iter().position(|byte| *byte == b'\n').map_or(self.0.len(), |newline| newline + 1);
        self.0 = &self.0[line..];
        Some(Piece::Damaged(line))
    }
}

/// The JSON of the record that `bytes` begin with, and what follows; `None` when it is none or not as it was written.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (crc, rest) = field(bytes, 8)?;
    let (length, rest) = field(rest, 20)?;
    let crc = u32::from_str_radix(crc, 16).ok()?;
    let (json, rest) = rest.split_at_checked(length.parse().ok()?)?;
    (crc32(json) == crc).then_some((json, rest))
}

/// The text up to a space that comes after at most `most` bytes, and what follows the space.
fn field(bytes: &[u8], most: usize) -> Option<(&str, &[u8])> {
    let space = bytes.iter().take(most + 1).position(|byte| *byte == b' ')?;
    Some((std::str::from_utf8(&bytes[..space]).ok()?, &bytes[space + 1..]))
}

/// CRC-32 as in IEEE 802.3 and zlib: reflected, polynomial 0xEDB88320.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = table();
    !bytes.iter().fold(!0, |crc: u32, byte| (crc >> 8) ^ TABLE[usize::from(crc.to_le_bytes()[0] ^ byte)])
}

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        // The index is below 256.
        #[allow(clippy::cast_possible_truncation)]
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RECORDS: [&str; 3] = [r#"{"a":1}"#, r#"{"b":"two words"}"#, "{}"];

    fn segment() -> Vec<u8> {
        RECORDS.map(line).concat().into_bytes()
    }

    fn good(bytes: &[u8]) -> Vec<&str> {
        let json = |piece| match piece {
            Piece::Good(json) => std::str::from_utf8(json).ok(),
            Piece::Damaged(_) => None,
        };
        Frames::new(bytes).filter_map(json).collect()
    }

    fn damaged(bytes: &[u8]) -> usize {
        Frames::new(bytes).map(|piece| if let Piece::Damaged(bytes) = piece { bytes } else { 0 }).sum()
    }

    #[test]
    fn the_checksum_is_the_common_one() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(line("{}"), "a3a6bf43 2 {}\n");
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!((good(&segment()), damaged(&segment())), (RECORDS.to_vec(), 0));
    }

    #[test]
    fn a_tail_torn_anywhere_costs_the_last_record_only() {
        let segment = segment();
        let last = segment.len() - line(RECORDS[2]).len();
        for end in last..segment.len() - 1 {
            assert_eq!(good(&segment[..end]), RECORDS[..2], "torn at {end}");
            assert_eq!(damaged(&segment[..end]), end - last, "torn at {end}");
        }
        assert_eq!(good(&segment[..segment.len() - 1]), RECORDS, "the newline alone is missing");
    }

    proptest! {
        #[test]
        fn a_changed_byte_costs_its_line_and_at_most_the_next(at in 0..40_usize, to: u8) {
            let mut segment = segment();
            let at = at % segment.len();
            prop_assume!(segment[at] != to);
            segment[at] = to;
            let hit = RECORDS.iter().scan(0, |end, json| { *end += line(json).len(); Some(*end) }).filter(|end| *end <= at).count();
            let left = good(&segment);
            for (index, json) in RECORDS.iter().enumerate().filter(|(index, _)| *index != hit && *index != hit + 1) {
                prop_assert!(left.contains(json), "record {index} is lost, byte {at} was hit");
            }
            prop_assert!(left.iter().all(|json| RECORDS.contains(json)), "{left:?}");
        }

        #[test]
        fn no_bytes_are_too_odd(bytes: Vec<u8>) {
            prop_assert!(good(&bytes).is_empty());
            prop_assert_eq!(damaged(&bytes), bytes.len());
        }
    }
}
