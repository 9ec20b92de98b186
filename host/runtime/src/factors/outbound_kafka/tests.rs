//! Against librdkafka's mock cluster.

use std::time::{Duration, Instant};

use exagg_common::template::{Secret, Variables};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use super::admission::Admission;
use super::producers::PRODUCERS_MAX;
use super::*;
use crate::budget::Limits;

type Cluster = MockCluster<'static, DefaultProducerContext>;

/// A mock cluster, and its brokers' addresses in the order of their ids (1, 2, ...).
fn cluster(brokers: i32) -> (Cluster, Vec<String>) {
    let cluster = MockCluster::new(brokers).unwrap();
    let mut addresses: Vec<String> = cluster.bootstrap_servers().split(',').map(str::to_owned).collect();
    addresses.sort_unstable();
    (cluster, addresses)
}

fn allowed(addresses: &[&str]) -> Arc<AllowedHosts> {
    let entries: Vec<String> = addresses.iter().map(|address| format!("kafka://{address}")).collect();
    Arc::new(AllowedHosts::parse("a", &entries, &Variables::default()).unwrap())
}

fn account() -> Arc<Account> {
    Account::root("component test", Limits::NONE.with(Resource::Producers, PRODUCERS_MAX))
}

fn component(addresses: &[&str], properties: &[(&str, &str)], account: &Arc<Account>) -> ComponentKafka {
    let properties = properties.iter().map(|(name, value)| ((*name).to_owned(), Secret::new(*value))).collect();
    OutboundKafkaFactor::new(properties, None).component(allowed(addresses), Arc::clone(account), IDLE_MAX)
}

fn message(topic: &str, key: &str, value: &str) -> wit::Message {
    wit::Message {
        topic: topic.to_owned(),
        key: Some(key.as_bytes().to_vec()),
        value: Some(value.as_bytes().to_vec()),
        headers: vec![("name".to_owned(), b"value".to_vec()), ("empty".to_owned(), Vec::new())],
    }
}

fn as_call(account: &Arc<Account>) -> Call {
    Call { account: Arc::clone(account), waits: Waits::default(), reused: None }
}

