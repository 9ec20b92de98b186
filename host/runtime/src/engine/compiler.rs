//! Compiling, apart from the host: in a process of its own, one at a time, with a bound on time and memory.
//! A few kilobytes of code can keep a compiler busy for minutes; here that costs the one who asked, and the
//! process ends when nobody waits for it any more.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use exagg_app::CODE_BYTES_MAX;
use exagg_common::printable::printable_lines;
use rustix::process::{Resource, Rlimit, getpid, setpriority_process, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

use super::sys::Trusted;
use super::{Settings, configuration, processors};

/// Of the memory that a compilation may take, the part that the code may have: the host has to hold it as well.
const CODE_SHARE: u64 = 4;
/// What a thread of the compiler takes, generously.
const MEMORY_OF_A_THREAD: u64 = 32 * 1024 * 1024;
/// What a compiler may say of its failure.
const MESSAGE_BYTES_MAX: u64 = 16 * 1024;

/// What one compilation may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// By the clock; and as much processor time on each core.
    pub seconds_max: u64,
    /// The process's writable memory; the code that it gives may have a quarter of that.
    pub memory_bytes_max: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { seconds_max: 120, memory_bytes_max: 2 << 30 }
    }
}

/// What a compilation has to give way to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Nothing runs yet: the host waits for it.
    Full,
    /// The functions that run come first.
    Beside,
}

/// Where components are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In this process: for tests and tools, which are no host of foreign code.
    Here,
    /// In a process of its own (`exagg compile`).
    Apart(Bounds),
}

/// Compiles components, one at a time.
pub struct Compiler {
    place: Place,
    debug_info: bool,
    turn: Mutex<()>,
}

impl Compiler {
    /// A compiler at the place that the settings name; no process runs until something is compiled.
    pub fn new(settings: &Settings) -> Self {
        Self { place: settings.compile, debug_info: settings.debug_info, turn: Mutex::new(()) }
    }

    /// Whether code keeps what a debugger needs of it.
    pub fn debug_info(&self) -> bool {
        self.debug_info
    }

    /// Compiled code. The work ends when this future is dropped.
    pub async fn compile(&self, engine: &wasmtime::Engine, source: &[u8], pace: Pace) -> Result<Trusted> {
        ensure!(source.starts_with(b"\0asm"), "it is not a WebAssembly file");
        ensure!(
            source.len() <= CODE_BYTES_MAX,
            "it has {} bytes: a component has at most {CODE_BYTES_MAX}",
            source.len()
        );
        let _turn = self.turn.lock().await;
        match self.place {
            Place::Here => engine.precompile_component(source).map(Trusted).map_err(|error| anyhow!("{error:#}")),
            Place::Apart(bounds) => self.apart(source, bounds, pace).await,
        }
    }

