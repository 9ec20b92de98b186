//! The wasmtime engine: its limits, its clock for time-outs, and the code that it runs.
//!
//! # Layout
//! - here: the engine's settings, and what one call may use.
//! - [`compiler`]: compiling, in a process of its own.
//! - [`store`]: compiled code on disk, bound to its source by a keyed hash.
//! - [`lanes`]: calls that run for long give way to the others.
//! - `processors`: which of them what may compute without end runs on.

pub mod compiler;
pub mod lanes;
mod processors;
mod store;
mod sys;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use serde::Deserialize;
use wasmtime::component::Component;
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails};

use self::compiler::{Compiler, Pace, Place};
use self::lanes::Lanes;
use self::store::{Identity, Store};
use self::sys::Trusted;
use crate::budget::plan::INSTANCES_MIN;

/// How often a running function is looked at: the grain of its time-out.
pub const EPOCH: Duration = Duration::from_millis(10);
/// Tables of a Rust component are small; this is wasmtime's own default, spelled out.
const TABLE_ELEMENTS_MAX: usize = 20_000;
/// Memory of an instance that stays with its slot in the pool, cleared, when the call ends: the next
/// call's pages need not be asked of the system again. It is held for each slot that was ever used at the
/// same time as others, so it is less than a large batch takes.
const RESIDENT_BYTES: usize = 2 * 1024 * 1024;
/// The part of the budget that cleared memory may take, all slots of one kind in use at a time.
const RESIDENT_SHARE: u64 = 8;

/// What one call may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Linear memory of one instance.
    pub memory_bytes_max: usize,
    /// Wall-clock time of one call, waiting included.
    pub call_time_max: Duration,
    /// Instances at one time of each kind of trigger, shared by the components that it calls.
    pub instances_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory_bytes_max: 128 * 1024 * 1024, call_time_max: Duration::from_secs(30), instances_max: 64 }
    }
}

/// Where compiled code is kept.
#[derive(Clone, Debug)]
pub enum Cache {
    /// Nowhere: each start compiles every component (`--disable-cache`).
    Off,
    /// In this folder; a host takes `compiled` in its state directory.
    Folder(PathBuf),
    /// In the folder that a file of wasmtime's own names (`--cache`).
    ConfiguredBy(PathBuf),
}

/// How the engine is made.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What each call may use; the pool of instances is sized by it.
    pub limits: Limits,
    /// Where compiled code outlives the host; by default it does not.
    pub cache: Cache,
    /// Where components are compiled.
    pub compile: Place,
    /// Instances come from a pool that is reserved at the start.
    pub pooling: bool,
    /// Compiled code can be debugged.
    pub debug_info: bool,
    /// What the host may use of the machine's memory, in bytes.
    pub budget_bytes: u64,
    /// Types of triggers: each has instances of its own.
    pub trigger_types: u32,
    /// Components, each counted once for every type of trigger that calls it.
    pub components: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            cache: Cache::Off,
            compile: Place::Here,
            pooling: true,
            debug_info: false,
            budget_bytes: u64::MAX,
            trigger_types: 3,
            components: 16,
        }
    }
}

/// The engine and its ticking thread.
pub struct Engine {
    /// The engine of wasmtime, with epochs and the asynchronous component model.
    pub wasmtime: wasmtime::Engine,
    /// What each call may use; a component copies it when it is loaded.
    pub limits: Limits,
    /// What the host may use of the machine's memory, in bytes; the plan of accounts shares it out.
    pub budget_bytes: u64,
    /// Compiles components, or loads what was compiled before; components keep it for their successors.
    pub code: Arc<Code>,
    /// The threads for calls that compute for long, and those for requests.
    pub lanes: Arc<Lanes>,
    stop: Arc<AtomicBool>,
}

/// Components from their sources: compiled once, kept on disk.
pub struct Code {
    engine: wasmtime::Engine,
    compiler: Compiler,
    store: Option<Store>,
}

impl Code {
    /// The component of this source.
    pub async fn component(self: &Arc<Self>, source: Bytes, pace: Pace) -> Result<Component> {
        let (code, looked) = (Arc::clone(self), source.clone());
        let (known, identity) = apart(move || code.known(&looked)).await?;
        if let Some(component) = known {
            return Ok(component);
        }
        let compiled = self.compiler.compile(&self.engine, &source, pace).await?;
        let code = Arc::clone(self);
        apart(move || code.keep(identity.as_ref(), &compiled)).await?
    }

    /// The component, where its code is on disk.
    fn known(&self, source: &[u8]) -> (Option<Component>, Option<Identity>) {
        let Some(store) = &self.store else { return (None, None) };
        let identity = Identity::new(&self.engine, source);
        let loaded = store.get(&identity).and_then(|code| match sys::load(&self.engine, &code) {
            Ok(component) => Some(component),
            // A wasmtime of other settings says so itself: then it is made anew.
            Err(error) => {
                tracing::debug!("compiled code is made anew: {error:#}");
                None
            }
        });
        (loaded, Some(identity))
    }