async fn wait_until(what: &str, is: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is() {
        assert!(Instant::now() < end, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_stored_and_nothing_stays_charged() {
    let (cluster, addresses) = cluster(1);
    cluster.create_topic("stored", 1, 1).unwrap();
    let account = account();
    let component = component(&[&addresses[0]], &[], &account);
    let call = account.below("call", Limits::NONE);
    let messages: Vec<_> = (0..1_200).map(|number| message("stored", "k", &number.to_string())).collect();
    let stored = component.instance(&as_call(&call)).send(&addresses[0], messages).await.unwrap();
    let offsets: Vec<i64> = stored.iter().map(|delivery| delivery.offset).collect();
    assert_eq!(offsets, (0..1_200).collect::<Vec<_>>());
    assert!(stored.iter().all(|delivery| delivery.partition == 0));
    assert_eq!(call.used(Resource::HostBytes), 0);
    let nothing = wit::Message { topic: "stored".to_owned(), key: None, value: None, headers: Vec::new() };
    assert_eq!(component.instance(&as_call(&call)).send(&addresses[0], vec![nothing]).await.unwrap()[0].offset, 1_200);
    assert_eq!(account.used(Resource::Producers), 1);
    drop(component);
    wait_until("the end of the producer", || account.used(Resource::Producers) == 0).await;
}

/// Take out: `rd_kafka_conf_set_resolve_cb`. Without the check of the metadata, so that only the
/// connection itself is left to be refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_not_allowed_gets_no_connection() {
    let (cluster, addresses) = cluster(2);
    cluster.create_topic("led", 1, 2).unwrap();
    cluster.partition_leader("led", 0, Some(2)).unwrap();
    // Which address is whose is the cluster's affair: whichever leads, one of the two is not allowed.
    let mut refusals = 0;
    for (permitted, other) in [(0, 1), (1, 0)] {
        let account = account();
        let admission = Arc::new(Admission::new("test", allowed(&[&addresses[permitted]])));
        let mut properties = exagg_clients::kafka::settings(&addresses[permitted], &Properties::new());
        for (name, value) in [("message.timeout.ms", "3000"), ("enable.idempotence", "true")] {
            properties.insert(name.to_owned(), Secret::new(value));
        }
        let held = account.hold(Resource::Producers, 1).unwrap();
        let client = sys::Producer::open("test", &properties, Arc::clone(&admission), held).unwrap();
        let held = Arc::new(account.hold(Resource::HostBytes, 1).unwrap());
        let start = Instant::now();
        let delivered = client.produce(&message("led", "k", "v"), held).unwrap().await.unwrap();
        match delivered {
            Ok(_) => {}
            Err(undelivered) => {
                assert!(undelivered.is_local, "{undelivered:?}");
                let refused = admission.refused_since(start).unwrap();
                assert!(refused.contains(&addresses[other]), "{refused}");
                refusals += 1;
            }
        }
        assert_eq!(account.used(Resource::HostBytes), 0);
    }
    assert_eq!(refusals, 1);
}

/// Take out: the check in `Producer::check_advertised` (it then takes as long as a record may).
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_with_a_broker_that_is_not_allowed_is_refused_before_the_first_record() {
    let (cluster, addresses) = cluster(2);
    cluster.create_topic("early", 4, 1).unwrap();
    let account = account();
    let component = component(&[&addresses[0]], &[], &account);
    let start = Instant::now();
    let sent = component.instance(&as_call(&account)).send(&addresses[0], vec![message("early", "k", "v")]).await;
    let Err(wit::Error::NotAllowed(reason)) = sent else { panic!("{sent:?}") };
    assert!(reason.contains(&addresses[1]), "{reason}");
    assert!(start.elapsed() < Duration::from_secs(15));
    assert_eq!(account.used(Resource::HostBytes), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_that_differ_in_writing_have_one_producer_and_there_are_few() {
    let account = account();
    let component = component(&["*:*"], &[], &account);
    let get = |list: &str| component.producers.get(&BrokerList::parse(list).unwrap());
    for number in 0..600 {
        get(&format!("{}LOCALHOST:1,{}localhost:2", " ".repeat(number), " ".repeat(number % 7))).unwrap();
    }
    assert_eq!(account.used(Resource::Producers), 1);
    for port in 2..=PRODUCERS_MAX {
        get(&format!("localhost:{port}")).unwrap();
    }
    let Err(wit::Error::BadParameter(reason)) = get("localhost:99") else { panic!("one too many") };
    assert!(reason.contains("component test"), "{reason}");
    assert!(get("localhost:2, localhost:1").is_ok(), "those that are there go on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_nobody_uses_goes() {
    let account = account();
    let idle_max = Duration::from_millis(200);
    let factor = OutboundKafkaFactor::new(Properties::new(), None);
    let component = factor.component(allowed(&["*:*"]), Arc::clone(&account), idle_max);
    let list = BrokerList::parse("localhost:1").unwrap();
    let used = component.producers.get(&list).unwrap();
    tokio::time::sleep(3 * idle_max).await;
    assert_eq!(component.producers.clients().len(), 1, "it is in use");
    drop(used);
    wait_until("the end of the producer", || account.used(Resource::Producers) == 0).await;
    assert!(component.producers.get(&list).is_ok(), "and it comes back");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_beyond_the_calls_memory_are_refused() {
    let account = account();
    let component = component(&["*:*"], &[], &account);
    let call = account.below("call", Limits::NONE.with(Resource::HostBytes, 10_000));
    let large = message("t", "k", &"x".repeat(10_000));
    let sent = component.instance(&as_call(&call)).send("localhost:1", vec![large]).await;
    assert!(matches!(sent, Err(wit::Error::BadParameter(_))), "{sent:?}");
    assert_eq!((call.used(Resource::HostBytes), account.used(Resource::Producers)), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_brokers_are_the_only_ones_and_its_mistakes_are_not_shown() {
    let account = account();
    let operators = component(&["*:*"], &[(BOOTSTRAP, "Operator:1, other:2")], &account);
    let check = |list: &str| operators.check(&BrokerList::parse(list).unwrap());
    assert!(check("other:2,operator:1").is_ok());
    let Err(wit::Error::NotAllowed(reason)) = check("app:1") else { panic!("another cluster is reached") };
    assert!(reason.contains("app:1") && !reason.to_lowercase().contains("operator:1"), "{reason}");
    let mistyped = component(&["*:*"], &[("sasl.pasword", "geheim")], &account);
    let Err(error) = mistyped.producers.get(&BrokerList::parse("localhost:1").unwrap()) else { panic!("it was made") };
    assert!(!format!("{error} {error:?}").contains("geheim"), "{error:?}");
    assert!(format!("{error:?}").contains("the host's Kafka settings cannot be used: sasl.pasword"), "{error:?}");
    assert_eq!(account.used(Resource::Producers), 0);
}

/// A topic's or header's name with a NUL made the safe binding panic.
#[tokio::test(flavor = "multi_thread")]
async fn names_that_cannot_be_are_refused() {
    let (cluster, addresses) = cluster(1);
    cluster.create_topic("named", 1, 1).unwrap();
    let account = account();
    let component = component(&[&addresses[0]], &[], &account);
    let mut wrong = message("named", "k", "v");
    wrong.headers.push(("a\0b".to_owned(), Vec::new()));
    for wrong in [wrong, message("a\0b", "k", "v")] {
        let sent = component.instance(&as_call(&account)).send(&addresses[0], vec![wrong]).await;
        assert!(matches!(sent, Err(wit::Error::BadParameter(_))), "{sent:?}");
    }
    assert_eq!(account.used(Resource::HostBytes), 0);
}
