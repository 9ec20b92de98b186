//! CPU time and memory of processes, from `/proc`.

use std::time::Duration;

use e2e::database::Database;

/// What something cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    pub wall: Duration,
    pub cpu: Duration,
    pub postgres_cpu: Duration,
    pub peak_memory_bytes: u64,
}

/// Both sides of a case.
pub struct Measured {
    pub case: &'static str,
    pub records: usize,
    pub native: Cost,
    pub host: Cost,
    /// What the window-closer and PostgreSQL took to make final rows of it, and how many.
    pub close: Cost,
    pub rows: i64,
}

/// Clock ticks of a second: Linux has 100 on every machine that this runs on.
const TICKS: u64 = 100;

/// The numbers of `/proc/PID/stat` behind the name: the first is the state's place.
fn stat(pid: u32) -> Option<Vec<u64>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect())
}

fn ticks(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 1000 / TICKS)
}

/// User and system time of a process so far.
pub fn cpu(pid: u32) -> Duration {
    stat(pid).map(|fields| ticks(fields[11] + fields[12])).unwrap_or_default()
}

/// The same of a whole PostgreSQL: the postmaster, its children, and those that have ended.
pub fn postgres_cpu(database: &Database) -> Duration {
    let mut client = database.client();
    let backend: i32 = client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    let postmaster = u32::try_from(stat(backend.unsigned_abs()).unwrap()[1]).unwrap();
    let own = stat(postmaster).unwrap();
    let children = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let fields = stat(pid)?;
        (fields[1] == u64::from(postmaster)).then(|| fields[11] + fields[12])
    });
    ticks(own[11..15].iter().sum::<u64>() + children.sum::<u64>())
}

/// The most memory that a process has held.
pub fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}
