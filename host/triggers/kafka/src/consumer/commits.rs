//! Offsets that are applied, and their commits.
//!
//! The function's own progress is the truth: a commit that fails costs a re-read at most. It is tried again, for those
//! who watch the lag.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use exagg_clients::kafka::{Offset, Partition, TopicId, TopicPartition};
use rdkafka::topic_partition_list::{self, TopicPartitionList};

use crate::log::Applied;
use crate::sys;

/// How far a partition is applied.
struct State {
    next_offset: Offset,
    metadata: String,
    leader_epoch: Option<i32>,
    committed: bool,
}

/// How far each partition is applied, and whether that is committed.
#[derive(Default)]
pub struct Commits(Mutex<HashMap<TopicPartition, State>>);

impl Commits {
    fn with<R>(&self, work: impl FnOnce(&mut HashMap<TopicPartition, State>) -> R) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes that everything below is applied.
    pub fn applied(&self, applied: Applied) {
        let Applied { partition, topic_id, next_offset, first_partition_count, leader_epoch } = applied;
        let metadata = metadata(first_partition_count, &topic_id);
        let state = State { next_offset, metadata, leader_epoch, committed: false };
        self.with(|commits| match commits.get_mut(&partition) {
            Some(known) if known.next_offset == next_offset => {}
            Some(known) => *known = state,
            None => drop(commits.insert(partition, state)),
        });
    }

    /// What is to be committed of the partitions that are wanted; it counts as committed from now on.
    pub fn take(&self, wanted: impl Fn(&TopicPartition) -> bool) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        self.with(|commits| {
            for (key, state) in commits.iter_mut().filter(|(key, state)| !state.committed && wanted(key)) {
                let mut element = list.add_partition(&key.topic, key.partition.0);
                if element.set_offset(topic_partition_list::Offset::Offset(state.next_offset.0)).is_ok() {
                    element.set_metadata(&state.metadata);
                    state.committed = true;
                    if let Some(leader_epoch) = state.leader_epoch {
                        sys::set_leader_epoch(&mut list, key, leader_epoch);
                    }
                }
            }
        });
        list
    }

    /// The list was not committed: it is taken again, unless more is applied by now.
    pub fn failed(&self, list: &TopicPartitionList) {
        self.with(|commits| {
            for element in list.elements() {
                let key =
                    TopicPartition { topic: element.topic().to_owned(), partition: Partition(element.partition()) };
                if let Some(known) = commits.get_mut(&key)
                    && topic_partition_list::Offset::Offset(known.next_offset.0) == element.offset()
                {
                    known.committed = false;
                }
            }
        });
    }

    /// The partitions are not ours any more.
    pub fn forget(&self, partitions: &[TopicPartition]) {
        self.with(|commits| commits.retain(|key, _| !partitions.contains(key)));
    }
}

/// What is stored beside a committed offset: by it a partition that was added later is known.
fn metadata(first_partition_count: i32, topic_id: &TopicId) -> String {
    format!("exagg partitions={first_partition_count} topic={topic_id}")
}

/// The partition count, where the commit is this host's and of this very topic.
pub fn parse_metadata(text: &str, topic_id: &TopicId) -> Option<i32> {
    let (count, id) = text.strip_prefix("exagg partitions=")?.split_once(" topic=")?;
    (id == topic_id.0).then(|| count.parse().ok())?
}

/// True for a commit that this host made of an earlier topic of the same name.
pub fn is_of_other_topic(text: &str, topic_id: &TopicId) -> bool {
    text.starts_with("exagg partitions=") && parse_metadata(text, topic_id).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> TopicId {
        TopicId(text.to_owned())
    }

    #[test]
    fn the_metadata_of_a_commit_is_read_back() {
        assert_eq!(parse_metadata(&metadata(8, &id("id")), &id("id")), Some(8));
        assert_eq!(parse_metadata(&metadata(8, &id("id")), &id("other")), None);
        assert_eq!(parse_metadata("of another tool", &id("id")), None);
        assert!(is_of_other_topic(&metadata(8, &id("id")), &id("other")));
        assert!(!is_of_other_topic("of another tool", &id("id")));
        assert!(!is_of_other_topic("", &id("id")));
    }

    #[test]
    fn a_commit_that_failed_is_made_again_unless_more_is_applied() {
        let commits = Commits::default();
        let partition = TopicPartition { topic: "t".to_owned(), partition: Partition(0) };
        let apply = |offset| {
            commits.applied(Applied {
                partition: partition.clone(),
                topic_id: id("id"),
                next_offset: Offset(offset),
                first_partition_count: 1,
                leader_epoch: None,
            });
        };
        let take = || commits.take(|_| true);
        apply(5);
        let first = take();
        assert_eq!((first.count(), take().count()), (1, 0));
        commits.failed(&first);
        assert_eq!(take().elements()[0].offset(), topic_partition_list::Offset::Offset(5));
        apply(7);
        let second = take();
        apply(9);
        commits.failed(&second);
        assert_eq!(take().elements()[0].offset(), topic_partition_list::Offset::Offset(9));
        apply(9);
        assert_eq!(take().count(), 0, "an empty batch applies nothing new");
        apply(11);
        commits.forget(std::slice::from_ref(&partition));
        assert_eq!(take().count(), 0);
    }
}
