//! A component, and the fresh instance that each call gets.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::component::{Accessor, InstancePre, Linker, ResourceTable};
use wasmtime::{ResourceLimiter, Store, UpdateDeadline};

use crate::app::ComponentSpec;
use crate::bindings::{cron, kafka};
use crate::budget::{self, Account};
use crate::engine::{Engine, Limits};
use crate::factors::{ComponentFactors, Factors, InstanceFactors};
use crate::template::Variables;

/// How much later than its own end a call that waits is given up.
const WAIT_GRACE: Duration = Duration::from_millis(500);

/// What a store holds: one field a concern, one for the factors.
pub struct State {
    pub table: ResourceTable,
    pub factors: InstanceFactors,
    memory: MemoryLimit,
}

/// A component, compiled, checked, and linked to the factors.
pub struct Component {
    pub id: String,
    /// SHA-256 of the file, in hex.
    pub digest: String,
    pub source: PathBuf,
    /// Kinds of the triggers that call it.
    kinds: Vec<String>,
    limits: Limits,
    permits: Arc<Semaphore>,
    /// What the component makes the host hold, over all its calls.
    account: Arc<Account>,
    factors: Arc<Factors>,
    config: Arc<ComponentFactors>,
    pre: InstancePre<State>,
}

/// Why a call has no answer of the function's.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("the function ran longer than {0:?}")]
    TimedOut(Duration),
    /// Its time went by waiting for something outside, a database mostly.
    #[error("the function waited longer than {0:?}")]
    Stalled(Duration),
    #[error("the function trapped: {0}")]
    Trapped(String),
    /// The host could not make an instance: its pool is full, or the component cannot start.
    #[error("no instance could be made: {0}")]
    NoInstance(String),
}

impl Component {
    /// Compiles the file and checks that its imports can be served and its exports fit the
    /// triggers (`kinds`) that call it.
    pub fn load(
        id: &str,
        spec: &ComponentSpec,
        kinds: &[&str],
        variables: &Variables,
        engine: &Engine,
        factors: &Arc<Factors>,
    ) -> Result<Self> {
        let bytes = std::fs::read(&spec.source).with_context(|| {
            format!("cannot read {}: build the functions first (make functions)", spec.source.display())
        })?;
        let kinds: Vec<String> = kinds.iter().map(|kind| (*kind).to_owned()).collect();
        let pre = link(&engine.wasmtime, &bytes, &kinds, &spec.source.display().to_string())?;
        let account = Account::root(&format!("component {id}"), budget::Limits::NONE);
        Ok(Self {
            id: id.to_owned(),
            digest: hex(&Sha256::digest(&bytes)),
            source: spec.source.clone(),
            kinds,
            limits: engine.limits,
            permits: Arc::clone(&engine.permits),
            config: Arc::new(factors.configure(id, spec, variables, &account)?),
            account,
            factors: Arc::clone(factors),
            pre,
        })
    }

    /// Other code in this component's place: the same triggers, settings, connections and limits.
    pub fn successor(&self, bytes: &[u8]) -> Result<Self> {
        Ok(Self {
            id: self.id.clone(),
            digest: hex(&Sha256::digest(bytes)),
            source: self.source.clone(),
            kinds: self.kinds.clone(),
            limits: self.limits,
            permits: Arc::clone(&self.permits),
            config: Arc::clone(&self.config),
            account: Arc::clone(&self.account),
            factors: Arc::clone(&self.factors),
            pre: link(self.pre.engine(), bytes, &self.kinds, "what was given")?,
        })
    }

    /// Makes an instance for each trigger and drops it: code that traps at its start shows here, and
    /// exports of the right names with the wrong types.
    pub async fn try_out(&self) -> Result<(), CallError> {
        for kind in &self.kinds {
            let pre = self.pre.clone();
            self.call(async |store| instantiate(kind, pre, store).await, async |_, ()| Ok(())).await?;
        }
        Ok(())
    }

    pub fn pre(&self) -> &InstancePre<State> {
        &self.pre
    }

    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Leave to make an instance. Waits while all are in use.
    pub async fn permit(&self) -> OwnedSemaphorePermit {
        #[expect(clippy::expect_used, reason = "the semaphore is never closed")]
        Arc::clone(&self.permits).acquire_owned().await.expect("the semaphore is never closed")
    }

