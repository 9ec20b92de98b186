//! A component, and the fresh instance that each call gets.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use async_trait::async_trait;
use bytes::Bytes;
use exagg_app::ComponentSpec;
use exagg_common::hex;
use exagg_common::template::Variables;
use futures::future::BoxFuture;
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::component::{Accessor, InstancePre, Linker, ResourceTable, TypedFunc};
use wasmtime::{ResourceLimiter, Store, UpdateDeadline};
use wasmtime_wasi::{WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtxView, WasiHttpView};

use crate::budget::plan::{CallMemory, call_limits};
use crate::budget::{Account, Held, Resource};
use crate::engine::compiler::Pace;
use crate::engine::lanes::Lanes;
use crate::engine::{Code, Engine, Limits};
use crate::factors::key_value::InstanceKeyValue;
use crate::factors::outbound_kafka::InstanceKafka;
use crate::factors::outbound_pg::InstancePg;
use crate::factors::waits::Waits;
use crate::factors::{Call, ComponentFactors, Factors, Holds, InstanceFactors};

/// How much later than its own end a call that waits is given up.
const WAIT_GRACE: Duration = Duration::from_millis(500);
/// Things of the host's (streams, connections, timers …) that one instance may have open.
const TABLE_ENTRIES_MAX: usize = 4_096;
/// Functions that a trap names.
const FRAMES_MAX: usize = 8;
/// Those of Rust's own between a panic and its trap: they say nothing.
const PANIC: [&str; 6] = ["abort", "std::", "core::panicking::", "__rustc::", "rust_", "alloc::"];
/// Bytes that a guest may hand over in one call of the host's.
const HOSTCALL_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What a store holds: one field a concern, one for the factors.
pub struct State {
    table: ResourceTable,
    factors: InstanceFactors,
    memory: MemoryLimit,
    waits: Waits,
}

/// What a type of trigger calls of a component.
#[async_trait]
pub trait World: Send + Sync {
    /// The type of trigger, as a manifest writes it: `[[trigger.<type>]]`.
    fn trigger_type(&self) -> &'static str;

    /// The name of the world, for messages.
    fn name(&self) -> &'static str;

    /// What its calls need of the memory budget.
    fn memory(&self) -> CallMemory;

    /// Whether the component exports what is called.
    fn check(&self, pre: &InstancePre<State>) -> wasmtime::Result<()>;

    /// Makes an instance and looks up what is called. Code that traps at its start shows here, and exports of the right
    /// names with the wrong types.
    async fn instantiate(&self, pre: &InstancePre<State>, store: &mut Store<State>) -> wasmtime::Result<()>;
}

/// A component, compiled, checked, and linked to the factors.
pub struct Component {
    /// The component's id in the manifest, the same for all its versions.
    pub id: String,
    /// SHA-256 of the file, in hex.
    pub digest: String,
    /// The file that the first version came from; a successor, which comes as bytes, keeps the path.
    pub source: PathBuf,
    /// What its triggers call.
    worlds: Worlds,
    limits: Limits,
    /// Compiles its successors.
    code: Arc<Code>,
    lanes: Arc<Lanes>,
    /// What its calls share.
    shared: Arc<Shared>,
    factors: Arc<Factors>,
    config: Arc<ComponentFactors>,
    pre: InstancePre<State>,
}

/// What the triggers of a component call of it.
type Worlds = Arc<[Arc<dyn World>]>;

/// What all versions of a component share, whichever of them runs.
struct Shared {
    /// Leave to make an instance, for each kind of trigger: requests never take a partition's place.
    permits: BTreeMap<&'static str, Arc<Semaphore>>,
    /// What the component makes the host hold, over all its calls.
    account: Arc<Account>,
    /// Whether its last call ran for long: then the next one is expected to.
    ran_long: AtomicBool,
}

/// How many instances of a component there may be at a time, for each type of trigger that calls it, and
/// whose budget its calls are charged to.
pub struct Share {
    /// Each world with the most instances for its calls; a call beyond them waits for one to go.
    pub instances: Vec<(Arc<dyn World>, u32)>,
    /// The component's account, which each call gets one below.
    pub account: Arc<Account>,
}

