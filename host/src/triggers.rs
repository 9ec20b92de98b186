//! What starts calls: one module a trigger, and the supervisor that runs them all.

pub mod cron;
pub mod http;
pub mod kafka;

use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::cron::CronTrigger;
use self::http::HttpTrigger;
use self::kafka::config::{Start, Subscription};
use self::kafka::fetch::Share;
use self::kafka::partition::Follower;
use self::kafka::{KafkaTrigger, TopicDescription};
use crate::app::LoadedApp;
use crate::clock::SystemClock;
use crate::health::Health;
use crate::kafka::Properties;
use crate::lease::Leases;
use crate::memory;
use crate::telemetry::Metrics;

/// What every trigger may use.
#[derive(Clone)]
pub struct Context {
    pub kafka: Properties,
    pub metrics: Arc<Metrics>,
    pub health: Arc<Health>,
    pub clock: SystemClock,
    /// What every topic is described as, where the broker cannot say it: the embedded one.
    pub topics_are: Option<TopicDescription>,
}

/// All stages of the app, checked and not running yet.
pub struct Triggers {
    pub kafka: Vec<Arc<KafkaTrigger>>,
    pub cron: Vec<Arc<CronTrigger>>,
    pub http: Arc<HttpTrigger>,
}

impl Triggers {
    /// Checks every trigger's settings. `from_earliest` overrides `start`: the embedded broker is
    /// never older than its readers.
    pub fn new(app: &LoadedApp, context: &Context, from_earliest: bool) -> Result<Self> {
        let mut triggers = Self { kafka: Vec::new(), cron: Vec::new(), http: Arc::new(HttpTrigger::default()) };
        let mut http = HttpTrigger::default();
        for trigger in &app.triggers {
            let component = app
                .components
                .get(&trigger.component)
                .ok_or_else(|| anyhow!("trigger {}: no component {}", trigger.id, trigger.component))?;
            let component = Arc::clone(component);
            match trigger.kind.as_str() {
                "kafka" => {
                    let mut subscription = Subscription::new(trigger)?;
                    if from_earliest {
                        subscription.start = Start::Earliest;
                    }
                    triggers.kafka.push(Arc::new(KafkaTrigger::new(subscription, component, context)));
                }
                "cron" => triggers.cron.push(Arc::new(CronTrigger::new(trigger, component)?)),
                _ => http.add(trigger, component)?,
            }
        }
        triggers.http = Arc::new(http);
        Ok(triggers)
    }

    /// Runs all stages until `stop_cron` and `stop` say otherwise, each behind the other: a
    /// drain first ends the sources, then the readers.
    pub async fn run(
        &self,
        context: &Context,
        follower: Option<Arc<dyn Follower>>,
        leases: Option<Arc<Leases>>,
        stop_cron: CancellationToken,
        stop: CancellationToken,
    ) -> Result<()> {
        let mut stages = JoinSet::new();
        let share = Share::new(memory::budget(), self.kafka.len());
        for trigger in &self.kafka {
            let (trigger, context, follower, stop) =
                (Arc::clone(trigger), context.clone(), follower.clone(), stop.clone());
            stages.spawn(async move {
                let id = trigger.subscription().trigger_id.clone();
                trigger.run(&context, share, follower, stop).await.with_context(|| format!("stage {id}"))
            });
        }
        for trigger in &self.cron {
            let (trigger, context, leases, stop) =
                (Arc::clone(trigger), context.clone(), leases.clone(), stop_cron.clone());
            stages.spawn(async move { trigger.run(&context, leases, stop).await });
        }
        let mut result = Ok(());
        while let Some(ended) = stages.join_next().await {
            let ended = ended.map_err(|error| anyhow!("a stage panicked: {error}")).and_then(|ended| ended);
            if let Err(error) = ended {
                // One stage that cannot run ends the app: half a pipeline looks like a whole one.
                stop_cron.cancel();
                stop.cancel();
                result = result.and(Err(error));
            }
        }
        result
    }
}
