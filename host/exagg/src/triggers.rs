//! The types of triggers that this host has: the one list of them.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use exagg_app::App;
use exagg_runtime::app::{LoadedApp, world};
use exagg_runtime::instance::World;
use exagg_runtime::trigger::{Context, StageStatus, Stop, Trigger, join_all};
use exagg_trigger_cron::stage::TickLease;
use exagg_trigger_cron::wake::Alarm;
use exagg_trigger_cron::{CronTrigger, CronWorld};
use exagg_trigger_http::{HttpTrigger, HttpWorld};
use exagg_trigger_kafka::{KafkaTrigger, KafkaWorld, Settings as KafkaSettings};
use tokio::task::JoinSet;

/// What each type of trigger calls.
pub fn worlds() -> Vec<Arc<dyn World>> {
    vec![Arc::new(KafkaWorld), Arc::new(CronWorld), Arc::new(HttpWorld)]
}

/// Refuses an app that has a trigger of another type.
pub fn check_types(app: &App) -> Result<()> {
    let worlds = worlds();
    app.triggers.iter().try_for_each(|trigger| world(&worlds, &trigger.kind).map(drop))
}

/// What the triggers are set to.
#[derive(Default)]
pub struct Settings {
    pub kafka: KafkaSettings,
    /// Of several replicas, who runs a cron tick; without it each does.
    pub lease: Option<Arc<dyn TickLease>>,
    /// What wakes cron stages beside their schedules; without a database nothing does.
    pub alarm: Option<Arc<dyn Alarm>>,
}

/// All stages of the app, checked.
pub struct Triggers {
    /// Its requests come through the app's listener.
    pub http: HttpTrigger,
    /// Those that call functions by themselves.
    background: Vec<Box<dyn Trigger>>,
}

impl Triggers {
    /// Triggers without stages yet.
    pub fn new(context: &Context, settings: Settings) -> Self {
        let Settings { kafka, lease, alarm } = settings;
        Self {
            http: HttpTrigger::new(context.clone()),
            background: vec![
                Box::new(KafkaTrigger::new(kafka, context.clone())),
                Box::new(CronTrigger::new(context.clone(), lease, alarm)),
            ],
        }
    }

    /// Adds the app's stages; their settings are checked.
    pub fn add(&mut self, app: &LoadedApp) -> Result<()> {
        for spec in &app.triggers {
            let slot = app.components.get(&spec.component);
            let slot = slot.with_context(|| format!("trigger {}: no component {}", spec.id, spec.component))?;
            let all = std::iter::once(&mut self.http as &mut dyn Trigger);
            let mut all = all.chain(self.background.iter_mut().map(|trigger| &mut **trigger as &mut dyn Trigger));
            let trigger = all.find(|trigger| trigger.world().trigger_type() == spec.kind);
            let trigger = trigger.with_context(|| format!("trigger {}: no type {}", spec.id, spec.kind))?;
            trigger.add(spec, Arc::clone(slot))?;
        }
        Ok(())
    }

    fn all(&self) -> impl Iterator<Item = &dyn Trigger> {
        std::iter::once(&self.http as &dyn Trigger).chain(self.background.iter().map(|trigger| &**trigger))
    }

    /// Runs all stages until told to stop.
    pub async fn run(self: Arc<Self>, stop: Stop) -> Result<()> {
        let mut running = JoinSet::new();
        for index in 0..self.background.len() {
            let (triggers, told) = (Arc::clone(&self), stop.clone());
            if !triggers.background[index].is_empty() {
                running.spawn(async move { triggers.background[index].run(told).await });
            }
        }
        // The http routes alone keep the host up.
        if running.is_empty() {
            stop.readers.cancelled().await;
        }
        join_all(running, &stop).await
    }

    /// Whether the app has routes.
    pub fn serve_requests(&self) -> bool {
        !self.http.is_empty()
    }

    /// All stages that have something to say of themselves.
    pub fn status(&self) -> Vec<StageStatus> {
        self.all().flat_map(Trigger::status).collect()
    }
}

#[cfg(test)]
mod tests {
    use exagg_common::clock::SystemClock;
    use exagg_runtime::metrics::Metrics;

    use super::*;

    #[test]
    fn every_type_has_a_world_and_a_trigger() {
        let context = Context {
            metrics: Arc::new(Metrics::new().unwrap()),
            clock: Arc::new(SystemClock),
            drain_max: std::time::Duration::from_secs(30),
        };
        let triggers = Triggers::new(&context, Settings::default());
        let sorted = |mut types: Vec<&'static str>| {
            types.sort_unstable();
            types
        };
        let types = sorted(triggers.all().map(|trigger| trigger.world().trigger_type()).collect());
        assert_eq!(types, sorted(worlds().iter().map(|world| world.trigger_type()).collect()));
    }

    #[test]
    fn the_parts_of_all_types_leave_memory_for_the_host() {
        let parts: u64 = worlds().iter().map(|world| world.memory().eighths).sum();
        assert!(parts <= 5, "{parts} eighths go to instances: one is for what calls hold, two for the host's own");
    }

    #[test]
    fn a_trigger_of_another_type_is_refused_by_name() {
        let manifest = |kind: &str| {
            format!(
                "spin_manifest_version = 2\n[application]\nname = \"x\"\n\
                 [[trigger.{kind}]]\ncomponent = \"c\"\n[component.c]\nsource = \"c.wasm\""
            )
        };
        let check = |kind| {
            let app = exagg_app::manifest::parse(&manifest(kind), std::path::Path::new("")).unwrap();
            check_types(&app).map_err(|error| error.to_string())
        };
        assert_eq!(check("cron"), Ok(()));
        let error = check("carrier-pigeon").unwrap_err();
        assert!(error.contains("[[trigger.carrier-pigeon]]") && error.contains("kafka, cron, http"), "{error}");
    }
}