/// Why a call has no answer of the function's.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It was still computing at the end of its time, which is given, and was interrupted.
    #[error("the function ran longer than {0:?} ([exagg] call_seconds_max)")]
    TimedOut(Duration),
    /// Its time went by waiting for something outside, a database mostly.
    #[error("the function waited longer than {0:?} ([exagg] call_seconds_max) for {1}")]
    Stalled(Duration, String),
    /// The guest trapped, or the host could not go on with it; the causes are given on one line.
    #[error("the function trapped: {0}")]
    Trapped(String),
    /// The host could not make an instance: its pool is full, or the component cannot start.
    #[error("no instance could be made: {0}")]
    NoInstance(String),
    /// Others hold what it would have needed.
    #[error("there was no room: {0}")]
    NoRoom(String),
}

/// Why a component cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// No instance of it can be made, or its check has no answer.
    #[error("it does not start: {0}")]
    DoesNotStart(#[from] CallError),
    /// Its own check refuses its settings, for this reason.
    #[error("its settings are refused: {0}")]
    Refused(String),
}

/// The export by which a component says whether its settings are right: `exagg:check/checked`.
const CHECK: &str = "check";

impl Component {
    /// Compiles the file and checks that its imports can be served and its exports fit the
    /// triggers that call it.
    pub async fn load(
        id: &str,
        spec: &ComponentSpec,
        share: Share,
        variables: &Variables,
        engine: &Engine,
        factors: &Arc<Factors>,
    ) -> Result<Self> {
        let bytes = std::fs::read(&spec.source).with_context(|| {
            let build = spec.build.as_ref().map(|build| format!(": build it first ({})", build.commands.join(" && ")));
            format!("component {id}: cannot read {}{}", spec.source.display(), build.unwrap_or_default())
        })?;
        let bytes = Bytes::from(bytes);
        let worlds: Worlds = share.instances.iter().map(|(world, _)| Arc::clone(world)).collect();
        let config = Arc::new(factors.configure(id, spec, variables, &share.account)?);
        let pre = link(&engine.code, Pace::Full, bytes.clone(), &worlds, &spec.source.display().to_string()).await?;
        let permits = share.instances.iter();
        let permits = permits.map(|(world, most)| (world.trigger_type(), Arc::new(Semaphore::new(*most as usize))));
        let permits = permits.collect();
        Ok(Self {
            id: id.to_owned(),
            digest: hex(&Sha256::digest(&bytes)),
            source: spec.source.clone(),
            worlds,
            limits: engine.limits,
            code: Arc::clone(&engine.code),
            lanes: Arc::clone(&engine.lanes),
            shared: Arc::new(Shared { permits, account: share.account, ran_long: AtomicBool::new(false) }),
            config,
            factors: Arc::clone(factors),
            pre,
        })
    }

