//! What librdkafka calls back on: the group's rebalances, errors and log lines; and commits that are waited for.

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use exagg_clients::kafka::{Partition, TopicPartition, log};
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use tokio::sync::mpsc::UnboundedSender;

use super::commits::Commits;
use super::rounds::Rounds;
use crate::log::{Assignment, Event, RebalanceError};
use crate::sys::{self, CommitQueue, PartitionQueue};

/// How long a revoke waits for batches in flight: well below the group's time to rejoin.
const REVOKE_WAIT_MAX: Duration = Duration::from_secs(30);
/// How long a revoke waits then for its commit.
const REVOKE_COMMIT_MAX: Duration = Duration::from_secs(5);
/// While no broker can be reached: how often one is looked for, and how long a look waits.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(500);

/// One member of the group.
pub struct Member {
    /// The stage's id, for the log.
    pub who: String,
    pub events: UnboundedSender<Event<PartitionQueue>>,
    pub commits: Arc<Commits>,
    /// The group's rounds that this member has seen.
    pub rounds: Mutex<Rounds>,
}

pub type Client = BaseConsumer<Member>;

impl ClientContext for Member {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(&self.who, level, facility, message);
    }

    /// The poll gives the same errors, and the log has had its line of each connection.
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(client = %self.who, "kafka: {error}: {reason}");
    }
}

impl ConsumerContext for Member {
    fn rebalance(&self, client: &Client, event: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let result = match event {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assign(client, list),
            _ => self.revoke(client, list).map_err(RebalanceError::from),
        };
        if let Err(error) = result {
            tracing::error!(client = %self.who, "the rebalance failed: {error}");
            self.tell(Event::RebalanceFailed(error));
        }
    }
}

impl Member {
    fn rounds(&self) -> std::sync::MutexGuard<'_, Rounds> {
        self.rounds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, event: Event<PartitionQueue>) {
        // The receiver is gone when the trigger stops; then nothing is to be done.
        let _ = self.events.send(event);
    }

    /// An error that concerns the client as a whole. `looked_at` is when a broker was last looked for; none while
    /// all is well.
    pub fn failed(&self, client: &Client, error: &KafkaError, looked_at: &mut Option<Instant>) {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AllBrokersDown) => {
                if looked_at.replace(Instant::now()).is_none() {
                    tracing::warn!(client = %self.who, "kafka: no broker can be reached; tried again until one can");
                    self.tell(Event::Reachable(false));
                }
            }
            // The log's line says more.
            Some(RDKafkaErrorCode::BrokerTransportFailure) => {}
            _ => tracing::warn!(client = %self.who, "kafka: {error}"),
        }
        if let Some((code, why)) = client.client().fatal_error() {
            // Without this the stage would be deaf and look alive.
            self.tell(Event::Failed(format!("{code}: {why}")));
        }
    }

    /// While no broker can be reached, looks now and then whether one can.
    pub fn look_for_brokers(&self, client: &Client, looked_at: &mut Option<Instant>) {
        if looked_at.is_some_and(|at| at.elapsed() >= LOOK_EVERY) {
            *looked_at = Some(Instant::now());
            if client.fetch_metadata(None, LOOK).is_ok() {
                *looked_at = None;
                tracing::info!(client = %self.who, "kafka: a broker can be reached again");
                self.tell(Event::Reachable(true));
            }
        }
    }

    /// Commits what is applied of these partitions, and waits for so long at most.
    pub fn commit_within(&self, client: &Client, wanted: impl Fn(&TopicPartition) -> bool, time_max: Duration) {
        let list = self.commits.take(wanted);
        if list.count() == 0 {
            return;
        }
        let native = client.client().native_client();
        let Some(queue) = CommitQueue::new(native) else { return };
        let no_answer = || Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::OperationTimedOut));
        let result = queue.send(native, &list).and_then(|()| queue.answer(time_max).unwrap_or_else(no_answer));
        if let Err(error) = result {
            self.not_committed(&list, &error);
        }
    }

    /// What was not committed is tried again.
    pub fn not_committed(&self, list: &TopicPartitionList, error: &KafkaError) {
        tracing::warn!(client = %self.who, "offsets were not committed: {error}");
        self.commits.failed(list);
    }

    /// Takes partitions over, paused: nothing is fetched until the function has said where to go on.
    fn assign(&self, client: &Client, list: &mut TopicPartitionList) -> Result<(), RebalanceError> {
        let native = client.client().native_client();
        let is_left_behind = self.rounds().assigned(sys::generation(native));
        let (mut assignments, mut without_queue) = (Vec::new(), Vec::new());
        for partition in partitions(list) {
            match PartitionQueue::split(native, &partition) {
                Some(queue) => assignments.push(Assignment { partition, queue }),
                None => without_queue.push(partition),
            }
        }
        // Paused first, and at a number: a question for the log's start would still be answered
        // after the seek, and win.
        let assigned = client.pause(list).and_then(|()| list.set_all_offsets(Offset::Offset(0))).and_then(|()| {
            match client.rebalance_protocol() {
                RebalanceProtocol::Cooperative => client.incremental_assign(list),
                _ => client.assign(list),
            }
        });
        assigned?;
        if is_left_behind {
            self.tell(Event::LeftBehind);
            return Ok(());
        }
        self.tell(Event::Assigned(assignments));
        if without_queue.is_empty() {
            return Ok(());
        }
        Err(RebalanceError::WithoutQueue(without_queue))
    }

    /// Lets partitions go after their batches in flight are done, or the wait was too long.
    fn revoke(&self, client: &Client, list: &TopicPartitionList) -> KafkaResult<()> {
        let partitions = partitions(list);
        let is_lost = client.assignment_lost();
        self.rounds().revoked(sys::generation(client.client().native_client()).filter(|_| !is_lost));
        if is_lost {
            tracing::warn!(client = %self.who, "the group has gone on without this host: it joins again");
            self.tell(Event::Lost);
        }
        let (done, wait) = mpsc::channel();
        if self.events.send(Event::Revoked(partitions.clone(), done)).is_ok()
            && wait.recv_timeout(REVOKE_WAIT_MAX) == Err(mpsc::RecvTimeoutError::Timeout)
        {
            tracing::warn!(client = %self.who, "a batch in flight did not end within {REVOKE_WAIT_MAX:?}: its partition goes without it");
        }
        if !client.assignment_lost() {
            self.commit_within(client, |key| partitions.contains(key), REVOKE_COMMIT_MAX);
        }
        self.commits.forget(&partitions);
        match client.rebalance_protocol() {
            RebalanceProtocol::Cooperative => client.incremental_unassign(list),
            _ => client.unassign(),
        }
    }
}

fn partitions(list: &TopicPartitionList) -> Vec<TopicPartition> {
    let elements = list.elements();
    let partition = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| TopicPartition {
        topic: element.topic().to_owned(),
        partition: Partition(element.partition()),
    };
    elements.iter().map(partition).collect()
}
