//! The loops of a stage without a broker: a log in memory, a function that follows a script, and paused time.

mod answers;
mod fake;
mod history;
mod lag;
mod turns;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use exagg_app::TriggerSpec;
use exagg_clients::kafka::{Offset, OffsetRange, Partition, TopicPartition};
use exagg_common::clock::SystemClock;
use exagg_runtime::metrics::Metrics;
use exagg_runtime::slot::Slot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::fake::{Answer, FakeCluster, Given, Scripted};
use crate::bindings::exagg::kafka::types::{Batch, Outcome};
use crate::config::Subscription;
use crate::dead_letter::{DeadLetterQueue, PublishError};
use crate::dispatch::Dispatcher;
use crate::fetch::Share;
use crate::log::{Committed, Event, FetchError, RebalanceError};
use crate::stage::Stage;
use crate::status::{PartitionState, StageState};

type Letters = Arc<Mutex<Vec<(i64, String)>>>;

/// Notes what is published; the first so many times it fails.
struct Noted {
    letters: Letters,
    fails: Mutex<u32>,
}

#[async_trait]
impl DeadLetterQueue for Noted {
    async fn publish(&self, _: &Batch, offset: Offset, reason: &str) -> Result<(), PublishError> {
        let mut fails = self.fails.lock().unwrap();
        if *fails > 0 {
            *fails -= 1;
            return Err(PublishError("the broker is away".to_owned()));
        }
        self.letters.lock().unwrap().push((offset.0, reason.to_owned()));
        Ok(())
    }
}

/// A stage that runs.
struct Running {
    cluster: FakeCluster,
    slot: Arc<Slot<Scripted>>,
    given: Arc<Mutex<Vec<Given>>>,
    state: Arc<StageState>,
    letters: Letters,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

fn applied() -> Answer {
    Box::new(|_| Ok(Outcome::Applied))
}

fn scripted(version: &'static str, answer: Answer, given: &Arc<Mutex<Vec<Given>>>) -> Scripted {
    Scripted { version, takes: Duration::ZERO, answer, given: Arc::clone(given) }
}

/// Runs a stage with these settings beside the needed ones.
async fn run(cluster: FakeCluster, settings: &str, takes: Duration, answer: Answer) -> Running {
    fastrand::seed(7);
    let text = format!(
        "topics = [\"t\"]\ngroup = \"g\"\nbrokers = \"b:9092\"\non_poison = \"dead-letter\"\n\
         dead_letter_topic = \"dead\"\nretry_attempts_max = 1\n{settings}"
    );
    let spec = TriggerSpec {
        id: "s".to_owned(),
        kind: "kafka".to_owned(),
        component: "c".to_owned(),
        config: toml::from_str(&text).unwrap(),
    };
    let subscription = Arc::new(Subscription::new(&spec).unwrap());
    let given = Arc::default();
    let slot = Arc::new(Slot::new("c".to_owned(), Scripted { takes, ..scripted("first", answer, &given) }));
    let letters = Letters::default();
    let noted = Noted { letters: Arc::clone(&letters), fails: Mutex::new(2) };
    let metrics = Arc::new(Metrics::new().unwrap());
    let progress = Arc::new(StageState::new("s", Arc::clone(&metrics), Arc::new(SystemClock)));
    let dispatcher =
        Dispatcher::new(Arc::clone(&slot), Arc::clone(&subscription), Some(Box::new(noted)), Arc::clone(&metrics));
    let stage = Stage {
        cluster: cluster.clone(),
        dispatcher: Arc::new(dispatcher),
        subscription,
        state: Arc::clone(&progress),
        observer: None,
        // Queues of one MiB for 48 partitions.
        share: Share::new(384 << 20, 1),
        is_queue_fixed: false,
        drain_max: Duration::from_secs(30),
    };
    let stop = CancellationToken::new();
    let told = stop.clone();
    let task = tokio::spawn(async move { stage.run(told).await });
    seconds(0.01).await;
    Running { cluster, slot, given, state: progress, letters, metrics, stop, task }
}

async fn seconds(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}

impl Running {
    /// Calls with records: version, from, next.
    fn batches(&self) -> Vec<(&'static str, i64, i64)> {
        let given = self.given.lock().unwrap();
        let with_records = given.iter().filter(|given| !given.offsets.is_empty());
        with_records.map(|given| (given.version, given.from, given.next)).collect()
    }

