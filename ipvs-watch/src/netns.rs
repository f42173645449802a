// SPDX-License-Identifier: GPL-2.0

//! Translates between a network namespace's inode number, by which the kernel identifies it, and
//! its name in `ip netns`.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sched::{setns, CloneFlags};
use nix::sys::statfs::{statfs, NSFS_MAGIC};

/// Where `ip netns` keeps named namespaces.
const NAMED: &str = "/run/netns";

/// A network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    pub inode: u32,
    file: PathBuf,
}

impl Namespace {
    /// Has this process in it.
    pub fn enter(&self) -> anyhow::Result<()> {
        let file = File::open(&self.file)?;
        setns(file, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("cannot enter {}", self.file.display()))
    }
}

/// The namespace with this name, at this path, or of this process.
pub fn parse(text: &str) -> Result<Namespace, String> {
    let file = file(text, Path::new(NAMED));
    let is_namespace = statfs(&file).is_ok_and(|fs| fs.filesystem_type() == NSFS_MAGIC);
    is_namespace
        .then(|| inode(&file))
        .flatten()
        .map(|inode| Namespace { inode, file })
        .ok_or_else(|| format!("there is no network namespace '{text}': see 'ip netns'"))
}

fn file(text: &str, named: &Path) -> PathBuf {
    let by_name = named.join(text);
    if text.contains('/') {
        text.into()
    } else if !by_name.exists() && text.parse::<u32>().is_ok() {
        format!("/proc/{text}/ns/net").into()
    } else {
        by_name
    }
}

fn inode(file: &Path) -> Option<u32> {
    fs::metadata(file).ok()?.ino().try_into().ok()
}

/// The names of namespaces, at most a second old.
#[derive(Default)]
pub struct Names {
    names: HashMap<u32, String>,
    read: Option<Instant>,
}

impl Names {
    /// `None` for a namespace that has no name.
    pub fn of(&mut self, netns: u32) -> Option<&str> {
        const FRESH: Duration = Duration::from_secs(1);

        if self.read.is_none_or(|read| read.elapsed() > FRESH) {
            self.names = named(Path::new(NAMED));
            self.read = Some(Instant::now());
        }
        self.names.get(&netns).map(String::as_str)
    }
}

fn named(dir: &Path) -> HashMap<u32, String> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((inode(&entry.path())?, entry.file_name().into_string().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_stands_for_its_namespace() {
        let own = inode(Path::new("/proc/self/ns/net")).unwrap();
        let process = std::process::id().to_string();
        for text in [process.as_str(), "/proc/self/ns/net"] {
            assert_eq!(parse(text).map(|netns| netns.inode), Ok(own));
        }
    }

    #[test]
    fn what_is_no_namespace_is_refused() {
        for wrong in ["no-such-namespace", "/etc/passwd", "4294967295", ""] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_name_of_digits_goes_before_the_process() {
        let dir = std::env::temp_dir();
        let number = std::process::id().to_string();
        assert_eq!(
            file(&number, &dir),
            Path::new("/proc").join(&number).join("ns/net")
        );
        let named = dir.join(&number);
        fs::write(&named, "").unwrap();
        assert_eq!(file(&number, &dir), named);
        fs::remove_file(&named).unwrap();
    }
}
