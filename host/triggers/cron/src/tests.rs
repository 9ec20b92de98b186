//! The loop of a schedule, with a clock that the test turns.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, anyhow};
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use exagg_app::TriggerSpec;
use exagg_common::clock::Clock;
use exagg_runtime::instance::CallError;
use exagg_runtime::instance::reuse::Reuse;
use exagg_runtime::metrics::Metrics;
use exagg_runtime::slot::{Slot, Version};
use exagg_runtime::trigger::Context;
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::stage::{CronStage, Function, TickLease, UnixSeconds};
use crate::wake::Alarm;

/// Follows tokio's paused time, and can be set.
struct TurnedClock {
    started: Instant,
    set: Mutex<DateTime<Utc>>,
}

impl TurnedClock {
    fn turn(&self, by: TimeDelta) {
        *self.set.lock().unwrap() += by;
    }
}

impl Clock for TurnedClock {
    fn now(&self) -> DateTime<Utc> {
        *self.set.lock().unwrap() + self.started.elapsed()
    }
}

type Answer = fn(UnixSeconds) -> Result<Result<(), String>, CallError>;

/// Notes the ticks that it is given, and takes some time over each.
struct Scripted {
    digest: &'static str,
    takes: Duration,
    answer: Answer,
    ticks: Arc<Mutex<Vec<UnixSeconds>>>,
}

impl Version for Scripted {
    fn digest(&self) -> &str {
        self.digest
    }
}

impl Function for Scripted {
    async fn tick(
        self: Arc<Self>,
        _: &str,
        _: Option<Reuse>,
        time: UnixSeconds,
    ) -> Result<Result<(), String>, CallError> {
        self.ticks.lock().unwrap().push(time);
        tokio::time::sleep(self.takes).await;
        (self.answer)(time)
    }
}

struct Running {
    stage: Arc<CronStage<Scripted>>,
    slot: Arc<Slot<Scripted>>,
    context: Context,
    clock: Arc<TurnedClock>,
    ticks: Arc<Mutex<Vec<UnixSeconds>>>,
    stop: CancellationToken,
}

const FINE: Answer = |_| Ok(Ok(()));

/// A stage whose clock begins at the Unix epoch.
fn stage(schedule: &str, takes: Duration, answer: Answer) -> Running {
    let ticks = Arc::new(Mutex::new(Vec::new()));
    let first = Scripted { digest: "first", takes, answer, ticks: Arc::clone(&ticks) };
    let slot = Arc::new(Slot::new("c".to_owned(), first));
    let config = json!({ "cron_expression": schedule, "wake_on": "channel" }).as_object().unwrap().clone();
    let spec = TriggerSpec { id: "t".to_owned(), kind: "cron".to_owned(), component: "c".to_owned(), config };
    let clock = Arc::new(TurnedClock { started: Instant::now(), set: Mutex::new(DateTime::UNIX_EPOCH) });
    let context = Context {
        metrics: Arc::new(Metrics::new().unwrap()),
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
        drain_max: Duration::from_secs(30),
    };
    let stage = Arc::new(CronStage::new(&spec, Arc::clone(&slot)).unwrap());
    Running { stage, slot, context, clock, ticks, stop: CancellationToken::new() }
}

impl Running {
    fn start(&self, lease: Option<Arc<dyn TickLease>>) {
        self.start_with(lease, None);
    }

    fn start_with(&self, lease: Option<Arc<dyn TickLease>>, alarm: Option<Arc<dyn Alarm>>) {
        let (stage, context, stop) = (Arc::clone(&self.stage), self.context.clone(), self.stop.clone());
        tokio::spawn(async move { stage.run(&context, lease.as_deref(), alarm.as_deref(), stop).await.unwrap() });
    }

    fn ticks(&self) -> Vec<UnixSeconds> {
        self.ticks.lock().unwrap().clone()
    }
}