    /// Other code in this component's place: the same triggers, settings, connections and limits. The work
    /// ends when this future is dropped.
    pub fn successor(&self, bytes: Bytes) -> BoxFuture<'_, Result<Self>> {
        Box::pin(async move {
            let pre = link(&self.code, Pace::Beside, bytes.clone(), &self.worlds, "what was given").await?;
            Ok(Self {
                id: self.id.clone(),
                digest: hex(&Sha256::digest(&bytes)),
                source: self.source.clone(),
                worlds: Arc::clone(&self.worlds),
                limits: self.limits,
                code: Arc::clone(&self.code),
                lanes: Arc::clone(&self.lanes),
                shared: Arc::clone(&self.shared),
                config: Arc::clone(&self.config),
                factors: Arc::clone(&self.factors),
                pre,
            })
        })
    }

    /// Makes an instance for each trigger and drops it: code that traps at its start shows here, and exports of the
    /// right names with the wrong types. Then lets the component check its settings, where it can.
    pub async fn try_out(self: &Arc<Self>) -> Result<(), Unusable> {
        for world in self.worlds.iter() {
            let (component, world) = (Arc::clone(self), Arc::clone(world));
            let call = async move {
                let instance = async |store: &mut Store<State>| world.instantiate(&component.pre, store).await;
                component.call_now(instance, async |_, ()| Ok(())).await
            };
            self.run(call).await?;
        }
        if self.pre.component().get_export_index(None, CHECK).is_none() {
            return Ok(());
        }
        let component = Arc::clone(self);
        let call = async move {
            let instance = async |store: &mut Store<State>| -> wasmtime::Result<TypedFunc<(), (Result<(), String>,)>> {
                component.pre.instantiate_async(&mut *store).await?.get_typed_func(store, CHECK)
            };
            let check = async |accessor: &Accessor<State>, check: TypedFunc<(), (Result<(), String>,)>| {
                check.call_concurrent(accessor, ()).await.map(|(checked,)| checked)
            };
            component.call_now(instance, check).await
        };
        self.run(call).await?.map_err(Unusable::Refused)
    }

    /// The linked code, of which a trigger makes an instance.
    pub fn pre(&self) -> &InstancePre<State> {
        &self.pre
    }

    /// The limits of one call, which the engine had when the first version was loaded.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// What all versions and calls of the component hold together.
    pub fn account(&self) -> &Arc<Account> {
        &self.shared.account
    }

    /// Runs a call where it disturbs nobody, should it be a long one.
    pub async fn run<F>(&self, call: F) -> F::Output
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let (output, long) = self.lanes.run(self.shared.ran_long.load(Ordering::Relaxed), call).await;
        self.shared.ran_long.store(long, Ordering::Relaxed);
        output
    }

    /// Leave to make an instance for a call of this kind. Waits while all are in use.
    pub async fn permit(&self, kind: &str) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed, and there is one for each kind that was loaded.
        Arc::clone(self.shared.permits.get(kind)?).acquire_owned().await.ok()
    }

    /// A store for one call.
    pub fn store(&self) -> Store<State> {
        let account = self.shared.account.below("the call", call_limits());
        let call = Call { account, waits: Waits::default() };
        let mut table = ResourceTable::new();
        table.set_max_capacity(TABLE_ENTRIES_MAX);
        let state = State {
            table,
            factors: self.factors.prepare(&self.config, &call),
            memory: MemoryLimit {
                bytes_max: self.limits.memory_bytes_max,
                call: call.account,
                held: None,
                exceeded: None,
                is_full: false,
            },
            waits: call.waits,
        };
        let mut store = Store::new(self.pre.engine(), state);
        store.limiter(|state| &mut state.memory);
        store.set_hostcall_fuel(HOSTCALL_BYTES_MAX);
        let deadline = Instant::now() + self.limits.call_time_max;
        store.epoch_deadline_callback(move |_| {
            // Yielding lets other calls run on this thread meanwhile.
            Ok(if Instant::now() < deadline { UpdateDeadline::Yield(1) } else { UpdateDeadline::Interrupt })
        });
        store.set_epoch_deadline(1);
        store
    }

    /// Makes an instance for a trigger of this kind, calls it once and drops it.
    pub async fn call<B, R: Send>(
        &self,
        kind: &str,
        instantiate: impl AsyncFnOnce(&mut Store<State>) -> wasmtime::Result<B>,
        call: impl AsyncFnOnce(&Accessor<State>, B) -> wasmtime::Result<R>,
    ) -> Result<R, CallError> {
        let _permit = self.permit(kind).await;
        self.call_now(instantiate, call).await
    }

    /// Without waiting for leave.
    async fn call_now<B, R: Send>(
        &self,
        instantiate: impl AsyncFnOnce(&mut Store<State>) -> wasmtime::Result<B>,
        call: impl AsyncFnOnce(&Accessor<State>, B) -> wasmtime::Result<R>,
    ) -> Result<R, CallError> {
        let mut store = self.store();
        let (time_max, waits) = (self.limits.call_time_max, store.data().waits.clone());
        let run = async {
            let bindings = instantiate(&mut store).await.map_err(|error| CallError::NoInstance(one_line(&error)))?;
            store
                .run_concurrent(async move |accessor| call(accessor, bindings).await)
                .await
                .and_then(|result| result)
                .map_err(|error| trapped(&error, time_max, self.code.has_debug_info()))
        };
        // A function that runs is ended by the epoch first: what is left waits.
        let give_up = async {
            tokio::time::sleep(time_max + WAIT_GRACE).await;
            // Asked while the call is still there: what it waits for goes with it.
            waits.latest().unwrap_or_else(|| "a timer or a stream of its own".to_owned())
        };
        let result = tokio::select! {
            result = run => result,
            what = give_up => Err(CallError::Stalled(time_max, what)),
        };
        match (result, &store.data().memory.exceeded) {
            // What others hold is not the function's fault.
            (Err(CallError::Trapped(_)), Some(exceeded)) => Err(CallError::NoRoom(exceeded.clone())),
            (Err(CallError::Trapped(why)), None) => {
                let memory = &store.data().memory;
                let full = memory.is_full.then(|| {
                    format!("it asked for more than the {} MiB of --max-instance-memory", memory.bytes_max >> 20)
                });
                Err(CallError::Trapped(match store.data().factors.wasi.panic().or(full) {
                    Some(cause) => format!("{cause} ({why})"),
                    None => why,
                }))
            }
            (result, _) => result,
        }
    }
}

