//! The host's memory: how much it may use, and how much it does.

mod sys;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

pub use self::sys::give_back;

/// Of a container's limit, the part that the host plans with: the rest is the code, the kernel's buffers for
/// it, and what a compilation takes.
const SHARE_OF_LIMIT: (u64, u64) = (3, 4);
/// Of a machine without a limit.
const SHARE_OF_MACHINE: (u64, u64) = (1, 2);
/// Where the system says nothing.
const UNKNOWN: u64 = 2 << 30;

/// The host's budget (`[exagg] memory_bytes_max`); none is set before the host starts.
static BUDGET: AtomicU64 = AtomicU64::new(u64::MAX);

/// The default budget: by the limit of the control group that the process is in, else by the machine.
pub fn default_budget() -> u64 {
    let part = |bytes: u64, (of, whole): (u64, u64)| bytes / whole * of;
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let machine = machine();
    match group_limit(&groups, Path::new("/sys/fs/cgroup"), &read).filter(|limit| machine.is_none_or(|m| *limit < m)) {
        Some(limit) => part(limit, SHARE_OF_LIMIT),
        None => machine.map_or(UNKNOWN, |bytes| part(bytes, SHARE_OF_MACHINE)),
    }
}

/// The least limit of the group and all above it, of either version of control groups.
fn group_limit(groups: &str, mount: &Path, read: &dyn Fn(&Path) -> Option<String>) -> Option<u64> {
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let (root, file) = if number == "0" {
            (mount.to_owned(), "memory.max")
        } else if controllers.split(',').any(|controller| controller == "memory") {
            (mount.join("memory"), "memory.limit_in_bytes")
        } else {
            continue;
        };
        // Within a container the group's path is often the host's, and the root is the group itself.
        let mut folder: Option<PathBuf> = Some(root.join(path.trim_start_matches('/')));
        while let Some(next) = folder.filter(|folder| folder.starts_with(&root)) {
            limits.extend(read(&next.join(file)).and_then(|text| text.trim().parse::<u64>().ok()));
            folder = next.parent().map(Path::to_owned);
        }
    }
    limits.into_iter().min()
}

fn machine() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Sets the budget, once at the start.
pub fn set_budget(bytes: u64) {
    BUDGET.store(bytes, Ordering::Relaxed);
}

/// The budget in bytes; [`u64::MAX`] until it is set.
pub fn budget() -> u64 {
    BUDGET.load(Ordering::Relaxed)
}

/// Resident memory of this process in bytes; 0 where the system does not say.
pub fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or_default();
    pages * rustix::param::page_size() as u64
}

/// Whether so many bytes more are within the budget now.
pub fn has_room_for(bytes: u64) -> bool {
    resident().saturating_add(bytes) <= budget()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_limit_of_a_group_and_those_above_it_counts() {
        let files = |path: &Path| match path.to_str().unwrap() {
            "/g/a/b/memory.max" => Some("max\n".to_owned()),
            "/g/a/memory.max" => Some("536870912\n".to_owned()),
            "/g/memory/x/memory.limit_in_bytes" => Some("1000\n".to_owned()),
            "/g/memory/memory.limit_in_bytes" => Some("9223372036854771712\n".to_owned()),
            _ => None,
        };
        let mount = Path::new("/g");
        assert_eq!(group_limit("0::/a/b\n", mount, &files), Some(536_870_912));
        assert_eq!(group_limit("4:cpu,memory:/x\n3:cpuset:/\n", mount, &files), Some(1000));
        assert_eq!(group_limit("4:memory:/not/seen/here\n", mount, &files), Some(9_223_372_036_854_771_712));
        assert_eq!(group_limit("", mount, &files), None);
    }

    #[test]
    fn this_process_has_memory() {
        assert!(resident() > 1 << 20 && default_budget() > 1 << 20);
        assert!(has_room_for(0));
    }
}
