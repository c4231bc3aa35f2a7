//! Puts knobs back for an operator while no daemon runs.

use crate::catalogue::Catalogue;
use crate::domain::{Domain, Settings};
use crate::hand::{Hand, Undone};
use crate::inventory::{InventoryError, boot_id, now_ms};
use crate::journal::{Journal, JournalError, Lock, LockError};
use std::path::Path;

/// Why nothing could be put back.
#[derive(Debug, thiserror::Error)]
pub enum RevertError {
    /// A daemon runs, or the lock cannot be made.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The journal cannot be read or written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// No such knob.
    #[error(transparent)]
    Unknown(#[from] InventoryError),
}

/// Puts back what holds vmtide's value below `root`: the unit that has or holds `name`, or all of it.
///
/// # Errors
/// [`RevertError`] when another process has the journal, or there is no knob of that name.
pub fn revert(
    domain: &'static Domain,
    root: &Path,
    settings: &Settings<'_>,
    name: Option<&str>,
) -> Result<Vec<Undone>, RevertError> {
    let (catalogue, _) = Catalogue::load(domain, settings.catalogue);
    let ids = name.map(|name| ids_of(&catalogue, name)).transpose()?;
    let _lock = Lock::take(settings.journal)?;
    let mut hand = Hand::new(domain, root, Journal::open(settings.journal, &boot_id(root))?);
    Ok(hand.restore_all(|knob| ids.as_ref().is_none_or(|ids| ids.iter().any(|id| id == knob)), now_ms()))
}

/// The knobs of the unit that has or holds `name`.
///
/// # Errors
/// [`InventoryError::Unknown`] when there is none.
pub fn ids_of(catalogue: &Catalogue, name: &str) -> Result<Vec<String>, InventoryError> {
    if catalogue.domain.reserves(name) {
        return Ok(vec![name.into()]);
    }
    let ids: Vec<_> = catalogue.unit(name).iter().map(|knob| knob.id.clone()).collect();
    if ids.is_empty() {
        Err(InventoryError::Unknown { name: name.into(), list: catalogue.domain.list })
    } else {
        Ok(ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Mode;
    use crate::example::{DOMAIN, write};
    use crate::journal::{Outcome, Owned, Record};

    #[test]
    fn one_unit_or_all_and_not_beside_a_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let (journal, none) = (root.join("run/j"), root.join("none"));
        let settings = Settings { mode: Mode::Adaptive, catalogue: &none, journal: &journal };
        let revert = |name| revert(&DOMAIN, root, &settings, name);
        let lock = Lock::take(settings.journal).unwrap();
        let mut journal = Journal::open(settings.journal, "").unwrap();
        for (knob, name, original, written) in
            [("swappiness", "swappiness", "60", "140"), ("page_cluster", "page-cluster", "3", "0")]
        {
            let path = format!("/proc/sys/vm/{name}");
            write(root, &path[1..], written);
            let (facts, why) = (std::collections::BTreeMap::new(), String::new());
            let (original, written) = (original.into(), written.into());
            let owned =
                Owned { at_ms: 0, knob: knob.into(), path, original, written, replaced: None, twin: None, why, facts };
            journal.append(&Record::Write(owned)).unwrap();
        }
        assert!(matches!(revert(None), Err(RevertError::Lock(LockError::Held { .. }))));
        drop(lock);
        assert!(matches!(revert(Some("moon")), Err(RevertError::Unknown(_))));
        let undone = revert(Some("page_cluster")).unwrap();
        assert_eq!((undone.len(), undone[0].outcome), (1, Some(Outcome::Restored)));
        assert_eq!(revert(None).unwrap().len(), 1);
        assert_eq!(std::fs::read_to_string(root.join("proc/sys/vm/swappiness")).unwrap(), "60");
    }
}
