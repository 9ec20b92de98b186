//! What happens to PostgreSQL as a whole.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};

use crate::database::Database;

/// What is locked, each for itself.
const LOCKS: [&str; 4] = [
    "LOCK TABLE public.window_state IN ACCESS EXCLUSIVE MODE",
    "LOCK TABLE public.progress IN ACCESS EXCLUSIVE MODE",
    "SELECT FROM public.progress FOR UPDATE",
    "SELECT FROM public.streams FOR UPDATE",
];
const MINE: &str = "datname = current_database() AND application_name LIKE 'exagg%'";

fn connect(database: &Database) -> Option<Client> {
    let mut config: postgres::Config = database.url.parse().unwrap();
    config.connect_timeout(Duration::from_secs(2)).connect(NoTls).ok()
}

/// Holds one of the locks for a while.
pub fn lock(database: &Database, which: usize, time: Duration) {
    let database = database.clone();
    std::thread::spawn(move || {
        let Some(mut client) = connect(&database) else { return };
        let statement = format!("BEGIN; SET LOCAL lock_timeout = '5s'; {}", LOCKS[which % LOCKS.len()]);
        if client.batch_execute(&statement).is_ok() {
            std::thread::sleep(time);
        }
    });
}

/// Ends the hosts' connections, again and again.
pub fn storm(database: &Database, time: Duration) {
    let (database, ends) = (database.clone(), Instant::now() + time);
    std::thread::spawn(move || {
        let Some(mut client) = connect(&database) else { return };
        while Instant::now() < ends {
            let _ =
                client.execute(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {MINE}"), &[]);
            std::thread::sleep(Duration::from_millis(200));
        }
    });
}

/// Takes all connections that the server has left.
pub fn exhaust(database: &Database, time: Duration) {
    let database = database.clone();
    std::thread::spawn(move || {
        let mut taken = Vec::new();
        // Superusers have some more; with them it is full for everybody.
        while let Ok(client) = Client::connect(&database.url, NoTls) {
            taken.push(client);
        }
        std::thread::sleep(time);
    });
}

/// `kill -9` of a process: the server recovers from its log.
pub fn crash(database: &Database) -> bool {
    let Some(mut client) = connect(database) else { return false };
    let statement =
        format!("SELECT pid FROM pg_stat_activity WHERE {MINE} ORDER BY state = 'active' DESC, random() LIMIT 1");
    let Ok(Some(row)) = client.query_opt(&statement, &[]) else { return false };
    let pid: i32 = row.get(0);
    signal("KILL", pid)
}

/// All processes of the server, which stand still until this goes.
pub struct Frozen(Vec<i32>);

/// The server stands still, the way a machine does whose disk is gone.
pub fn freeze(database: &Database) -> Option<Frozen> {
    let mut client = connect(database)?;
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).ok()?.get(0);
    drop(client);
    let server = parent(pid)?;
    let processes = std::fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut frozen: Vec<i32> = processes.filter(|process| parent(*process) == Some(server)).collect();
    frozen.push(server);
    for process in &frozen {
        signal("STOP", *process);
    }
    Some(Frozen(frozen))
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for process in &self.0 {
            signal("CONT", *process);
        }
    }
}

fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name, which may hold anything: the state, then the parent.
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// Sends a process this signal; false when it has ended.
pub fn signal(name: &str, pid: i32) -> bool {
    // A process that has ended meanwhile is no failure to be told of.
    let mut kill = Command::new("kill");
    kill.args([&format!("-{name}"), &pid.to_string()]).stderr(Stdio::null()).status().unwrap().success()
}
