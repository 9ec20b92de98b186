//! The wasmtime engine: its limits, its clock for time-outs, and the cache of compiled code.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::sync::Semaphore;
use wasmtime::{CacheConfig, Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig};

/// How often a running function is looked at: the grain of its time-out.
const EPOCH: Duration = Duration::from_millis(10);
/// Tables of a Rust component are small; this is wasmtime's own default, spelled out.
const TABLE_ELEMENTS_MAX: usize = 20_000;

/// Memory of an instance that stays with its slot in the pool, cleared, when the call ends: the next
/// call's pages need not be asked of the system again. It is held for each slot that was ever used at the
/// same time as others, so it is less than a large batch takes.
const RESIDENT_BYTES: usize = 2 * 1024 * 1024;

/// What one call may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Linear memory of one instance.
    pub memory_bytes_max: usize,
    /// Wall-clock time of one call, waiting included.
    pub call_time_max: Duration,
    /// Instances at one time, over all components.
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
    Off,
    Folder(PathBuf),
    /// As a file of wasmtime's own says.
    ConfiguredBy(PathBuf),
}

/// How the engine is made.
#[derive(Clone, Debug)]
pub struct Settings {
    pub limits: Limits,
    pub cache: Cache,
    /// Instances come from a pool that is reserved at the start.
    pub pooling: bool,
    /// Compiled code can be debugged.
    pub debug_info: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { limits: Limits::default(), cache: Cache::Off, pooling: true, debug_info: false }
    }
}

/// The engine and its ticking thread.
pub struct Engine {
    pub wasmtime: wasmtime::Engine,
    pub limits: Limits,
    /// One permit an instance: calls wait rather than fail when the pool is full.
    pub permits: Arc<Semaphore>,
    stop: Arc<AtomicBool>,
}

impl Engine {
    pub fn new(settings: &Settings) -> Result<Self> {
        let limits = settings.limits;
        let mut config = Config::new();
        config.wasm_component_model_async(true);
        config.epoch_interruption(true);
        config.debug_info(settings.debug_info);
        if settings.pooling {
            config.allocation_strategy(InstanceAllocationStrategy::Pooling(pooling(limits)));
        }
        config.cache(cache(&settings.cache)?);
        let wasmtime =
            wasmtime::Engine::new(&config).map_err(|error| anyhow!(error)).context("cannot start wasmtime")?;
        let stop = Arc::new(AtomicBool::new(false));
        tick(wasmtime.clone(), Arc::clone(&stop))?;
        let permits = Arc::new(Semaphore::new(limits.instances_max as usize));
        Ok(Self { wasmtime, limits, permits, stop })
    }
}

fn cache(cache: &Cache) -> Result<Option<wasmtime::Cache>> {
    let (opened, place) = match cache {
        Cache::Off => return Ok(None),
        Cache::Folder(folder) => {
            let mut config = CacheConfig::new();
            config.with_directory(folder);
            (wasmtime::Cache::new(config), folder)
        }
        Cache::ConfiguredBy(file) => (wasmtime::Cache::from_file(Some(file)), file),
    };
    opened
        .map(Some)
        .map_err(|error| anyhow!(error))
        .with_context(|| format!("cannot use {} for compiled code", place.display()))
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn pooling(limits: Limits) -> PoolingAllocationConfig {
    // A component is a handful of core instances: the module, and the adapters around it.
    const CORE_INSTANCES: u32 = 8;
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(limits.instances_max)
        .total_core_instances(limits.instances_max * CORE_INSTANCES)
        .total_memories(limits.instances_max * 2)
        .total_tables(limits.instances_max * CORE_INSTANCES)
        .total_stacks(limits.instances_max * 2)
        .max_memory_size(limits.memory_bytes_max)
        .table_elements(TABLE_ELEMENTS_MAX)
        .linear_memory_keep_resident(RESIDENT_BYTES.min(limits.memory_bytes_max))
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
