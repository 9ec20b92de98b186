//! The app, compiled: every component checked and linked to what it imports.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use exagg_app::{Resolved, TriggerSpec};
use futures::future::BoxFuture;

use crate::budget::Account;
use crate::budget::plan::{ComponentLimits, Demand, Plan};
use crate::engine::{Engine, Settings};
use crate::factors::Factors;
use crate::instance::{Component, Linked, Share, Unusable, World};
use crate::slot::Slot;

/// How long the start waits for components to start.
const TRY_OUT: Duration = Duration::from_secs(5);

/// The app, ready to run: every component compiled and checked.
pub struct LoadedApp {
    /// The application's name, as its manifest has it.
    pub name: String,
    /// The triggers in the order of the manifest, the templates in their settings expanded.
    pub triggers: Vec<TriggerSpec>,
    /// The slots by the ids of their components; a swap changes what is in one, never the map.
    pub components: BTreeMap<String, Arc<Slot>>,
    /// What all of them together make the host hold.
    pub account: Arc<Account>,
}

impl LoadedApp {
    /// Resolves and checks everything; nothing runs before that.
    pub fn load<'a>(
        resolved: &'a Resolved,
        engine: &'a Engine,
        limits: ComponentLimits,
        factors: &'a Arc<Factors>,
        worlds: &'a [Arc<dyn World>],
    ) -> BoxFuture<'a, Result<Self>> {
        Box::pin(async move {
            let Resolved { app, variables } = resolved;
            let demand = |(kind, components): (String, u32)| {
                let memory = world(worlds, &kind)?.memory();
                Ok((kind, Demand { components, memory }))
            };
            let demands = app.components_by_kind().into_iter().map(demand).collect::<Result<_>>()?;
            let plan = Plan::new(engine.budget_bytes, engine.limits.instances_max, limits, &demands);
            let (mut components, mut linked) = (BTreeMap::new(), Linked::new());
            for (id, spec) in &app.components {
                let kinds: Vec<_> = app.kinds(id).into_iter().collect();
                let share = Share {
                    instances: kinds
                        .iter()
                        .map(|kind| Ok((world(worlds, kind)?, plan.instances(kind))))
                        .collect::<Result<_>>()?,
                    account: plan.component(id, &kinds),
                };
                let component = Component::load(id, spec, share, variables, engine, factors, &mut linked)
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
        })
    }
}

/// An app that is compiled, with the engine that runs it.
pub struct Compiled {
    /// The app that the engine below compiled.
    pub app: Arc<LoadedApp>,
    /// Ends the epoch's thread, and those for guests, when it goes.
    pub engine: Engine,
    /// The factors that every component is configured by; the host flushes the Kafka producers through them.
    pub factors: Arc<Factors>,
}

impl Compiled {
    /// Compiles and checks everything; nothing runs before that.
    pub fn new<'a>(
        resolved: &'a Resolved,
        settings: &'a Settings,
        limits: ComponentLimits,
        factors: Arc<Factors>,
        worlds: &'a [Arc<dyn World>],
    ) -> BoxFuture<'a, Result<Self>> {
        Box::pin(async move {
            let components = resolved.app.components_by_kind().values().sum();
            let trigger_types = u32::try_from(worlds.len()).unwrap_or(u32::MAX);
            let engine = Engine::new(&Settings { trigger_types, components, ..settings.clone() })?;
            let app = Arc::new(LoadedApp::load(resolved, &engine, limits, &factors, worlds).await?);
            Ok(Self { app, engine, factors })
        })
    }

    /// Makes an instance of each component, and lets it check its settings. Settings that are refused refuse the app;
    /// an instance that cannot be made harms its own stages only, unless there is no other; one that takes long is not
    /// waited for.
    pub fn try_out(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let components: Vec<_> =
                self.app.components.iter().map(|(id, slot)| (id.clone(), slot.current())).collect();
            let all = components.len();
            let mut trying = tokio::spawn(async move {
                let mut errors = Vec::new();
                // One at a time: memory that each may take at its start need not be there for all at once.
                for (id, component) in components {
                    match component.try_out().await {
                        Ok(()) => {}
                        Err(Unusable::Refused(reason)) => {
                            bail!("component {id}: its settings are refused: {reason}")
                        }
                        Err(Unusable::DoesNotStart(error)) => {
                            let error = anyhow!("component {id} does not start: {error}");
                            tracing::error!("{error}: its stages cannot run");
                            errors.push(error);
                        }
                    }
                }
                Ok(errors)
            });
            let wait_max = if all > 1 { TRY_OUT } else { Duration::MAX };
            let Ok(tried) = tokio::time::timeout(wait_max, &mut trying).await else {
                // Too late to refuse the app: it is said.
                tokio::spawn(async move {
                    if let Ok(Err(error)) = trying.await {
                        tracing::error!("{error:#}: its stages cannot work");
                    }
                });
                return Ok(());
            };
            let mut errors = tried.context("the components cannot be tried out")??;
            match errors.pop() {
                Some(error) if errors.len() + 1 == all => Err(error),
                _ => Ok(()),
            }
        })
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