    /// A store for one call.
    pub fn store(&self) -> Store<State> {
        let call = self.account.below("the call", budget::Limits::NONE);
        let state = State {
            table: ResourceTable::new(),
            factors: self.factors.prepare(&self.config, &call),
            memory: MemoryLimit { bytes_max: self.limits.memory_bytes_max },
        };
        let mut store = Store::new(self.pre.engine(), state);
        store.limiter(|state| &mut state.memory);
        let deadline = Instant::now() + self.limits.call_time_max;
        store.epoch_deadline_callback(move |_| {
            // Yielding lets other calls run on this thread meanwhile.
            Ok(if Instant::now() < deadline { UpdateDeadline::Yield(1) } else { UpdateDeadline::Interrupt })
        });
        store.set_epoch_deadline(1);
        store
    }

    /// Makes an instance, calls it once and drops it.
    pub async fn call<B, R: Send>(
        &self,
        instantiate: impl AsyncFnOnce(&mut Store<State>) -> wasmtime::Result<B>,
        call: impl AsyncFnOnce(&Accessor<State>, B) -> wasmtime::Result<R>,
    ) -> Result<R, CallError> {
        let _permit = self.permit().await;
        let mut store = self.store();
        let time_max = self.limits.call_time_max;
        let run = async {
            let bindings = instantiate(&mut store).await.map_err(|error| CallError::NoInstance(one_line(&error)))?;
            store
                .run_concurrent(async move |accessor| call(accessor, bindings).await)
                .await
                .and_then(|result| result)
                .map_err(|error| trapped(&error, time_max))
        };
        // A function that runs is ended by the epoch first: what is left waits.
        tokio::time::timeout(time_max + WAIT_GRACE, run).await.unwrap_or(Err(CallError::Stalled(time_max)))
    }
}

fn trapped(error: &wasmtime::Error, time_max: Duration) -> CallError {
    match error.downcast_ref::<wasmtime::Trap>() {
        Some(wasmtime::Trap::Interrupt) => CallError::TimedOut(time_max),
        _ => CallError::Trapped(one_line(error)),
    }
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
fn link(engine: &wasmtime::Engine, bytes: &[u8], kinds: &[String], name: &str) -> Result<InstancePre<State>> {
    let component = compile(engine, bytes).with_context(|| format!("{name} is not a component"))?;
    let mut linker = Linker::new(engine);
    Factors::init(&mut linker)?;
    // The error names the import.
    let pre = linker
        .instantiate_pre(&component)
        .map_err(|error| anyhow!("{error:#}"))
        .context("it imports what this host does not serve")?;
    for kind in kinds {
        check_export(kind, &pre)?;
    }
    Ok(pre)
}

fn compile(engine: &wasmtime::Engine, bytes: &[u8]) -> Result<wasmtime::component::Component> {
    ensure!(bytes.starts_with(b"\0asm"), "it is not a WebAssembly file");
    wasmtime::component::Component::new(engine, bytes).map_err(|error| anyhow!("{error:#}"))
}

fn check_export(kind: &str, pre: &InstancePre<State>) -> Result<()> {
    let pre = pre.clone();
    let (world, checked) = match kind {
        "kafka" => ("exagg:kafka/kafka-function", kafka::KafkaFunctionPre::new(pre).map(|_| ())),
        "cron" => ("spin:cron/spin-cron", cron::SpinCronPre::new(pre).map(|_| ())),
        _ => ("wasi:http", crate::triggers::http::proxy(pre).map(|_| ())),
    };
    checked.map_err(|error| anyhow!("the {kind} trigger calls the world {world}, which it does not export: {error:#}"))
}

async fn instantiate(kind: &str, pre: InstancePre<State>, store: &mut Store<State>) -> wasmtime::Result<()> {
    match kind {
        "kafka" => crate::triggers::kafka::instantiate(&pre, store).await.map(|_| ()),
        "cron" => cron::SpinCronPre::new(pre)?.instantiate_async(store).await.map(|_| ()),
        _ => crate::triggers::http::proxy(pre)?.instantiate_async(store).await.map(|_| ()),
    }
}

/// Refuses memory beyond the limit, so that the function sees a failed allocation.
struct MemoryLimit {
    bytes_max: usize,
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= self.bytes_max)
    }

    fn table_growing(&mut self, _: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(maximum.is_none_or(|maximum| desired <= maximum))
    }
}

/// Bytes in hex.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
