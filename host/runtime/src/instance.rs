//! A component, and the instance that each call gets: a fresh one, unless its trigger asked for [`reuse`].
//!
//! # Layout
//! - [`error`]: why a call has no answer, and why a component cannot be used.
//! - [`memory`]: how much memory an instance may have.
//! - [`reuse`]: instances that wait for their next call.
//! - [`trap`]: what a trap says of where it happened.

mod error;
mod memory;
pub mod reuse;
mod trap;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
use wasmtime::{Store, UpdateDeadline};
use wasmtime_wasi::{WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtxView, WasiHttpView};

pub use self::error::{CallError, Unusable};
use self::memory::MemoryLimit;
use self::reuse::{Kept, Reuse, Waiting};
use self::trap::{one_line, trapped};
use crate::budget::Account;
use crate::budget::plan::{CallMemory, call_limits};
use crate::engine::compiler::Pace;
use crate::engine::lanes::Lanes;
use crate::engine::{Code, Engine, Limits};
use crate::factors::key_value::InstanceKeyValue;
use crate::factors::outbound_kafka::InstanceKafka;
use crate::factors::outbound_pg::InstancePg;
use crate::factors::waits::Waits;
use crate::factors::{Call, ComponentFactors, Factors, Holds, InstanceFactors};
use crate::meter::{Meter, Used};

/// How much later than its own end a call that waits is given up.
const WAIT_GRACE: Duration = Duration::from_millis(500);
/// Things of the host's (streams, connections, timers …) that one instance may have open.
const TABLE_ENTRIES_MAX: usize = 4_096;
/// Bytes that a guest may hand over in one call of the host's.
const HOSTCALL_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What a store holds: one field a concern, one for the factors.
pub struct State {
    table: ResourceTable,
    factors: InstanceFactors,
    memory: MemoryLimit,
    waits: Waits,
    /// When the call that runs has to have ended.
    deadline: Instant,
}

/// The next version's number, over all components.
static VERSIONS: AtomicU64 = AtomicU64::new(0);

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
    /// Tells its instances from those of other versions.
    version: u64,
}

/// Code that is compiled and linked, by the digests of its sources: components of one source share it.
pub type Linked = BTreeMap<String, InstancePre<State>>;

/// What the triggers of a component call of it.
type Worlds = Arc<[Arc<dyn World>]>;

/// What all versions of a component share, whichever of them runs.
struct Shared {
    /// Leave to make an instance, for each kind of trigger: requests never take a partition's place.
    permits: BTreeMap<&'static str, Arc<Semaphore>>,
    /// Instances that wait for their next call, for each kind of trigger.
    waiting: BTreeMap<&'static str, Arc<Waiting>>,
    /// What the component makes the host hold, over all its calls.
    account: Arc<Account>,
    /// Whether its last call ran for long: then the next one is expected to.
    ran_long: AtomicBool,
    /// What its calls have used.
    meter: Arc<Meter>,
}