    fn given(&self) -> Vec<Given> {
        self.given.lock().unwrap().clone()
    }

    fn state_of(&self, number: i32) -> PartitionState {
        let all = self.state.all();
        all.into_iter().find(|partition| partition.partition.0 == number).unwrap().state
    }

    fn stopped(&self, number: i32) -> String {
        match self.state_of(number) {
            PartitionState::Stopped(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
        let (joined, left) = self.cluster.with(|state| (state.joined, state.left));
        assert_eq!(joined, left, "whoever joins leaves");
    }
}

const EARLIEST: &str = "start = \"earliest\"";

#[tokio::test(start_paused = true)]
async fn a_partition_is_read_from_where_the_policy_says_and_committed() {
    let stage = run(FakeCluster::new(&[5]), EARLIEST, Duration::ZERO, applied()).await;
    stage.cluster.assign(&[0]);
    seconds(1.0).await;
    let first = &stage.given()[0];
    assert_eq!((first.from, first.next, first.end, first.offsets.len()), (0, 0, 5, 0), "first it is asked");
    assert_eq!(stage.batches(), [("first", 0, 5)]);
    assert_eq!(stage.cluster.commits(), [(0, 0), (0, 5)]);
    stage.end().await;

    let stage = run(FakeCluster::new(&[5]), "start = \"latest\"", Duration::ZERO, applied()).await;
    stage.cluster.assign(&[0]);
    seconds(1.0).await;
    stage.cluster.append(0, 2);
    seconds(0.1).await;
    assert_eq!(stage.batches(), [("first", 5, 7)]);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_functions_progress_wins_over_the_groups() {
    let cluster = FakeCluster::new(&[9]);
    cluster.on(0, |partition| {
        partition.committed =
            Committed { next_offset: Some(Offset(7)), first_partition_count: Some(1), leader_epoch: None };
    });
    let answer: Answer =
        Box::new(|batch| Ok(if batch.from_offset == 7 { Outcome::ResumeAt(3) } else { Outcome::Applied }));
    let stage = run(cluster, EARLIEST, Duration::ZERO, answer).await;
    stage.cluster.assign(&[0]);
    seconds(1.0).await;
    assert_eq!(stage.cluster.with(|state| state.seeks.clone()), [(0, 3)]);
    assert_eq!(stage.batches(), [("first", 3, 9)]);
    stage.end().await;
}

/// A function that keeps progress of its own, as the aggregator does: it begins where it is asked first.
fn with_progress(progress: Option<i64>) -> Answer {
    let progress = Mutex::new(progress);
    Box::new(move |batch| {
        let mut progress = progress.lock().unwrap();
        let at = *progress.get_or_insert(batch.from_offset);
        if at != batch.from_offset {
            return Ok(Outcome::ResumeAt(at));
        }
        *progress = Some(batch.next_offset);
        Ok(Outcome::Applied)
    })
}

#[tokio::test(start_paused = true)]
async fn the_groups_offset_alone_has_nothing_skipped() {
    let applied_before = |cluster: &FakeCluster| {
        cluster.on(0, |partition| {
            partition.committed =
                Committed { next_offset: Some(Offset(7)), first_partition_count: Some(1), leader_epoch: None };
        });
    };
    let again = |from, next| Some(OffsetRange { from: Offset(from), next: Offset(next) });
    // The database was emptied; restored from before; is as it was. Last, a start behind what the group had read.
    for (start, progress, first, reads_again) in [
        ("earliest", None, 0, again(0, 7)),
        ("earliest", Some(3), 3, again(3, 7)),
        ("earliest", Some(7), 7, None),
        ("latest", None, 7, None),
    ] {
        let cluster = FakeCluster::new(&[9]);
        applied_before(&cluster);
        let settings = format!("start = \"{start}\"");
        let stage = run(cluster, &settings, Duration::ZERO, with_progress(progress)).await;
        stage.cluster.assign(&[0]);
        seconds(1.0).await;
        assert_eq!(stage.batches(), [("first", first, 9)], "{start} {progress:?}");
        let commits = stage.cluster.commits();
        assert!(
            commits.iter().all(|commit| [(0, first), (0, 9)].contains(commit)),
            "{start} {progress:?}: {commits:?}"
        );
        assert_eq!(stage.state.all()[0].reads_again, reads_again, "{start} {progress:?}");
        stage.end().await;
    }
    // A function without progress of its own goes on where the group is.
    let cluster = FakeCluster::new(&[9]);
    applied_before(&cluster);
    let stage = run(cluster, EARLIEST, Duration::ZERO, applied()).await;
    stage.cluster.assign(&[0]);
    seconds(1.0).await;
    assert_eq!(stage.batches(), [("first", 7, 9)]);
    assert_eq!((stage.cluster.commits(), stage.state.all()[0].reads_again), (vec![(0, 7), (0, 9)], None));
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_function_that_was_overtaken_is_followed_while_it_reads() {
    let answer: Answer = Box::new(|batch| {
        // Another instance applied up to 4 meanwhile.
        Ok(if batch.from_offset == 0 && batch.next_offset > 0 { Outcome::ResumeAt(4) } else { Outcome::Applied })
    });
    let stage = run(FakeCluster::new(&[6]), EARLIEST, Duration::ZERO, answer).await;
    stage.cluster.assign(&[0]);
    seconds(1.0).await;
    assert_eq!(stage.batches(), [("first", 0, 6), ("first", 4, 6)]);
    assert_eq!(stage.cluster.with(|state| state.seeks.clone()), [(0, 0), (0, 4)]);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_was_added_later_is_read_from_its_start() {
    let cluster = FakeCluster::new(&[5, 5]);
    for number in [0, 1] {
        cluster.on(number, |partition| partition.committed.first_partition_count = Some(1));
    }
    let stage = run(cluster, "start = \"latest\"", Duration::ZERO, applied()).await;
    stage.cluster.assign(&[0, 1]);
    seconds(1.0).await;
    assert_eq!(stage.cluster.with(|state| state.seeks.clone()), [(0, 5), (1, 0)]);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_gap_stops_the_partition_or_is_said_and_crossed() {
    for (on_gap, accepted) in [("stop", false), ("continue", true)] {
        let cluster = FakeCluster::new(&[9]);
        cluster.on(0, |partition| {
            partition.bounds.0 = 4;
            partition.committed.next_offset = Some(Offset(1));
        });
        let settings = format!("on_gap = \"{on_gap}\"");
        let stage = run(cluster, &settings, Duration::ZERO, applied()).await;
        stage.cluster.assign(&[0]);
        seconds(1.0).await;
        let lost: Vec<_> = stage.given().into_iter().filter_map(|given| given.lost).collect();
        assert_eq!(lost, [(1, 4, accepted)]);
        if accepted {
            assert_eq!(stage.batches(), [("first", 4, 9)]);
        } else {
            assert!(stage.stopped(0).contains("on_gap"), "{}", stage.stopped(0));
            assert_eq!(stage.cluster.commits(), [(0, 1)], "nothing is committed past the gap");
        }
        stage.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_that_lost_what_was_applied_stops_the_partition() {
    let cluster = FakeCluster::new(&[3]);
    cluster.on(0, |partition| partition.committed.next_offset = Some(Offset(8)));
    let stage = run(cluster, "", Duration::ZERO, applied()).await;
    stage.cluster.assign(&[0]);
    seconds(1.0).await;
    assert!(stage.stopped(0).contains("the log ends at 3"));
    assert!(stage.batches().is_empty());
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn holes_up_to_the_end_of_the_partition_are_part_of_the_interval() {
    let cluster = FakeCluster::new(&[6]);
    cluster.on(0, |partition| partition.holes = vec![0, 3, 4, 5]);
    let stage = run(cluster, EARLIEST, Duration::ZERO, applied()).await;
    stage.cluster.assign(&[0]);
    seconds(1.0).await;
    assert_eq!(stage.batches(), [("first", 0, 6)]);
    assert_eq!(stage.cluster.commits().last(), Some(&(0, 6)));
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_revoked_partition_goes_when_its_batch_in_flight_has_ended() {
    let stage = run(FakeCluster::new(&[5]), EARLIEST, Duration::from_secs(3), applied()).await;
    stage.cluster.assign(&[0]);
    seconds(1.0).await;
    let done = stage.cluster.revoke(0);
    let is_waiting = || done.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty);
    seconds(1.0).await;
    assert!(is_waiting(), "the batch takes three seconds");
    seconds(2.0).await;
    assert!(!is_waiting());
    assert_eq!(stage.cluster.commits().last(), Some(&(0, 5)), "what it applied is committed");
    assert!(stage.state.all().is_empty());
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_comes_again_waits_for_its_batch_in_flight() {
    let stage = run(FakeCluster::new(&[5]), EARLIEST, Duration::from_secs(3), applied()).await;
    stage.cluster.assign(&[0]);
    seconds(1.0).await;
    // Nobody revoked it: the task before is cancelled all the same, and two never run at a time.
    stage.cluster.assign(&[0]);
    seconds(1.0).await;
    assert_eq!(stage.batches().len(), 1);
    seconds(10.0).await;
    assert_eq!(stage.batches(), [("first", 0, 5), ("first", 0, 5)]);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_rebalance_that_failed_keeps_the_stage_from_being_ready() {
    let stage = run(FakeCluster::new(&[5]), EARLIEST, Duration::ZERO, applied()).await;
    let unread = TopicPartition { topic: "t".to_owned(), partition: Partition(7) };
    stage.cluster.tell(Event::RebalanceFailed(RebalanceError::WithoutQueue(vec![unread])));
    seconds(0.1).await;
    assert!(stage.state.not_ready().is_some_and(|reason| reason.contains("7 have no queue")));
    drop(stage.cluster.revoke(0));
    seconds(0.1).await;
    assert!(stage.state.not_ready().is_some(), "that others go proves nothing of those that did not come");
    stage.cluster.tell(Event::Reachable(false));
    seconds(0.1).await;
    assert!(stage.state.not_ready().is_some_and(|reason| reason.contains("no Kafka broker")));
    stage.cluster.tell(Event::Reachable(true));
    stage.cluster.assign(&[0]);
    seconds(0.1).await;
    assert_eq!(stage.state.not_ready(), None);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_failed_for_good_ends_the_stage() {
    let stage = run(FakeCluster::new(&[5]), EARLIEST, Duration::ZERO, applied()).await;
    stage.cluster.tell(Event::Failed("fenced".to_owned()));
    let error = stage.task.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("fenced"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_quiet_partition_says_where_it_is_every_two_seconds() {
    let stage = run(FakeCluster::new(&[4]), EARLIEST, Duration::ZERO, applied()).await;
    stage.cluster.assign(&[0]);
    seconds(1.0).await;
    let before = stage.given().len();
    seconds(10.0).await;
    let heartbeats = stage.given().split_off(before);
    assert_eq!(heartbeats.len(), 5);
    assert!(heartbeats.iter().all(|given| (given.from, given.next, given.end) == (4, 4, 4)));
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn records_that_do_not_come_are_asked_for_again() {
    let stage = run(FakeCluster::new(&[4]), EARLIEST, Duration::ZERO, applied()).await;
    stage.cluster.assign(&[0]);
    seconds(1.0).await;
    stage.cluster.on(0, |partition| partition.is_stuck = true);
    stage.cluster.append(0, 3);
    seconds(4.5).await;
    stage.cluster.on(0, |partition| partition.is_stuck = false);
    assert_eq!(stage.cluster.with(|state| state.seeks.len()), 1);
    // Nobody notifies the queue: only the heartbeat finds them.
    seconds(3.0).await;
    assert_eq!(stage.cluster.with(|state| state.seeks.clone()), [(0, 0), (0, 4)]);
    assert_eq!(stage.batches(), [("first", 0, 4), ("first", 4, 7)]);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_error_in_the_place_of_records_has_the_position_validated_anew() {
    let stage = run(FakeCluster::new(&[4]), EARLIEST, Duration::ZERO, applied()).await;
    stage.cluster.assign(&[0]);
    seconds(1.0).await;
    stage.cluster.on(0, |partition| partition.error = Some(FetchError::Other("out of range".to_owned())));
    stage.cluster.append(0, 3);
    seconds(0.05).await;
    assert_eq!(stage.batches(), [("first", 0, 4), ("first", 4, 7)], "records before it count");
    assert_eq!(stage.state_of(0), PartitionState::Waiting("out of range".to_owned()));
    seconds(1.0).await;
    assert_eq!(stage.cluster.with(|state| state.seeks.clone()), [(0, 0), (0, 7)]);
    assert_eq!(stage.state_of(0), PartitionState::Reading);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_recreated_topic_is_not_read_on_as_the_old_one() {
    let stage = run(FakeCluster::new(&[4]), EARLIEST, Duration::ZERO, applied()).await;
    stage.cluster.assign(&[0]);
    seconds(1.0).await;
    stage.cluster.with(|state| state.topic_id = "second".to_owned());
    seconds(8.0).await;
    let asked = stage.given().into_iter().find(|given| given.topic_id == "second").unwrap();
    assert_eq!((asked.from, asked.offsets.len()), (4, 0), "the function is asked where to go on");
    assert_eq!(stage.cluster.with(|state| state.seeks.len()), 2);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_does_not_answer_is_asked_again() {
    let cluster = FakeCluster::new(&[4]);
    cluster.with(|state| state.unanswered = 3);
    let stage = run(cluster, EARLIEST, Duration::ZERO, applied()).await;
    stage.cluster.assign(&[0]);
    seconds(0.05).await;
    assert!(stage.state.not_ready().is_some_and(|reason| reason.contains("the cluster is away")));
    seconds(10.0).await;
    assert_eq!(stage.batches(), [("first", 0, 4)]);
    assert_eq!(stage.state.not_ready(), None);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn more_partitions_than_fit_have_the_stage_join_again() {
    let ends = vec![1; 49];
    let stage = run(FakeCluster::new(&ends), EARLIEST, Duration::ZERO, applied()).await;
    let all: Vec<i32> = (0..49).collect();
    stage.cluster.assign(&all);
    seconds(1.0).await;
    assert_eq!(stage.cluster.with(|state| (state.joined, state.left)), (2, 1));
    assert!(stage.batches().is_empty(), "none of them was read");
    stage.cluster.assign(&all);
    seconds(1.0).await;
    assert_eq!(stage.batches().len(), 49);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_member_that_the_group_waits_for_in_vain_leaves_and_joins_again() {
    let stage = run(FakeCluster::new(&[5]), EARLIEST, Duration::ZERO, applied()).await;
    stage.cluster.assign(&[0]);
    seconds(1.0).await;
    stage.cluster.tell(Event::LeftBehind);
    seconds(1.0).await;
    assert_eq!(stage.cluster.with(|state| (state.joined, state.left)), (2, 1));
    stage.cluster.append(0, 3);
    stage.cluster.assign(&[0]);
    seconds(1.0).await;
    assert_eq!(stage.state.not_ready(), None);
    assert_eq!(stage.cluster.commits().last(), Some(&(0, 8)));
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_group_that_cannot_be_left_holds_nobody() {
    let stage = run(FakeCluster::new(&[5]), EARLIEST, Duration::ZERO, applied()).await;
    stage.cluster.assign(&[0]);
    seconds(1.0).await;
    stage.cluster.with(|state| state.cannot_be_left = true);
    stage.stop.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(5), stage.task).await;
    ended.expect("the stage ends").unwrap().unwrap();
}
