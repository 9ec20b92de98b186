//! Commits that nobody waits for, one at a time: librdkafka neither rejoins a group nor closes before all of them have
//! their answers.

use std::time::Duration;

use rdkafka::consumer::Consumer as _;
use rdkafka::topic_partition_list::TopicPartitionList;

use super::group::Client;
use crate::sys::CommitQueue;

/// The commits of one consumer.
pub struct Committer<'a> {
    client: &'a Client,
    queue: Option<CommitQueue>,
    /// What was sent and has no answer yet.
    in_flight: Option<TopicPartitionList>,
}

impl<'a> Committer<'a> {
    pub fn new(client: &'a Client) -> Self {
        Self { client, queue: CommitQueue::new(client.client().native_client()), in_flight: None }
    }

    /// Takes the answer to the last commit, where it has come, and commits what is applied since.
    pub fn commit(&mut self) {
        let Some(queue) = &self.queue else { return };
        let member = self.client.context();
        if let Some(list) = self.in_flight.take() {
            match queue.answer(Duration::ZERO) {
                None => {
                    self.in_flight = Some(list);
                    return;
                }
                Some(Err(error)) => member.not_committed(&list, &error),
                Some(Ok(())) => {}
            }
        }
        let list = member.commits.take(|_| true);
        if list.count() == 0 {
            return;
        }
        match queue.send(self.client.client().native_client(), &list) {
            Ok(()) => self.in_flight = Some(list),
            Err(error) => member.not_committed(&list, &error),
        }
    }
}
