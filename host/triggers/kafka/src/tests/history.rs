//! A log that lost its tail and grew again past the position.

use std::time::Duration;

use exagg_clients::kafka::Offset;

use super::fake::FakeCluster;
use super::{EARLIEST, Running, applied, run, seconds};
use crate::log::{Committed, FetchError};

/// A group that had applied up to 8, in epoch 3, of a log that has only 5 of that epoch and grew on to 20.
async fn stage(on_gap: &str, committed: Committed) -> Running {
    let cluster = FakeCluster::new(&[20]);
    cluster.on(0, |partition| {
        partition.committed = committed;
        (partition.leader_epoch, partition.ended) = (4, Some((3, 5)));
    });
    let stage = run(cluster, &format!("{EARLIEST}\non_gap = \"{on_gap}\""), Duration::ZERO, applied()).await;
    stage.cluster.assign(&[0]);
    seconds(2.0).await;
    stage
}

fn committed(next_offset: i64, leader_epoch: Option<i32>) -> Committed {
    Committed { next_offset: Some(Offset(next_offset)), first_partition_count: Some(1), leader_epoch }
}

fn lost(stage: &Running) -> Vec<(i64, i64, bool)> {
    stage.given().into_iter().filter_map(|given| given.lost).collect()
}

/// Take out: the epoch in `PartitionTask::initialise`.
#[tokio::test(start_paused = true)]
async fn a_tail_that_was_lost_while_nobody_read_stops_the_partition_or_is_said() {
    let stopped = stage("stop", committed(8, Some(3))).await;
    assert!(stopped.stopped(0).contains("on_gap"), "{}", stopped.stopped(0));
    assert_eq!((lost(&stopped), stopped.batches()), (vec![(5, 8, false)], vec![]));
    assert!(stopped.cluster.commits().iter().all(|commit| *commit == (0, 8)), "nothing is committed past it");
    stopped.end().await;
    let crossed = stage("continue", committed(8, Some(3))).await;
    assert_eq!((lost(&crossed), crossed.batches()), (vec![(5, 8, true)], vec![("first", 8, 20)]));
    crossed.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_known_of_a_history_stops_nothing() {
    // Without an epoch, and with one that the log still holds up to what was read.
    for known in [committed(8, None), committed(5, Some(3)), committed(8, Some(4))] {
        let stage = stage("stop", known).await;
        assert_eq!((lost(&stage), stage.batches().len()), (vec![], 1), "{known:?}");
        stage.end().await;
    }
}

/// The last record was of epoch 4 and at 19; behind it are holes, which may be of a later one.
#[tokio::test(start_paused = true)]
async fn an_epoch_that_ends_behind_the_last_record_lost_nothing() {
    let stage = stage("stop", committed(8, None)).await;
    stage.cluster.on(0, |partition| {
        partition.bounds.1 = 24;
        partition.holes = vec![20, 21, 22, 23];
        partition.ready.notify_one();
    });
    seconds(1.0).await;
    stage.cluster.on(0, |partition| {
        partition.ended = Some((4, 20));
        partition.error = Some(FetchError::Truncated { end: Some(Offset(20)) });
        partition.ready.notify_one();
    });
    seconds(1.0).await;
    stage.cluster.append(0, 3);
    seconds(1.0).await;
    assert_eq!((lost(&stage), stage.batches().last()), (vec![], Some(&("first", 24, 27))));
    stage.end().await;
}

/// Take out: what `PartitionTask::run` does with `Truncated`.
#[tokio::test(start_paused = true)]
async fn a_tail_that_is_lost_while_it_is_read_stops_the_partition() {
    let stage = stage("stop", committed(8, None)).await;
    assert_eq!(stage.batches(), [("first", 8, 20)]);
    stage.cluster.on(0, |partition| {
        partition.error = Some(FetchError::Truncated { end: Some(Offset(11)) });
        partition.bounds.1 = 30;
        partition.ready.notify_one();
    });
    seconds(1.0).await;
    // What came in front of the error was read of the log as it is now; from its end on nothing is.
    assert!(stage.stopped(0).contains("on_gap"), "{}", stage.stopped(0));
    assert_eq!(lost(&stage).first().map(|lost| lost.0), Some(11));
    stage.end().await;
}

/// A disk that was restored from before the epoch began. Take out: the last record in `ReadTo::lost_from`.
#[tokio::test(start_paused = true)]
async fn a_log_that_does_not_know_the_epoch_lost_what_was_read_in_it() {
    let cluster = FakeCluster::new(&[20]);
    cluster.on(0, |partition| (partition.committed, partition.ended) = (committed(8, Some(3)), Some((3, 0))));
    let stage = run(cluster, EARLIEST, Duration::ZERO, applied()).await;
    stage.cluster.assign(&[0]);
    seconds(2.0).await;
    assert!(stage.stopped(0).contains("on_gap"), "{}", stage.stopped(0));
    assert_eq!((lost(&stage), stage.batches()), (vec![(7, 8, false)], vec![]));
    stage.end().await;
}