async fn after(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn each_scheduled_time_is_a_tick() {
    let stage = stage("*/10 * * * * *", Duration::from_secs(1), FINE);
    stage.start(None);
    after(35).await;
    assert_eq!(stage.ticks(), [10, 20, 30]);
    stage.stop.cancel();
    after(60).await;
    assert_eq!(stage.ticks().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn ticks_do_not_overlap_and_those_that_pass_are_counted() {
    let stage = stage("*/10 * * * * *", Duration::from_secs(25), FINE);
    stage.start(None);
    after(66).await;
    assert_eq!(stage.ticks(), [10, 40]);
    let counted = "exagg_cron_ticks_total{result=\"passed\",stage=\"t\"} 4";
    assert!(stage.context.metrics.text().contains(counted), "{}", stage.context.metrics.text());
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_runs_no_tick_twice() {
    let stage = stage("*/10 * * * * *", Duration::from_secs(5), FINE);
    stage.start(None);
    after(12).await;
    stage.clock.turn(TimeDelta::seconds(-8));
    after(20).await;
    assert_eq!(stage.ticks(), [10, 20]);
}

/// Rings at these milliseconds after the start.
struct Rings(&'static [u64]);

#[async_trait]
impl Alarm for Rings {
    async fn follow(&self, channel: &str, bell: &Notify) {
        assert_eq!(channel, "channel");
        let started = Instant::now();
        for at in self.0 {
            tokio::time::sleep_until(started + Duration::from_millis(*at)).await;
            bell.notify_one();
        }
        std::future::pending::<()>().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stage_that_is_woken_runs_at_once_and_keeps_its_schedule() {
    let stage = stage("*/10 * * * * *", Duration::from_millis(100), FINE);
    stage.start_with(None, Some(Arc::new(Rings(&[3_000, 14_500, 14_550]))));
    after(25).await;
    // Who is woken while it runs, runs again.
    assert_eq!(stage.ticks(), [3, 10, 14, 14, 20]);
}

#[tokio::test(start_paused = true)]
async fn who_is_woken_all_the_time_runs_ten_times_a_second() {
    const ALWAYS: [u64; 2_000] = {
        let mut all = [0; 2_000];
        let mut index = 0;
        while index < all.len() {
            all[index] = index as u64;
            index += 1;
        }
        all
    };
    let stage = stage("*/10 * * * * *", Duration::ZERO, FINE);
    stage.start_with(None, Some(Arc::new(Rings(&ALWAYS))));
    after(9).await;
    let ticks = stage.ticks().len();
    assert!((20..=26).contains(&ticks), "{ticks} in 2 seconds");
}

#[test]
fn a_channel_has_a_plain_name() {
    for channel in ["", "a b", "A", "x;DROP TABLE y", &"a".repeat(64)] {
        let config = json!({ "cron_expression": "* * * * * *", "wake_on": channel }).as_object().unwrap().clone();
        let spec = TriggerSpec { id: "t".to_owned(), kind: "cron".to_owned(), component: "c".to_owned(), config };
        let ticks = Arc::new(Mutex::new(Vec::new()));
        let slot = Slot::new("c".to_owned(), Scripted { digest: "d", takes: Duration::ZERO, answer: FINE, ticks });
        let error = CronStage::new(&spec, Arc::new(slot)).err().unwrap().to_string();
        assert!(error.contains("wake_on"), "{error}");
    }
}

struct Leases(fn(DateTime<Utc>) -> Result<bool>);

#[async_trait]
impl TickLease for Leases {
    async fn take(&self, stage: &str, time: DateTime<Utc>) -> Result<bool> {
        assert_eq!(stage, "t");
        (self.0)(time)
    }
}

#[tokio::test(start_paused = true)]
async fn a_tick_without_its_lease_does_not_run() {
    let stage = stage("*/10 * * * * *", Duration::ZERO, FINE);
    stage.start(Some(Arc::new(Leases(|time| match time.timestamp() {
        10 => Ok(true),
        20 => Ok(false),
        _ => Err(anyhow!("the database is away")),
    }))));
    after(45).await;
    assert_eq!(stage.ticks(), [10]);
    let failing = stage.stage.status().failing.unwrap();
    assert!(failing.contains("lease") && failing.contains("away"), "{failing}");
}

#[tokio::test(start_paused = true)]
async fn a_tick_that_fails_is_noted_until_one_succeeds() {
    let answer: Answer = |time| if time < 20 { Ok(Err("away".to_owned())) } else { Ok(Ok(())) };
    let stage = stage("*/10 * * * * *", Duration::ZERO, answer);
    stage.start(None);
    after(15).await;
    assert_eq!(stage.stage.status().failing.as_deref(), Some("away"));
    after(10).await;
    assert_eq!(stage.stage.status().failing, None);
}

#[tokio::test(start_paused = true)]
async fn a_version_that_fails_its_first_ticks_is_taken_back() {
    let stage = stage("*/10 * * * * *", Duration::ZERO, FINE);
    stage.start(None);
    let traps: Answer = |_| Err(CallError::Trapped("unreachable".to_owned()));
    let ticks = Arc::clone(&stage.ticks);
    stage.slot.swap(Arc::new(Scripted { digest: "second", takes: Duration::ZERO, answer: traps, ticks }));
    after(25).await;
    assert_eq!(stage.slot.status().digest, "second");
    after(10).await;
    let status = stage.slot.status();
    assert_eq!((status.digest.as_str(), status.rolled_back.is_some()), ("first", true));
}
