//! What a stage says of itself while nothing is applied.

use std::sync::Arc;
use std::time::Duration;

use exagg_runtime::instance::CallError;

use super::fake::{Answer, FakeCluster, partition};
use super::{EARLIEST, Running, applied, run, scripted, seconds};
use crate::bindings::exagg::kafka::types::Outcome;
use crate::log::{Event, RebalanceError};
use crate::status::PartitionStatus;

fn later() -> Answer {
    Box::new(|batch| {
        Ok(if batch.offsets.is_empty() { Outcome::Applied } else { Outcome::RetryLater("the database is away".into()) })
    })
}

fn stopping() -> Answer {
    Box::new(|batch| {
        Ok(if batch.offsets.is_empty() { Outcome::Applied } else { Outcome::Stop("another layout".into()) })
    })
}

fn status(stage: &Running, number: i32) -> PartitionStatus {
    stage.state.all().into_iter().find(|known| known.partition.0 == number).unwrap()
}

/// Take out: the watch for partitions that do not go on.
#[tokio::test(start_paused = true)]
async fn the_lag_of_a_partition_that_waits_grows_with_the_log() {
    let stage = run(FakeCluster::new(&[5]), EARLIEST, Duration::ZERO, later()).await;
    stage.cluster.assign(&[0]);
    seconds(1.0).await;
    stage.cluster.append(0, 1_000);
    seconds(6.0).await;
    let known = status(&stage, 0);
    assert_eq!((known.next_offset.map(|offset| offset.0), known.end_offset.0), (Some(0), 1_005));
    // The fake log's first record is of 1970.
    assert!(known.lag_seconds > 1e9, "{}", known.lag_seconds);
    let text = stage.metrics.text();
    assert!(text.contains("exagg_kafka_lag_records{partition=\"0\",stage=\"s\",topic=\"t\"} 1005"), "{text}");
    assert!(text.contains("exagg_kafka_lag_seconds{partition=\"0\",stage=\"s\",topic=\"t\"} 1"), "{text}");
    assert!(text.contains("exagg_kafka_partitions{stage=\"s\",state=\"waiting\"} 1"), "{text}");
    stage.end().await;
}

