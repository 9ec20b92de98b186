//! A PostgreSQL in the state directory: found, initialised once, started, and ended with the
//! host, whatever ends the host. Where its files are, and whose: [`super::place`].

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use exagg_common::private;

use super::place::{Place, SystemUser};
use super::sys;

const MAJOR_MIN: u32 = 14;
const START_MAX: Duration = Duration::from_mins(1);
const STOP_MAX: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);
/// Pauses before it is started again.
const RESTART_MIN: Duration = Duration::from_millis(500);
const RESTART_MAX: Duration = Duration::from_secs(10);
const USER: &str = "exagg";
const DATABASE: &str = "postgres";
/// Where to look beside `PG_BIN` and the `PATH`.
const USUAL_FOLDERS: [&str; 4] = ["/usr/lib/postgresql", "/usr/local/pgsql", "/opt/homebrew/opt", "/usr/local/opt"];

/// Where it will run.
#[derive(Clone)]
pub struct Plan {
    bin: PathBuf,
    place: Place,
    port: u16,
    password: String,
}

impl Plan {
    /// Finds the programs and chooses folder, port and password.
    pub fn new(state_dir: &Path) -> Result<Self> {
        Self::by(find_bin()?, state_dir)
    }

    /// The same with the programs of this folder.
    pub fn by(bin: PathBuf, state_dir: &Path) -> Result<Self> {
        let user = if sys::is_root() { Some(SystemUser::unprivileged()?) } else { None };
        let place = Place::open(state_dir, user)?;
        // Free now; PostgreSQL says so if somebody is quicker.
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        Ok(Self { bin, password: password(&place)?, place, port })
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn url(&self) -> String {
        format!("postgres://{USER}:{}@127.0.0.1:{}/{DATABASE}", self.password, self.port)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").current_dir(&self.place.folder);
        if let Some(user) = &self.place.user {
            command.uid(user.uid).gid(user.gid);
        }
        command
    }
}

/// A running PostgreSQL, started again when it dies. It ends when this is stopped or dropped, or the host is killed.
pub struct Postgres {
    process: Arc<Process>,
    ended: mpsc::Receiver<()>,
}

/// The process as it is now.
#[derive(Default)]
struct Process {
    /// 0 while there is none.
    pid: AtomicU32,
    /// It was ready once, and is not to end yet: should it die, it is started again.
    is_wanted: AtomicBool,
}

impl Postgres {
    /// Initialises the folder the first time, and starts.
    pub fn start(plan: &Plan) -> Result<Self> {
        let lock = lock(&plan.place)?;
        if !plan.place.has_database()? {
            initialise(plan)?;
        }
        let log = plan.place.folder.join("postgres.log");
        // Removed first: it is made anew, and a link in its place is not written through.
        let _ = fs::remove_file(&log);
        let output = private::create_new(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = plan.command("postgres");
        command
            .arg("-D")
            .arg(plan.place.data())
            .args(["-p", &plan.port.to_string()])
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="])
            .args(["-c", "max_connections=100", "-c", "shared_buffers=64MB", "-c", "max_wal_size=512MB"])
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        sys::end_with_parent(&mut command);
        let (process, ended) = keep(command, lock)?;
        let postgres = Self { process, ended };
        postgres.wait_until_ready(plan, &log)?;
        Ok(postgres)
    }

    fn wait_until_ready(&self, plan: &Plan, log: &Path) -> Result<()> {
        let deadline = Instant::now() + START_MAX;
        let pid_file = plan.place.data().join("postmaster.pid");
        loop {
            let text = fs::read_to_string(&pid_file).unwrap_or_default();
            let pid = self.process.pid.load(Ordering::Acquire).to_string();
            let is_ours = text.lines().next() == Some(pid.as_str());
            if is_ours && text.lines().nth(7).is_some_and(|state| state.trim() == "ready") {
                self.process.is_wanted.store(true, Ordering::Release);
                return Ok(());
            }
            if pid == "0" || Instant::now() > deadline {
                let said = fs::read_to_string(log).unwrap_or_default();
                let tail: Vec<_> = said.lines().rev().take(5).collect();
                bail!(
                    "the embedded PostgreSQL did not start: {}",
                    tail.into_iter().rev().collect::<Vec<_>>().join(" | ")
                );
            }
            pause();
        }
    }

    /// Ends it: open transactions are rolled back, what is committed is on disk.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.process.is_wanted.store(false, Ordering::Release);
        for signal in [libc::SIGINT, libc::SIGQUIT] {
            match self.process.pid.load(Ordering::Acquire) {
                0 => {}
                pid => sys::signal(pid, signal),
            }
            if self.ended.recv_timeout(STOP_MAX) != Err(mpsc::RecvTimeoutError::Timeout) {
                return;
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "on a thread that may wait")]
fn pause() {
    std::thread::sleep(LOOK);
}

/// Runs the command on a thread that lives as long as the child, for the child ends with the *thread* that started
/// it; and again when it dies, as long as it is wanted.
fn keep(mut command: Command, lock: fs::File) -> Result<(Arc<Process>, mpsc::Receiver<()>)> {
    let ((started, first), (ending, ended)) = (mpsc::channel(), mpsc::channel());
    let process = Arc::new(Process::default());
    let kept = Arc::clone(&process);
    let run = move || {
        let mut restart = Pause(RESTART_MIN);
        loop {
            let began = Instant::now();
            let how = match command.spawn() {
                Ok(mut child) => {
                    kept.pid.store(child.id(), Ordering::Release);
                    // Only the first start is waited for.
                    let _ = started.send(Ok(()));
                    let ended = child.wait();
                    kept.pid.store(0, Ordering::Release);
                    ended.map_or_else(|error| error.to_string(), |status| status.to_string())
                }
                Err(error) => {
                    let how = error.to_string();
                    let _ = started.send(Err(error));
                    how
                }
            };
            if !kept.is_wanted.load(Ordering::Acquire) {
                break;
            }
            restart = restart.after(began.elapsed());
            tracing::error!("the embedded PostgreSQL has ended ({how}); it is started again in {:?}", restart.0);
            let until = Instant::now() + restart.0;
            while Instant::now() < until && kept.is_wanted.load(Ordering::Acquire) {
                pause();
            }
            // The host may have stopped meanwhile.
            if !kept.is_wanted.load(Ordering::Acquire) {
                break;
            }
        }
        drop(lock);
        let _ = ending.send(());
    };
    std::thread::Builder::new().name("postgres".to_owned()).spawn(run)?;
    let started = first.recv().context("the thread of the embedded PostgreSQL ended")?;
    started.context("the embedded PostgreSQL cannot be started")?;
    Ok((process, ended))
}

/// The pause before the next start.
struct Pause(Duration);

impl Pause {
    /// What ended at once again is given more time; what ran for a while is not.
    fn after(self, ran: Duration) -> Self {
        Self(if ran > RESTART_MAX { RESTART_MIN } else { (self.0 * 2).min(RESTART_MAX) })
    }
}

/// One host a folder; a host that was killed has its lock taken from it by the system.
fn lock(place: &Place) -> Result<fs::File> {
    let path = place.folder.join("lock");
    if let Err(error) = private::create_new(&path)
        && error.kind() != std::io::ErrorKind::AlreadyExists
    {
        return Err(error).with_context(|| format!("cannot write {}", path.display()));
    }
    let file = private::open(&path)?;
    let deadline = Instant::now() + STOP_MAX;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(fs::TryLockError::WouldBlock) if Instant::now() < deadline => pause(),
            Err(fs::TryLockError::WouldBlock) => {
                bail!("another host uses {}: give this one a --state-dir of its own", place.folder.display())
            }
            Err(fs::TryLockError::Error(error)) => return Err(error.into()),
        }
    }
    // The PostgreSQL of a host that was killed may need a moment to end.
    while place.data().join("postmaster.pid").exists() && Instant::now() < deadline {
        pause();
    }
    Ok(file)
}

fn initialise(plan: &Plan) -> Result<()> {
    tracing::info!("the embedded PostgreSQL is set up in {}", plan.place.folder.display());
    let password_file = plan.place.folder.join("password.tmp");
    let _ = fs::remove_file(&password_file);
    private::write(&password_file, plan.password.as_bytes())?;
    plan.place.give(&password_file)?;
    let setup = plan.place.make_setup()?;
    let mut command = plan.command("initdb");
    sys::end_with_parent(&mut command);
    let output = command
        .arg("-D")
        .arg(&setup)
        .args(["-U", USER, "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--pwfile"])
        .arg(&password_file)
        .output()
        .with_context(|| format!("cannot run {}", plan.bin.join("initdb").display()));
    fs::remove_file(&password_file)?;
    let output = output?;
    ensure!(output.status.success(), "initdb failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    // From here on there is a database: a set-up that was cut off is begun anew.
    fs::rename(&setup, plan.place.data()).context("cannot move the database to its place")
}

/// The password of this folder's database, made the first time.
fn password(place: &Place) -> Result<String> {
    let path = place.folder.join("password");
    let mut password = String::new();
    if path.exists() {
        private::open(&path)?.read_to_string(&mut password)?;
    }
    if !password.is_empty() {
        return Ok(password);
    }
    ensure!(
        !place.has_database()?,
        "{} is gone or empty: the embedded database cannot be opened without the password that was in it",
        path.display()
    );
    let _ = fs::remove_file(&path);
    let password: String = (0..4).map(|_| uuid::Uuid::new_v4().simple().to_string()[..8].to_owned()).collect();
    private::write(&path, password.as_bytes())?;
    Ok(password)
}

fn find_bin() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("PG_BIN") {
        let bin = PathBuf::from(given);
        check(&bin).with_context(|| format!("PG_BIN is {}", bin.display()))?;
        return Ok(bin);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates: Vec<PathBuf> = std::env::split_paths(&path).collect();
    for folder in USUAL_FOLDERS {
        let mut versions: Vec<_> =
            fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path().join("bin")).collect();
        versions.sort();
        candidates.extend(versions.into_iter().rev());
        candidates.push(Path::new(folder).join("bin"));
    }
    candidates.into_iter().find(|bin| check(bin).is_ok()).ok_or_else(|| {
        anyhow!(
            "--embedded needs PostgreSQL {MAJOR_MIN} or newer (the programs initdb and postgres): install it \
             (Debian: apt-get install postgresql; macOS: brew install postgresql), or name its folder in PG_BIN"
        )
    })
}

fn check(bin: &Path) -> Result<()> {
    ensure!(bin.join("initdb").exists() && bin.join("postgres").exists(), "it has no initdb or no postgres");
    let output = Command::new(bin.join("postgres")).arg("--version").output().context("postgres does not run")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let major = text.split_whitespace().find_map(|word| word.split('.').next()?.parse::<u32>().ok());
    ensure!(major.is_some_and(|major| major >= MAJOR_MIN), "{} is older than {MAJOR_MIN}", text.trim());
    Ok(())
}
