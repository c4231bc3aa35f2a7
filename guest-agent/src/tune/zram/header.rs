//! The first page of a swap device, as `mkswap` writes it: version 1.

use std::path::Path;
use std::{fs, io};

const MAGIC: &[u8; 10] = b"SWAPSPACE2";
const VERSION: u32 = 1;
/// The first KiB is a boot loader's.
const VERSION_AT: usize = 1024;
const LAST_PAGE_AT: usize = 1028;
const UUID_AT: usize = 1036;
const LABEL_AT: usize = 1052;
const LABEL: &[u8] = b"vmtide";

/// The header of a device of `bytes`; `InvalidInput` for what is no UUID, and for a size that no swap has.
pub(super) fn page(bytes: u64, page_bytes: u64, uuid: &str) -> io::Result<Vec<u8>> {
    let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
    let id = bytes_of(uuid).ok_or_else(|| wrong(format!("{uuid:?} is no UUID")))?;
    let last_page =
        (bytes / page_bytes).checked_sub(1).and_then(|page| u32::try_from(page).ok()).filter(|&page| page > 0);
    let last_page = last_page.ok_or_else(|| wrong(format!("{bytes} bytes are no size of a swap")))?;
    let mut page = vec![0; usize::try_from(page_bytes).unwrap_or(usize::MAX)];
    let magic_at = page.len() - MAGIC.len();
    for (at, field) in [
        (VERSION_AT, &VERSION.to_ne_bytes()[..]),
        (LAST_PAGE_AT, &last_page.to_ne_bytes()),
        (UUID_AT, &id),
        (LABEL_AT, LABEL),
        (magic_at, MAGIC),
    ] {
        page[at..at + field.len()].copy_from_slice(field);
    }
    Ok(page)
}

/// The UUID in the first page of a device; `None` when that is no swap's.
pub(super) fn uuid_of(page: &[u8]) -> Option<String> {
    if !page.ends_with(MAGIC) {
        return None;
    }
    let id = format!("{:032x}", u128::from_be_bytes(page.get(UUID_AT..UUID_AT + 16)?.try_into().ok()?));
    Some([&id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]].join("-"))
}

/// A UUID that nobody has.
pub(super) fn new_uuid(root: &Path) -> io::Result<String> {
    fs::read_to_string(root.join("proc/sys/kernel/random/uuid")).map(|uuid| uuid.trim().to_owned())
}

fn bytes_of(uuid: &str) -> Option<[u8; 16]> {
    let digits: String = uuid.split('-').collect();
    let is_one = uuid.len() == 36 && digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if is_one { u128::from_str_radix(&digits, 16).ok().map(u128::to_be_bytes) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "999eac47-dbbf-4379-b399-3cad1d9b2a4b";

    /// Beginning and end of the page that `mkswap` wrote to a device of 100 MiB.
    const MKSWAP: [u8; 28] = [
        0x01, 0x00, 0x00, 0x00, 0xff, 0x63, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x99, 0x9e, 0xac, 0x47, 0xdb, 0xbf,
        0x43, 0x79, 0xb3, 0x99, 0x3c, 0xad, 0x1d, 0x9b, 0x2a, 0x4b,
    ];

    #[test]
    fn is_what_mkswap_writes() {
        let page = page(100 << 20, 4096, UUID).unwrap();
        assert_eq!(page.len(), 4096);
        if cfg!(target_endian = "little") {
            assert_eq!(page[1024..1052], MKSWAP);
        }
        assert!(page[..1024].iter().all(|&byte| byte == 0) && page.ends_with(b"SWAPSPACE2"));
        assert_eq!(uuid_of(&page).as_deref(), Some(UUID));
        assert_eq!(uuid_of(&super::page(1 << 30, 65_536, UUID).unwrap()).as_deref(), Some(UUID), "pages of 64 KiB");
    }

    #[test]
    fn what_is_no_swap_has_no_uuid_and_what_is_none_makes_no_swap() {
        assert_eq!(uuid_of(&[0; 4096]), None);
        assert_eq!(uuid_of(b"SWAPSPACE2"), None);
        for (bytes, uuid) in [
            (0, UUID),
            (4096, UUID),
            (u64::MAX, UUID),
            (1 << 20, "moon"),
            (1 << 20, "999eac47-dbbf-4379-b399-3cad1d9b2a4g"),
            (1 << 20, "999eac47dbbf4379b3993cad1d9b2a4b"),
            (1 << 20, "999eac47-dbbf-4379-b399-3cad1d9b2aä"),
        ] {
            assert!(page(bytes, 4096, uuid).is_err(), "{bytes} {uuid}");
        }
    }
}