fn trapped(error: &wasmtime::Error, time_max: Duration, with_frames: bool) -> CallError {
    match error.downcast_ref::<wasmtime::Trap>() {
        Some(wasmtime::Trap::Interrupt) => CallError::TimedOut(time_max),
        _ => match with_frames.then(|| frames(error)).flatten() {
            Some(frames) => CallError::Trapped(format!("{}; {frames}", one_line(error))),
            None => CallError::Trapped(one_line(error)),
        },
    }
}

/// The functions that were being called, innermost first; none where the code has no names.
fn frames(error: &wasmtime::Error) -> Option<String> {
    let backtrace = error.downcast_ref::<wasmtime::WasmBacktrace>()?;
    let name = |frame: &wasmtime::FrameInfo| {
        let symbol = frame.symbols().first();
        let name = symbol.and_then(wasmtime::FrameSymbol::name).or(frame.func_name())?;
        let name = rustc_demangle::demangle(name);
        Some(match symbol.and_then(|symbol| Some((symbol.file()?, symbol.line()?))) {
            Some((file, line)) => format!("{name:#} ({file}:{line})"),
            None => format!("{name:#}"),
        })
    };
    let is_of_a_panic = |name: &String| PANIC.iter().any(|of| name.starts_with(of));
    let names = backtrace.frames().iter().filter_map(name).skip_while(is_of_a_panic);
    let names: Vec<String> = names.take(FRAMES_MAX).collect();
    (!names.is_empty()).then(|| format!("called by {}", names.join(" < ")))
}

/// The error's causes without the backtrace of the wasm code.
fn one_line(error: &wasmtime::Error) -> String {
    let causes: Vec<String> = error
        .chain()
        .map(ToString::to_string)
        .filter(|cause| !cause.starts_with("error while executing at wasm backtrace"))
        .collect();
    causes.join(": ").replace('\n', " ")
}

/// Compiles a component and checks that its imports can be served and its exports fit its triggers.
async fn link(
    code: &Arc<Code>,
    pace: Pace,
    bytes: Bytes,
    worlds: &[Arc<dyn World>],
    name: &str,
) -> Result<InstancePre<State>> {
    let component =
        code.component(bytes, pace).await.with_context(|| format!("{name} is not a component that can run"))?;
    let mut linker = Linker::new(component.engine());
    Factors::link(&mut linker)?;
    // The error names the import.
    let pre = linker
        .instantiate_pre(&component)
        .map_err(|error| anyhow!("{error:#}"))
        .context("it imports what this host does not serve")?;
    for world in worlds {
        let (kind, name) = (world.trigger_type(), world.name());
        world.check(&pre).map_err(|error| {
            anyhow!("the {kind} trigger calls the world {name}, which it does not export: {error:#}")
        })?;
    }
    Ok(pre)
}

impl State {
    /// Whether memory was refused for what others hold.
    pub fn lacked_room(&self) -> bool {
        self.memory.exceeded.is_some()
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.factors.wasi.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        self.factors.http.view(&mut self.table)
    }
}

/// Gives a factor its own part.
macro_rules! holds {
    ($($field:ident: $part:ty),*) => {$(
        impl Holds<$part> for State {
            fn part(&mut self) -> (&mut $part, &mut ResourceTable) {
                (&mut self.factors.$field, &mut self.table)
            }
        }
    )*};
}

holds!(variables: Arc<Variables>, key_value: InstanceKeyValue, pg: InstancePg, kafka: InstanceKafka);

/// Refuses memory beyond the limit, so that the function sees a failed allocation.
struct MemoryLimit {
    bytes_max: usize,
    call: Arc<Account>,
    /// What was granted, for as long as the store lives.
    held: Option<Held>,
    /// Why memory below the instance's own limit was refused.
    exceeded: Option<String>,
    /// Memory beyond that limit was refused.
    is_full: bool,
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        if desired > self.bytes_max {
            self.is_full = true;
            return Ok(false);
        }
        let more = desired.saturating_sub(current) as u64;
        let granted = match &mut self.held {
            Some(held) => held.grow(more),
            None => self.call.hold(Resource::InstanceBytes, more).map(|held| self.held = Some(held)),
        };
        let Err(exceeded) = granted else { return Ok(true) };
        // Where it alone is more than there may ever be, to wait would not help: that is the function's own.
        let alone = self.held.as_ref().map_or(0, Held::amount).saturating_add(more);
        self.exceeded = (alone <= exceeded.limit).then(|| exceeded.to_string());
        Ok(false)
    }

    fn table_growing(&mut self, _: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(maximum.is_none_or(|maximum| desired <= maximum))
    }
}
