//! The wasmtime engine: its limits, its clock for time-outs, and the cache of compiled code.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::sync::Semaphore;
use wasmtime::{Cache, CacheConfig, Config, InstanceAllocationStrategy, PoolingAllocationConfig};

/// How often a running function is looked at: the grain of its time-out.
const EPOCH: Duration = Duration::from_millis(10);
/// Tables of a Rust component are small; this is wasmtime's own default, spelled out.
const TABLE_ELEMENTS_MAX: usize = 20_000;

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

/// The engine and its ticking thread.
pub struct Engine {
    pub wasmtime: wasmtime::Engine,
    pub limits: Limits,
    /// One permit an instance: calls wait rather than fail when the pool is full.
    pub permits: Arc<Semaphore>,
    stop: Arc<AtomicBool>,
}

impl Engine {
    /// `cache` is the folder for compiled code; none compiles anew each time.
    pub fn new(limits: Limits, cache: Option<&Path>) -> Result<Self> {
        let mut config = Config::new();
        config.wasm_component_model_async(true);
        config.epoch_interruption(true);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pooling(limits)));
        if let Some(folder) = cache {
            let mut cache = CacheConfig::new();
            cache.with_directory(folder);
            let cache = Cache::new(cache)
                .map_err(|error| anyhow!(error))
                .with_context(|| format!("cannot use {} as cache of compiled code", folder.display()))?;
            config.cache(Some(cache));
        }
        let wasmtime =
            wasmtime::Engine::new(&config).map_err(|error| anyhow!(error)).context("cannot start wasmtime")?;
        let stop = Arc::new(AtomicBool::new(false));
        tick(wasmtime.clone(), Arc::clone(&stop))?;
        let permits = Arc::new(Semaphore::new(limits.instances_max as usize));
        Ok(Self { wasmtime, limits, permits, stop })
    }
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
        .table_elements(TABLE_ELEMENTS_MAX);
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
