//! Against librdkafka's mock cluster.

use exagg_app::TriggerSpec;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::fetch::{Share, Wanted};

/// A member of a group of one, and what happens to it.
fn join(brokers: &str) -> (Consumer, UnboundedReceiver<Event<PartitionQueue>>) {
    let text = format!("topics = [\"t\"]\ngroup = \"g\"\nbrokers = \"{brokers}\"");
    let config = toml::from_str(&text).unwrap();
    let spec = TriggerSpec { id: "s".to_owned(), kind: "kafka".to_owned(), component: "c".to_owned(), config };
    let subscription = Arc::new(Subscription::new(&spec).unwrap());
    let cluster = Brokers { subscription, properties: Properties::new(), topics_are: None };
    let fetch = Fetch::new(Wanted::new(1 << 20, |_| None), Share::new(1 << 30, 1), 1);
    let (sender, events) = unbounded_channel();
    (cluster.join(&fetch, sender).unwrap(), events)
}

fn applied(next: i64) -> Applied {
    Applied {
        partition: TopicPartition { topic: "t".to_owned(), partition: exagg_clients::kafka::Partition(0) },
        topic_id: TopicId("id".to_owned()),
        next_offset: Offset(next),
        first_partition_count: 1,
        leader_epoch: None,
    }
}

/// The binding tells nobody how a commit ended that was not waited for. Take out: `not_committed` in the committer.
#[tokio::test]
async fn a_commit_that_the_broker_refuses_is_tried_again_though_nothing_more_is_applied() {
    let cluster: MockCluster<'static, DefaultProducerContext> = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 1, 1).unwrap();
    let (consumer, mut events) = join(&cluster.bootstrap_servers());
    // Until the partition has come.
    while !matches!(events.recv().await, Some(Event::Assigned(_))) {}
    // librdkafka does not try these again by itself.
    let refused = RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_COMMIT_OFFSET_SIZE;
    cluster.request_errors(RDKafkaApiKey::OffsetCommit, &[refused; 2]);
    consumer.commit(applied(7));
    let committed = async {
        loop {
            let answer = consumer.ask(|client| {
                let mut asked = TopicPartitionList::new();
                asked.add_partition("t", 0);
                client.committed_offsets(asked, REQUEST_TIMEOUT).map_err(unanswered)
            });
            let answer = answer.await.unwrap();
            if answer.elements()[0].offset() == topic_partition_list::Offset::Offset(7) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let came = tokio::time::timeout(Duration::from_secs(20), committed).await;
    assert!(came.is_ok(), "offset 7 is not committed");
    drop(events);
    Log::leave(Arc::new(consumer)).await;
}
