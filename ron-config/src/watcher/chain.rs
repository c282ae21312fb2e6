//! The directories whose entries decide what a path leads to.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// As many links as Linux follows in one path.
const MAX_LINKS: usize = 40;

/// The directory of the file, and that of every symbolic link on the way to it. Where the way breaks off, the directory
/// it breaks off in, because what is missing will appear there.
pub(super) fn directories(path: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut rest: VecDeque<OsString> = parts(path);
    let mut here = PathBuf::from("/");
    let mut links = 0;
    while let Some(part) = rest.pop_front() {
        if part == ".." {
            here.pop();
            continue;
        }
        let next = here.join(&part);
        let Ok(metadata) = next.symlink_metadata() else {
            found.insert(here);
            return found;
        };
        if metadata.is_symlink() {
            found.insert(here.clone());
            links += 1;
            let Ok(target) = next.read_link() else {
                return found;
            };
            if links > MAX_LINKS {
                return found;
            }
            if target.is_absolute() {
                here = PathBuf::from("/");
            }
            for part in parts(&target).into_iter().rev() {
                rest.push_front(part);
            }
        } else if rest.is_empty() {
            found.insert(here.clone());
        } else {
            here = next;
        }
    }
    found
}

/// The name the file has where it lies.
pub(super) fn target_name(path: &Path) -> Option<OsString> {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    real.file_name().map(ToOwned::to_owned)
}

fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(part) => Some(part.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}
