//! The app, compiled: every component checked and linked to what it imports.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use exagg_app::{Resolved, TriggerSpec};

use crate::budget::Account;
use crate::budget::plan::{ComponentLimits, Plan};
use crate::engine::{Engine, Settings};
use crate::factors::Factors;
use crate::instance::{Component, Share};
use crate::slot::Slot;
use crate::trigger::World;

/// How long the start waits for components to start.
const TRY_OUT: Duration = Duration::from_secs(5);

/// The app, ready to run: every component compiled and checked.
pub struct LoadedApp {
    pub name: String,
    pub triggers: Vec<TriggerSpec>,
    pub components: BTreeMap<String, Arc<Slot>>,
    /// What all of them together make the host hold.
    pub account: Arc<Account>,
}

impl LoadedApp {
    /// Resolves and checks everything; nothing runs before that.
    pub async fn load(
        resolved: &Resolved,
        engine: &Engine,
        limits: ComponentLimits,
        factors: &Arc<Factors>,
        worlds: &[Arc<dyn World>],
    ) -> Result<Self> {
        let Resolved { app, variables } = resolved;
        let plan = Plan::new(engine.budget_bytes, engine.limits.instances_max, limits, &app.components_by_kind());
        let mut components = BTreeMap::new();
        for (id, spec) in &app.components {
            let kinds: Vec<_> = app.kinds(id).into_iter().collect();
            let share = Share {
                instances: kinds
                    .iter()
                    .map(|kind| Ok((world(worlds, kind)?, plan.instances(kind))))
                    .collect::<Result<_>>()?,
                account: plan.component(id, &kinds),
            };
            let component = Component::load(id, spec, share, variables, engine, factors)
                .await
                .with_context(|| format!("component {id}"))?;
            components.insert(id.clone(), Arc::new(Slot::new(id.clone(), component)));
        }
        Ok(Self {
            name: app.name.clone(),
            triggers: app.triggers.clone(),
            components,
            account: Arc::clone(plan.host()),
        })
    }
}

/// An app that is compiled, with the engine that runs it.
pub struct Compiled {
    pub app: Arc<LoadedApp>,
    /// Ends the epoch's thread, and those for guests, when it goes.
    pub engine: Engine,
    pub factors: Arc<Factors>,
}

impl Compiled {
    /// Compiles and checks everything; nothing runs before that.
    pub async fn new(
        resolved: &Resolved,
        settings: &Settings,
        limits: ComponentLimits,
        factors: Arc<Factors>,
        worlds: &[Arc<dyn World>],
    ) -> Result<Self> {
        let components = resolved.app.components_by_kind().values().sum();
        let trigger_types = u32::try_from(worlds.len()).unwrap_or(u32::MAX);
        let engine = Engine::new(&Settings { trigger_types, components, ..settings.clone() })?;
        let app = Arc::new(LoadedApp::load(resolved, &engine, limits, &factors, worlds).await?);
        Ok(Self { app, engine, factors })
    }

    /// Makes an instance of each component. One that cannot be made harms its own stages only, unless there is no
    /// other; one that takes long is not waited for.
    pub async fn try_out(&self) -> Result<()> {
        let components: Vec<_> = self.app.components.iter().map(|(id, slot)| (id.clone(), slot.current())).collect();
        let all = components.len();
        let mut trying = tokio::spawn(async move {
            let mut errors = Vec::new();
            // One at a time: memory that each may take at its start need not be there for all at once.
            for (id, component) in components {
                let tried = component.try_out().await.with_context(|| format!("component {id} does not start"));
                errors.extend(tried.inspect_err(|error| tracing::error!("{error:#}: its stages cannot run")).err());
            }
            errors
        });
        let wait_max = if all > 1 { TRY_OUT } else { Duration::MAX };
        let Ok(tried) = tokio::time::timeout(wait_max, &mut trying).await else { return Ok(()) };
        let mut errors = tried.context("the components cannot be tried out")?;
        match errors.pop() {
            Some(error) if errors.len() + 1 == all => Err(error),
            _ => Ok(()),
        }
    }
}

/// What triggers of this type call. A type that this host does not have is refused.
pub fn world(worlds: &[Arc<dyn World>], kind: &str) -> Result<Arc<dyn World>> {
    let found = worlds.iter().find(|world| world.trigger_type() == kind);
    found.cloned().with_context(|| {
        let types: Vec<_> = worlds.iter().map(|world| world.trigger_type()).collect();
        format!("[[trigger.{kind}]]: this host has no such trigger; it has {}", types.join(", "))
    })
}