/// How many instances of a component there may be at a time, for each type of trigger that calls it, and
/// whose budget its calls are charged to.
pub struct Share {
    /// Each world with the most instances for its calls; a call beyond them waits for one to go.
    pub instances: Vec<(Arc<dyn World>, u32)>,
    /// The component's account, which each call gets one below.
    pub account: Arc<Account>,
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
        linked: &mut Linked,
    ) -> Result<Self> {
        let bytes = std::fs::read(&spec.source).with_context(|| {
            let build = spec.build.as_ref().map(|build| format!(": build it first ({})", build.commands.join(" && ")));
            format!("component {id}: cannot read {}{}", spec.source.display(), build.unwrap_or_default())
        })?;
        let bytes = Bytes::from(bytes);
        let worlds: Worlds = share.instances.iter().map(|(world, _)| Arc::clone(world)).collect();
        let config = Arc::new(factors.configure(id, spec, variables, &share.account)?);
        let digest = hex(&Sha256::digest(&bytes));
        let pre = match linked.get(&digest) {
            Some(pre) => pre.clone(),
            None => link(&engine.code, Pace::Full, bytes, &spec.source.display().to_string()).await?,
        };
        check(&pre, &worlds)?;
        linked.insert(digest.clone(), pre.clone());
        let permits = share.instances.iter();
        let permits = permits.map(|(world, most)| (world.trigger_type(), Arc::new(Semaphore::new(*most as usize))));
        let permits = permits.collect();
        let waiting = worlds.iter().map(|world| (world.trigger_type(), Arc::default())).collect();
        Ok(Self {
            id: id.to_owned(),
            digest,
            source: spec.source.clone(),
            worlds,
            limits: engine.limits,
            code: Arc::clone(&engine.code),
            lanes: Arc::clone(&engine.lanes),
            shared: Arc::new(Shared {
                permits,
                waiting,
                account: share.account,
                ran_long: AtomicBool::new(false),
                meter: Arc::default(),
            }),
            config,
            factors: Arc::clone(factors),
            pre,
            version: VERSIONS.fetch_add(1, Ordering::Relaxed),
        })
    }

    /// Other code in this component's place: the same triggers, settings, connections and limits. The work
    /// ends when this future is dropped.
    pub fn successor(&self, bytes: Bytes) -> BoxFuture<'_, Result<Self>> {
        Box::pin(async move {
            let pre = link(&self.code, Pace::Beside, bytes.clone(), "what was given").await?;
            check(&pre, &self.worlds)?;
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
                version: VERSIONS.fetch_add(1, Ordering::Relaxed),
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

    /// What the calls of all its versions have used.
    pub fn used(&self) -> Used {
        self.shared.meter.read()
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
        self.store_of(None)
    }

    /// A store for one call, or for further ones of the version that is `reused`.
    fn store_of(&self, reused: Option<u64>) -> Store<State> {
        let account = self.shared.account.below("the call", call_limits());
        let call = Call { account, waits: Waits::new(Arc::clone(&self.shared.meter)), reused };
        let mut table = ResourceTable::new();
        table.set_max_capacity(TABLE_ENTRIES_MAX);
        let state = State {
            table,
            factors: self.factors.prepare(&self.config, &call),
            memory: MemoryLimit::new(self.limits.memory_bytes_max, call.account),
            waits: call.waits,
            deadline: Instant::now() + self.limits.call_time_max,
        };
        self.shared.meter.instance();
        let mut store = Store::new(self.pre.engine(), state);
        store.limiter(|state| &mut state.memory);
        store.set_hostcall_fuel(HOSTCALL_BYTES_MAX);
        store.epoch_deadline_callback(|store| {
            // Yielding lets other calls run on this thread meanwhile.
            Ok(if Instant::now() < store.data().deadline {
                UpdateDeadline::Yield(1)
            } else {
                UpdateDeadline::Interrupt
            })
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
        // It takes the place of one that waits.
        drop(self.shared.waiting.get(kind).and_then(|waiting| waiting.take(None)));
        self.call_now(instantiate, call).await
    }

    /// The same with an instance that may have served before, and is kept for the next call where the answer is good.
    pub async fn call_again<B: Clone + Send + 'static, R: Send>(
        &self,
        kind: &str,
        reuse: Reuse,
        instantiate: impl AsyncFnOnce(&mut Store<State>) -> wasmtime::Result<B>,
        call: impl AsyncFnOnce(&Accessor<State>, B) -> wasmtime::Result<R>,
        is_good: impl FnOnce(&R) -> bool,
    ) -> Result<R, CallError> {
        let _permit = self.permit(kind).await;
        let waiting = self.shared.waiting.get(kind);
        let kept = waiting.and_then(|waiting| waiting.take(Some(self.version)));
        let mut kept = kept.unwrap_or_else(|| Kept {
            store: self.store_of(Some(self.version)),
            function: Box::new(()),
            version: self.version,
            calls: 0,
            until: Instant::now() + reuse.age_max,
        });
        kept.store.data_mut().begin_call(self.limits.call_time_max);
        kept.store.set_epoch_deadline(1);
        let known = kept.function.downcast_ref::<B>().cloned();
        let function = &mut kept.function;
        let bind = async |store: &mut Store<State>| {
            let bindings = match known {
                Some(bindings) => bindings,
                None => instantiate(store).await?,
            };
            *function = Box::new(bindings.clone());
            Ok(bindings)
        };
        let result = self.call_in(&mut kept.store, bind, call).await;
        kept.calls += 1;
        let is_small = kept.store.data().memory.bytes() <= reuse::BYTES_MAX;
        let is_kept = is_small && kept.calls < reuse.calls_max && result.as_ref().is_ok_and(is_good);
        if let Some(waiting) = waiting.filter(|_| is_kept) {
            waiting.put(kept);
        }
        result
    }

    /// In a fresh instance, without waiting for leave.
    async fn call_now<B, R: Send>(
        &self,
        instantiate: impl AsyncFnOnce(&mut Store<State>) -> wasmtime::Result<B>,
        call: impl AsyncFnOnce(&Accessor<State>, B) -> wasmtime::Result<R>,
    ) -> Result<R, CallError> {
        self.call_in(&mut self.store(), instantiate, call).await
    }

    /// In this store. After an error it is not to be used again.
    async fn call_in<B, R: Send>(
        &self,
        store: &mut Store<State>,
        instantiate: impl AsyncFnOnce(&mut Store<State>) -> wasmtime::Result<B>,
        call: impl AsyncFnOnce(&Accessor<State>, B) -> wasmtime::Result<R>,
    ) -> Result<R, CallError> {
        let (time_max, waits) = (self.limits.call_time_max, store.data().waits.clone());
        let run = async {
            let bindings = instantiate(store).await.map_err(|error| CallError::NoInstance(one_line(&error)))?;
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
            result = self.shared.meter.cpu(run) => result,
            what = give_up => Err(CallError::Stalled(time_max, what)),
        };
        if matches!(result, Err(CallError::TimedOut(_) | CallError::Stalled(..))) {
            self.shared.meter.timeout();
        }
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

/// Compiles a component and checks that its imports can be served.
async fn link(code: &Arc<Code>, pace: Pace, bytes: Bytes, name: &str) -> Result<InstancePre<State>> {
    let component =
        code.component(bytes, pace).await.with_context(|| format!("{name} is not a component that can run"))?;
    let mut linker = Linker::new(component.engine());
    Factors::link(&mut linker)?;
    // The error names the import.
    linker
        .instantiate_pre(&component)
        .map_err(|error| anyhow!("{error:#}"))
        .context("it imports what this host does not serve")
}

/// Checks that a component's exports fit its triggers.
fn check(pre: &InstancePre<State>, worlds: &[Arc<dyn World>]) -> Result<()> {
    worlds.iter().try_for_each(|world| {
        let (kind, name) = (world.trigger_type(), world.name());
        world
            .check(pre)
            .map_err(|error| anyhow!("the {kind} trigger calls the world {name}, which it does not export: {error:#}"))
    })
}

impl State {
    /// What is of one call only is as at its beginning.
    fn begin_call(&mut self, time_max: Duration) {
        self.deadline = Instant::now() + time_max;
        self.memory.renew();
        self.factors.wasi.renew();
    }

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
