//! Where a journal ended, written beside it: a journal that ends earlier has lost entries.
//!
//! A database takes the end of its log that it cannot read for one that was never written, and forgets it. Two slots are
//! written in turns, each with its own hash, so that one of them is whole whenever the process is killed. It is not
//! synced with every commit: what it says of the last seconds before a power failure may be missing, and nothing else.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::digest::Digest;
use crate::journal::Head;

const SLOT: usize = 8 + 32 + 32;
/// A page for each, so that a write of one never tears the other.
const PLACES: [u64; 2] = [0, 4096];
const CONTEXT: &str = "svc-ledger 2026-11-22 witness v1";

/// The file.
#[derive(Debug)]
pub(super) struct Witness {
    file: File,
    seq: u64,
    /// Where the other of the two is, which is not the last.
    other: u64,
    is_synced: bool,
}

impl Witness {
    /// Opens it, and tells what it saw last: a number of entries and their root.
    pub(super) fn open(path: &Path) -> io::Result<(Witness, Option<(u64, Digest)>)> {
        let mut options = File::options();
        options.read(true).write(true).create(true).mode(0o600);
        let file = options.truncate(false).open(path)?;
        // Written once whole, so that a full disk cannot refuse it later.
        if file.metadata()?.len() < PLACES[1] * 2 {
            file.write_all_at(&[0; 8192], 0)?;
            file.sync_all()?;
        }
        let mut last = None;
        let mut other = PLACES[0];
        for (place, next) in [(PLACES[0], PLACES[1]), (PLACES[1], PLACES[0])] {
            let mut slot = [0; SLOT];
            file.read_exact_at(&mut slot, place)?;
            let Some((seq, root)) = read(&slot) else {
                continue;
            };
            if last.is_none_or(|(before, _)| before < seq) {
                last = Some((seq, root));
                other = next;
            }
        }
        let witness = Witness {
            file,
            seq: last.map_or(0, |(seq, _)| seq),
            other,
            is_synced: true,
        };
        Ok((witness, last))
    }

    /// The journal ends here by now.
    pub(super) fn saw(&mut self, head: &Head) -> io::Result<()> {
        if head.seq == self.seq {
            return Ok(());
        }
        let mut slot = [0; SLOT];
        slot[..8].copy_from_slice(&head.seq.to_le_bytes());
        slot[8..40].copy_from_slice(head.root.as_bytes());
        let hash = blake3::derive_key(CONTEXT, &slot[..40]);
        slot[40..].copy_from_slice(&hash);
        self.file.write_all_at(&slot, self.other)?;
        self.other = PLACES[0] + PLACES[1] - self.other;
        self.seq = head.seq;
        self.is_synced = false;
        Ok(())
    }

    /// What it saw outlives a power failure.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if !self.is_synced {
            self.file.sync_data()?;
            self.is_synced = true;
        }
        Ok(())
    }
}

fn read(slot: &[u8; SLOT]) -> Option<(u64, Digest)> {
    if blake3::derive_key(CONTEXT, &slot[..40]) != slot[40..] {
        return None;
    }
    let seq = u64::from_le_bytes(slot[..8].try_into().ok()?);
    let root = slot[8..40].try_into().ok()?;
    Some((seq, Digest::new(root)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amount::Amount;

    fn head(seq: u64) -> Head {
        Head {
            seq,
            root: Digest::new([seq as u8; 32]),
            paid: Amount::ZERO,
        }
    }

    #[test]
    fn it_knows_the_last_that_was_written_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("head");
        let (mut witness, last) = Witness::open(&path).unwrap();
        assert_eq!(last, None);
        for seq in [1, 2, 7, 8, 20] {
            witness.saw(&head(seq)).unwrap();
            witness.sync().unwrap();
            let (again, last) = Witness::open(&path).unwrap();
            assert_eq!(last, Some((seq, Digest::new([seq as u8; 32]))));
            witness = again;
        }
        // The write of the next was torn: the one before is there.
        let torn = witness.other;
        witness.saw(&head(21)).unwrap();
        witness.file.write_all_at(&[0xff], torn + 20).unwrap();
        let (_, last) = Witness::open(&path).unwrap();
        assert_eq!(last.map(|(seq, _)| seq), Some(20));
    }
}