    /// Whether a trap is to say by which functions it came.
    pub fn has_debug_info(&self) -> bool {
        self.compiler.debug_info()
    }

    fn keep(&self, identity: Option<&Identity>, code: &Trusted) -> Result<Component> {
        if let (Some(store), Some(identity)) = (&self.store, identity) {
            store.put(identity, code);
        }
        sys::load(&self.engine, code).map_err(|error| anyhow!("{error:#}"))
    }
}

/// Runs what reads, hashes and maps large code on a thread that may take its time.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context("code was not loaded")
}

/// What code is compiled by, and runs under: the same for the host and for the compiler's own process.
fn configuration(settings: &Settings) -> Config {
    let mut config = Config::new();
    config.wasm_component_model_async(true);
    config.epoch_interruption(true);
    config.debug_info(settings.debug_info);
    if settings.debug_info {
        config.wasm_backtrace_details(WasmBacktraceDetails::Enable);
    }
    if settings.pooling {
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pooling(settings)));
    }
    config
}

impl Engine {
    /// Opens the cache, and starts the epoch's thread and those for guests.
    pub fn new(settings: &Settings) -> Result<Self> {
        let wasmtime = wasmtime::Engine::new(&configuration(settings))
            .map_err(|error| anyhow!(error))
            .context("cannot start wasmtime")?;
        let store = match &settings.cache {
            Cache::Off => None,
            Cache::Folder(folder) => Some(Store::open(folder)?),
            Cache::ConfiguredBy(file) => cache_folder(file)?.map(|folder| Store::open(&folder)).transpose()?,
        };
        let stop = Arc::new(AtomicBool::new(false));
        tick(wasmtime.clone(), Arc::clone(&stop))?;
        Ok(Self {
            code: Arc::new(Code { engine: wasmtime.clone(), compiler: Compiler::new(settings), store }),
            lanes: Arc::new(Lanes::start()?),
            wasmtime,
            limits: settings.limits,
            budget_bytes: settings.budget_bytes,
            stop,
        })
    }
}

/// What this host reads of a cache's configuration as wasmtime has it.
#[derive(Deserialize)]
struct CacheFile {
    #[serde(default)]
    cache: CacheTable,
}

#[derive(Default, Deserialize)]
struct CacheTable {
    directory: Option<PathBuf>,
    #[serde(default)]
    enabled: Option<bool>,
}

/// The folder that the file names; none where it turns the cache off.
fn cache_folder(file: &std::path::Path) -> Result<Option<PathBuf>> {
    let in_file = || format!("--cache {}", file.display());
    let text = std::fs::read_to_string(file).with_context(in_file)?;
    let CacheTable { directory, enabled } = toml::from_str::<CacheFile>(&text).with_context(in_file)?.cache;
    if enabled == Some(false) {
        return Ok(None);
    }
    directory.map(Some).context("it names no directory: [cache] directory = \"…\"").with_context(in_file)
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn pooling(settings: &Settings) -> PoolingAllocationConfig {
    // A component is a handful of core instances: the module, and the adapters around it.
    const CORE_INSTANCES: u32 = 8;
    let limits = settings.limits;
    // Each component has its least number, and one more to be tried out.
    let instances = limits.instances_max * settings.trigger_types + settings.components * (INSTANCES_MIN + 1);
    let resident = usize::try_from(settings.budget_bytes / RESIDENT_SHARE).unwrap_or(usize::MAX);
    let resident = (resident / limits.instances_max as usize).min(RESIDENT_BYTES).min(limits.memory_bytes_max);
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(instances)
        .total_core_instances(instances * CORE_INSTANCES)
        .total_memories(instances * 2)
        .total_tables(instances * CORE_INSTANCES)
        .total_stacks(instances * 2)
        .max_memory_size(limits.memory_bytes_max)
        .table_elements(TABLE_ELEMENTS_MAX)
        .linear_memory_keep_resident(resident)
        // Only pages that were touched are cleared and kept (Linux 6.7): most of a stack never is.
        .pagemap_scan(Enabled::Auto);
    pool
}

/// The epoch moves on a thread of its own: a function in an endless loop must not be able to
/// hold the clock that ends it.
fn tick(engine: wasmtime::Engine, stop: Arc<AtomicBool>) -> Result<()> {
    let ticking = move || {
        while !stop.load(Ordering::Relaxed) {
            #[expect(clippy::disallowed_methods, reason = "this thread does nothing else")]
            std::thread::sleep(EPOCH);
            engine.increment_epoch();
        }
    };
    std::thread::Builder::new().name("epoch".to_owned()).spawn(ticking).context("cannot start the epoch thread")?;
    Ok(())
}
