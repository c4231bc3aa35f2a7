//! Which files a daemon goes by: whoever can write an agent's configuration or catalogue can write any knob as root, and
//! whoever can write a bridge's steers every VM.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// Others may write.
const WORLD_WRITABLE: u32 = 0o002;
/// Whoever it is, it can change the machine as it likes already.
const ROOT: u32 = 0;

/// Why a file, or a folder of such, is not trusted; `None` if it is.
pub fn distrust(metadata: &Metadata) -> Option<String> {
    reason(metadata.mode() & 0o7777, metadata.uid(), nix::unistd::geteuid().as_raw())
}

fn reason(mode: u32, owner: u32, user: u32) -> Option<String> {
    if mode & WORLD_WRITABLE != 0 {
        return Some(format!("everybody may write to it (mode {mode:04o}); `chmod o-w` takes that away"));
    }
    let trusted = [ROOT, user].contains(&owner);
    (!trusted).then(|| format!("it belongs to user {owner}, expected root or user {user}, who runs this"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_root_s_or_one_s_own_and_not_for_everybody() {
        for (owner, user, allowed) in
            [(0, 0, true), (0, 990, true), (990, 990, true), (1000, 0, false), (1000, 990, false)]
        {
            let found = reason(0o644, owner, user);
            assert_eq!(found.is_none(), allowed, "{owner} {user}");
            if let Some(found) = found {
                assert_eq!(found, format!("it belongs to user {owner}, expected root or user {user}, who runs this"));
            }
        }
        assert_eq!(reason(0o646, 0, 0).unwrap(), "everybody may write to it (mode 0646); `chmod o-w` takes that away");
    }
}
