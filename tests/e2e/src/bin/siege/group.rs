//! A control group that bounds the host's memory, of either version; where none can be made, the host's resident
//! memory is watched instead.

use std::path::{Path, PathBuf};
use std::time::Duration;

const MOUNT: &str = "/sys/fs/cgroup";

/// What the host may take.
pub enum Cage {
    /// The kernel holds it to the limit.
    Group(Group),
    /// Nobody does; it is only looked at.
    Watched,
}

pub struct Group {
    folder: PathBuf,
    version: Version,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Cage {
    /// Says so where there can be no group.
    pub fn new(bytes: u64) -> Self {
        match Group::new(bytes) {
            Ok(group) => {
                println!("the host runs in {} with {} MiB", group.folder.display(), bytes >> 20);
                Self::Group(group)
            }
            Err(error) => {
                println!("NO CONTROL GROUP: {error}");
                println!("the host is told to use less, and its resident memory is watched instead");
                Self::Watched
            }
        }
    }

    /// The group's list of processes.
    pub fn procs(&self) -> Option<PathBuf> {
        match self {
            Self::Group(group) => Some(group.folder.join("cgroup.procs")),
            Self::Watched => None,
        }
    }

    /// Bytes in use, without files that can be read again.
    pub fn used(&self, pid: u32) -> u64 {
        match self {
            Self::Group(group) => group.used(),
            Self::Watched => status(pid, "VmRSS:") * 1024,
        }
    }

    /// The most bytes that were in use, files included, as the kernel counts.
    pub fn peak(&self, pid: u32) -> u64 {
        match self {
            Self::Group(group) => group.peak(),
            Self::Watched => status(pid, "VmHWM:") * 1024,
        }
    }

    /// Processes that the kernel ended for want of memory; None where nobody counts.
    pub fn kills(&self) -> Option<u64> {
        match self {
            Self::Group(group) => group.kills(),
            Self::Watched => None,
        }
    }
}

impl Group {
    fn new(bytes: u64) -> Result<Self, String> {
        let name = format!("exagg-siege-{}", std::process::id());
        let (version, parent) = if Path::new(MOUNT).join("memory/memory.limit_in_bytes").exists() {
            (Version::One, Path::new(MOUNT).join("memory"))
        } else {
            (Version::Two, PathBuf::from(MOUNT))
        };
        if version == Version::Two {
            let control = parent.join("cgroup.subtree_control");
            let listed =
                std::fs::read_to_string(&control).map_err(|error| format!("{}: {error}", control.display()))?;
            if !listed.split_whitespace().any(|controller| controller == "memory") {
                write(&control, "+memory")?;
            }
        }
        let folder = parent.join(name);
        std::fs::create_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let group = Self { folder, version };
        let limit = group.file("memory.limit_in_bytes", "memory.max");
        write(&limit, &bytes.to_string())?;
        // Swapped out is not given back. Where the system counts no swap there is none of these.
        let _ = match version {
            Version::One => write(&group.folder.join("memory.memsw.limit_in_bytes"), &bytes.to_string()),
            Version::Two => write(&group.folder.join("memory.swap.max"), "0"),
        };
        Ok(group)
    }

    fn file(&self, one: &str, two: &str) -> PathBuf {
        self.folder.join(if self.version == Version::One { one } else { two })
    }

    fn number(&self, one: &str, two: &str) -> u64 {
        let text = std::fs::read_to_string(self.file(one, two)).unwrap_or_default();
        text.trim().parse().unwrap_or_default()
    }

    fn used(&self) -> u64 {
        let all = self.number("memory.usage_in_bytes", "memory.current");
        let files = ["inactive_file", "active_file"].map(|name| field(&self.folder.join("memory.stat"), name));
        all.saturating_sub(files.into_iter().flatten().sum())
    }

    fn peak(&self) -> u64 {
        self.number("memory.max_usage_in_bytes", "memory.peak")
    }

    fn kills(&self) -> Option<u64> {
        field(&self.file("memory.oom_control", "memory.events"), "oom_kill")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The kernel lets go of a group a moment after its last process.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        println!("{} cannot be removed", self.folder.display());
    }
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

/// A number of a file of lines `name number`.
fn field(path: &Path, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

/// A number of a process' status; 0 when it is gone.
pub fn status(pid: u32, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}