    async fn apart(&self, source: &[u8], bounds: Bounds, pace: Pace) -> Result<Trusted> {
        let mut command = Command::new(program()?);
        command
            // A plugin of Spin's is told by its name what it is.
            .arg0("exagg")
            .args(["compile", "--seconds-max", &bounds.seconds_max.to_string()])
            .args(["--memory-bytes-max", &bounds.memory_bytes_max.to_string()])
            .args(self.debug_info.then_some("--debug-info"))
            .args((pace == Pace::Beside).then_some("--beside"))
            // It has no business with the host's secrets.
            .env_clear()
            // A thread's stack is memory as well.
            .env("RAYON_NUM_THREADS", threads(bounds).to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().context("the compiler cannot be started")?;
        let time_max = Duration::from_secs(bounds.seconds_max);
        let compiled = tokio::time::timeout(time_max, converse(&mut child, source, bounds)).await;
        let compiled = compiled.unwrap_or_else(|_| bail!("{}", took_too_long(bounds)));
        if compiled.is_err() {
            // The next one, and who asked, wait until its memory is there again. It may have ended by itself.
            let _ = child.kill().await;
        }
        compiled
    }
}

/// Gives the compiler the source and takes its answer.
async fn converse(child: &mut Child, source: &[u8], bounds: Bounds) -> Result<Trusted> {
    let (mut input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let Some(input) = input.as_mut() {
            // One that has ended says why itself.
            let _ = input.write_all(source).await;
        }
        drop(input);
    };
    let code_bytes_max = bounds.memory_bytes_max / CODE_SHARE;
    let (mut code, mut message) = (Vec::new(), Vec::new());
    let take = async {
        if let Some(output) = output {
            output.take(code_bytes_max + 1).read_to_end(&mut code).await?;
        }
        std::io::Result::Ok(())
    };
    let listen = async {
        if let Some(errors) = errors {
            errors.take(MESSAGE_BYTES_MAX).read_to_end(&mut message).await?;
        }
        std::io::Result::Ok(())
    };
    let ((), took, listened) = tokio::join!(feed, take, listen);
    took.and(listened).context("the compiler's answer cannot be read")?;
    ensure!(
        code.len() as u64 <= code_bytes_max,
        "its code would have more than {code_bytes_max} bytes, a quarter of [exagg] compile_memory_bytes_max"
    );
    let status = child.wait().await?;
    if status.success() {
        return Ok(Trusted(code));
    }
    let message = String::from_utf8_lossy(&message);
    let message = message.trim();
    let message = message.strip_prefix("Error: ").unwrap_or(message);
    match std::os::unix::process::ExitStatusExt::signal(&status) {
        Some(libc::SIGXCPU | libc::SIGKILL) => bail!("{}", took_too_long(bounds)),
        // Where memory cannot be had the program aborts.
        Some(_) => {
            bail!("it cannot be compiled within {} bytes ([exagg] compile_memory_bytes_max)", bounds.memory_bytes_max)
        }
        None => bail!("{}", printable_lines(message)),
    }
}

/// Threads of the compiler: as many as its memory has room for.
fn threads(bounds: Bounds) -> u64 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    (bounds.memory_bytes_max / MEMORY_OF_A_THREAD).clamp(1, cores)
}

/// Where this program is. Without `/proc` the system does not say: then it is where it was started from.
fn program() -> Result<PathBuf> {
    // The very program that runs, also after another was put in its place.
    let own = PathBuf::from("/proc/self/exe");
    if own.exists() {
        return Ok(own);
    }
    if let Ok(path) = std::env::current_exe() {
        return Ok(path);
    }
    let name = PathBuf::from(std::env::args_os().next().context("this program has no name")?);
    if name.is_absolute() {
        return Ok(name);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(&name)).find(|path| path.is_file());
    found.with_context(|| format!("there is no program {} on the PATH", name.display()))
}

fn took_too_long(bounds: Bounds) -> String {
    format!("it cannot be compiled within {} s ([exagg] compile_seconds_max)", bounds.seconds_max)
}

/// `exagg compile`: reads a component and writes its compiled code, within bounds that it sets itself first.
pub fn run(bounds: Bounds, pace: Pace, debug_info: bool) -> Result<()> {
    confine(bounds, pace)?;
    let mut source = Vec::new();
    std::io::stdin().lock().take(CODE_BYTES_MAX as u64 + 1).read_to_end(&mut source)?;
    let settings = Settings { debug_info, pooling: false, ..Settings::default() };
    let engine = wasmtime::Engine::new(&configuration(&settings)).map_err(|error| anyhow!("{error:#}"))?;
    let code = engine.precompile_component(&source).map_err(|error| anyhow!("{error:#}"))?;
    std::io::stdout().lock().write_all(&code).context("the host does not wait any more")
}

fn confine(bounds: Bounds, pace: Pace) -> Result<()> {
    let limit = |most: u64| Rlimit { current: Some(most), maximum: Some(most) };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    setrlimit(Resource::Cpu, limit(bounds.seconds_max.saturating_mul(cores))).context("cannot bound the time")?;
    // Memory that can be written, without what is only reserved.
    setrlimit(Resource::Data, limit(bounds.memory_bytes_max)).context("cannot bound the memory")?;
    setrlimit(Resource::Core, limit(0)).context("cannot do without a core file")?;
    // It ends with a host that is killed, too: its memory is the same control group's. Linux means the thread that
    // started it, which is one of the runtime's and lasts as long as the host.
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .context("cannot follow the host")?;
    // Neither is essential, and a container may forbid it.
    if pace == Pace::Beside {
        processors::leave_one();
        let _ = setpriority_process(Some(getpid()), 19);
    }
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    Ok(())
}