/// Take out: the stopped ones in `StageState::not_ready`.
#[tokio::test(start_paused = true)]
async fn a_stopped_partition_keeps_the_stage_from_being_ready_and_its_lag_grows() {
    let stage = run(FakeCluster::new(&[5, 0]), EARLIEST, Duration::ZERO, stopping()).await;
    stage.cluster.assign(&[0, 1]);
    seconds(1.0).await;
    stage.cluster.append(0, 20);
    seconds(6.0).await;
    assert_eq!(status(&stage, 0).end_offset.0, 25);
    let reason = stage.state.not_ready().unwrap();
    assert!(reason.contains("topic t partition 0 is stopped: another layout"), "{reason}");
    let text = stage.metrics.text();
    for (state, count) in [("stopped", 1), ("reading", 1), ("waiting", 0)] {
        let line = format!("exagg_kafka_partitions{{stage=\"s\",state=\"{state}\"}} {count}");
        assert!(text.contains(&line), "{line}: {text}");
    }
    drop(stage.cluster.revoke(0));
    seconds(3.0).await;
    let text = stage.metrics.text();
    assert!(
        text.contains("state=\"stopped\"} 0") && !text.contains("exagg_kafka_lag_records{partition=\"0\""),
        "{text}"
    );
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_applied_is_not_behind() {
    let stage = run(FakeCluster::new(&[5]), EARLIEST, Duration::ZERO, applied()).await;
    stage.cluster.assign(&[0]);
    seconds(5.0).await;
    let known = status(&stage, 0);
    assert_eq!((known.next_offset.map(|offset| offset.0), known.end_offset.0), (Some(5), 5));
    assert!(known.lag_seconds.abs() < f64::EPSILON);
    assert_eq!(stage.state.not_ready(), None);
    stage.end().await;
}

/// Until the group's offset is known there is no lag to tell: the start of the log would be a wrong one.
#[tokio::test(start_paused = true)]
async fn a_position_that_is_not_known_yet_has_no_lag() {
    let cluster = FakeCluster::new(&[1_000]);
    cluster.with(|state| state.unanswered = 4);
    let stage = run(cluster, EARLIEST, Duration::ZERO, applied()).await;
    stage.cluster.assign(&[0]);
    seconds(0.15).await;
    assert_eq!(status(&stage, 0).next_offset, None);
    assert!(!stage.metrics.text().contains("exagg_kafka_lag_records{"), "{}", stage.metrics.text());
    stage.end().await;
}

/// A function that traps on everything waits, and says so, with the lag.
#[tokio::test(start_paused = true)]
async fn a_function_that_never_answers_well_is_behind() {
    let traps: Answer = Box::new(|_| Err(CallError::Trapped("unreachable".to_owned())));
    let stage = run(FakeCluster::new(&[5]), EARLIEST, Duration::ZERO, traps).await;
    stage.cluster.assign(&[0]);
    seconds(6.0).await;
    assert!(stage.state.not_ready().is_some());
    assert_eq!(status(&stage, 0).end_offset.0, 5, "it was never validated, and is behind all the same");
    stage.end().await;
}

/// One that is assigned and cannot be read is none of the others' business.
#[tokio::test(start_paused = true)]
async fn a_partition_without_a_queue_is_named() {
    let stage = run(FakeCluster::new(&[5]), EARLIEST, Duration::ZERO, applied()).await;
    stage.cluster.assign(&[0]);
    stage.cluster.tell(Event::RebalanceFailed(RebalanceError::WithoutQueue(vec![partition(7)])));
    seconds(3.0).await;
    assert!(stage.state.not_ready().is_some_and(|reason| reason.contains('7')));
    assert_eq!(stage.batches(), [("first", 0, 5)]);
    stage.end().await;
}

/// A broker that is frozen, or a line that is held: the question is still open. Take out: `ANSWER_EXPECTED`.
#[tokio::test(start_paused = true)]
async fn a_cluster_that_takes_long_to_answer_is_waited_for_and_the_stage_says_so() {
    let stage = run(FakeCluster::new(&[5]), EARLIEST, Duration::ZERO, applied()).await;
    stage.cluster.assign(&[0]);
    seconds(1.0).await;
    assert_eq!(stage.state.not_ready(), None);
    stage.cluster.with(|state| state.takes = Duration::from_secs(8));
    // The next heartbeat asks.
    seconds(4.5).await;
    let reason = stage.state.not_ready().unwrap();
    assert!(reason.contains("no answer yet"), "{reason}");
    stage.cluster.with(|state| state.takes = Duration::ZERO);
    seconds(9.0).await;
    assert_eq!(stage.state.not_ready(), None);
    stage.end().await;
}

/// Take out: `joining` in `StageState::not_ready`.
#[tokio::test(start_paused = true)]
async fn a_stage_that_is_no_member_of_its_group_is_not_ready() {
    let stage = run(FakeCluster::new(&[5]), EARLIEST, Duration::ZERO, applied()).await;
    let joins = || stage.state.not_ready().is_some_and(|reason| reason.contains("joins its consumer group"));
    assert!(joins(), "nothing is assigned yet");
    // More hosts than partitions: there is none for this one, and nothing is wrong.
    stage.cluster.assign(&[]);
    seconds(1.0).await;
    assert_eq!(stage.state.not_ready(), None);
    stage.cluster.assign(&[0]);
    seconds(1.0).await;
    stage.cluster.tell(Event::Lost);
    drop(stage.cluster.revoke(0));
    seconds(1.0).await;
    assert!(joins(), "the group has gone on without it");
    stage.cluster.assign(&[0]);
    seconds(1.0).await;
    assert_eq!(stage.state.not_ready(), None);
    stage.end().await;
}

/// Take out: `look_for_cluster`.
#[tokio::test(start_paused = true)]
async fn a_stage_without_partitions_notices_a_cluster_that_does_not_answer() {
    let stage = run(FakeCluster::new(&[5]), EARLIEST, Duration::ZERO, applied()).await;
    stage.cluster.assign(&[]);
    seconds(5.0).await;
    assert_eq!(stage.state.not_ready(), None);
    stage.cluster.with(|state| state.takes = Duration::from_secs(8));
    seconds(4.5).await;
    assert!(stage.state.not_ready().is_some_and(|reason| reason.contains("does not answer")));
    stage.cluster.with(|state| state.takes = Duration::ZERO);
    seconds(4.5).await;
    assert_eq!(stage.state.not_ready(), None);
    stage.end().await;
}

/// Take out: `look_for_topics`, or the missing ones in `StageState::not_ready`.
#[tokio::test(start_paused = true)]
async fn a_topic_that_does_not_exist_keeps_the_stage_from_being_ready() {
    let cluster = FakeCluster::new(&[5]);
    cluster.with(|state| state.is_missing = true);
    let stage = run(cluster, EARLIEST, Duration::ZERO, applied()).await;
    seconds(1.0).await;
    assert_eq!(stage.state.not_ready().as_deref(), Some("there is no topic t"));
    stage.cluster.with(|state| state.is_missing = false);
    stage.cluster.assign(&[0]);
    seconds(2.0).await;
    assert_eq!(stage.state.not_ready(), None);
    stage.end().await;
}

/// Take out: the pause in `PartitionTask::run`.
#[tokio::test(start_paused = true)]
async fn a_function_that_only_asks_to_go_on_elsewhere_is_slowed_down() {
    let answer: Answer = Box::new(|batch| {
        Ok(if batch.offsets.is_empty() { Outcome::Applied } else { Outcome::ResumeAt(batch.from_offset) })
    });
    let stage = run(FakeCluster::new(&[5]), EARLIEST, Duration::ZERO, answer).await;
    stage.cluster.assign(&[0]);
    seconds(60.0).await;
    let tries = stage.batches().len();
    assert!((5..40).contains(&tries), "{tries} tries in a minute");
    let reason = stage.state.not_ready().unwrap();
    assert!(reason.contains("again and again"), "{reason}");
    stage.end().await;
}

/// Take out: the look at the digest in `PartitionTask::stop`.
#[tokio::test(start_paused = true)]
async fn a_stopped_partition_goes_on_with_the_code_that_is_swapped_in() {
    let stage = run(FakeCluster::new(&[5]), EARLIEST, Duration::ZERO, stopping()).await;
    stage.cluster.assign(&[0]);
    seconds(60.0).await;
    assert_eq!(stage.batches().len(), 1);
    assert!(stage.stopped(0).contains("another layout"), "{}", stage.stopped(0));
    stage.slot.swap(Arc::new(scripted("second", applied(), &stage.given)));
    seconds(2.0).await;
    assert_eq!(stage.batches().last(), Some(&("second", 0, 5)));
    assert_eq!((stage.state.not_ready(), stage.cluster.commits().last()), (None, Some(&(0, 5))));
    stage.end().await;
}

/// Take out: `ASK_AGAIN` in `PartitionTask::stop`.
#[tokio::test(start_paused = true)]
async fn a_partition_that_is_stopped_at_its_start_goes_on_when_what_stopped_it_is_mended() {
    let mended = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_mended = Arc::clone(&mended);
    let answer: Answer = Box::new(move |_| {
        let is_mended = is_mended.load(std::sync::atomic::Ordering::Relaxed);
        Ok(if is_mended { Outcome::Applied } else { Outcome::Stop("reset it".into()) })
    });
    let stage = run(FakeCluster::new(&[5]), EARLIEST, Duration::ZERO, answer).await;
    stage.cluster.assign(&[0]);
    seconds(60.0).await;
    assert!(stage.stopped(0).contains("reset it") && stage.batches().is_empty(), "{}", stage.stopped(0));
    mended.store(true, std::sync::atomic::Ordering::Relaxed);
    seconds(7.0).await;
    assert_eq!(stage.batches(), [("first", 0, 5)]);
    assert_eq!((stage.state.not_ready(), stage.cluster.commits().last()), (None, Some(&(0, 5))));
    stage.end().await;
}
