//! What a stage's partitions do, for `exagg status` and the readiness probe.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use super::consumer::TopicPartition;
use crate::telemetry::Metrics;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "reason")]
pub enum PartitionState {
    Reading,
    /// Something is in the way and is tried again.
    Waiting(String),
    /// A person has to look.
    Stopped(String),
}

#[derive(Clone, Debug, Serialize)]
pub struct PartitionStatus {
    pub topic: String,
    pub partition: i32,
    pub next_offset: i64,
    pub end_offset: i64,
    #[serde(flatten)]
    pub state: PartitionState,
}

/// A stage's partitions.
pub struct StageStatus {
    stage: String,
    partitions: Mutex<BTreeMap<TopicPartition, PartitionStatus>>,
    unreachable: AtomicBool,
    metrics: Arc<Metrics>,
}

impl StageStatus {
    pub fn new(stage: &str, metrics: Arc<Metrics>) -> Self {
        Self { stage: stage.to_owned(), partitions: Mutex::default(), unreachable: AtomicBool::new(false), metrics }
    }

    fn with<R>(&self, work: impl FnOnce(&mut BTreeMap<TopicPartition, PartitionStatus>) -> R) -> R {
        work(&mut self.partitions.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn note(&self, key: &TopicPartition, next_offset: i64, state: PartitionState) {
        self.with(|partitions| {
            let known = partitions.entry(key.clone()).or_insert_with(|| PartitionStatus {
                topic: key.0.clone(),
                partition: key.1,
                next_offset,
                end_offset: next_offset,
                state: state.clone(),
            });
            known.next_offset = next_offset;
            known.state = state;
        });
    }

    pub fn applied(&self, key: &TopicPartition, next_offset: i64, end_offset: i64) {
        self.with(|partitions| {
            if let Some(known) = partitions.get_mut(key) {
                known.next_offset = next_offset;
                known.end_offset = end_offset;
                known.state = PartitionState::Reading;
            }
        });
        self.metrics.lag(&self.stage, &key.0, key.1, (end_offset - next_offset).max(0));
    }

    /// Whether any broker can be reached: without one there may be no partition that waits.
    pub fn reachable(&self, reachable: bool) {
        self.unreachable.store(!reachable, Ordering::Relaxed);
    }

    pub fn remove(&self, key: &TopicPartition) {
        self.with(|partitions| partitions.remove(key));
        self.metrics.forget_lag(&self.stage, &key.0, key.1);
    }

    pub fn all(&self) -> Vec<PartitionStatus> {
        self.with(|partitions| partitions.values().cloned().collect())
    }

    /// What keeps a stage from being ready: no broker, or a partition that waits for the world.
    pub fn waiting(&self) -> Option<String> {
        if self.unreachable.load(Ordering::Relaxed) {
            return Some("no Kafka broker can be reached".to_owned());
        }
        self.all().into_iter().find_map(|partition| match partition.state {
            PartitionState::Waiting(reason) => {
                Some(format!("topic {} partition {}: {reason}", partition.topic, partition.partition))
            }
            _ => None,
        })
    }
}
