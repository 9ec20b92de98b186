//! Outbound Kafka: an idempotent producer a cluster, whose deliveries are awaited.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::future::join_all;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::future_producer::DeliveryFuture;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use wasmtime::component::{Accessor, HasData, Linker};

use super::outbound_networking::{AllowedHosts, Destination};
use super::{Configure, Factor};
use crate::app::ComponentSpec;
use crate::bindings::imports::exagg::kafka::producer as wit;
use crate::budget::Account;
use crate::instance::State;
use crate::kafka::{LogContext, Properties, addresses, client_config};

/// How long the cluster may take to say who its brokers are.
const METADATA_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a record may take to be acknowledged, retries included.
const DELIVERY_TIMEOUT_MS: &str = "20000";
/// How long a full queue is waited for, at a time.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(10);

/// The component variable that names a broker list, by convention.
const BROKERS_VARIABLE: &str = "kafka_brokers";

/// Messages of one call that are on their way at a time: the gate knows them when they are stored.
const MESSAGES_AT_ONCE: usize = 500;

/// Holds a producer back while nobody keeps up, where records would be lost else.
pub trait ProduceGate: Send + Sync {
    /// Waits until the topic has room.
    fn room(&self, topic: &str) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
    /// A record of so many bytes was stored.
    fn stored(&self, topic: &str, partition: i32, offset: i64, bytes: usize);
}

pub struct OutboundKafkaFactor(Arc<Producers>);

/// Producers by broker list.
struct Producers {
    properties: Properties,
    gate: Option<Arc<dyn ProduceGate>>,
    open: Mutex<HashMap<String, Producer>>,
}

type Producer = Arc<FutureProducer<LogContext>>;

/// One component's allow-list, and the clusters whose advertised addresses are checked.
#[derive(Clone)]
pub struct ComponentKafka {
    allowed: Arc<AllowedHosts>,
    checked: Arc<Mutex<HashSet<String>>>,
    producers: Arc<Producers>,
}

impl OutboundKafkaFactor {
    pub fn new(properties: Properties, gate: Option<Arc<dyn ProduceGate>>) -> Self {
        Self(Arc::new(Producers { properties, gate, open: Mutex::default() }))
    }

    /// Waits until every record is acknowledged or given up.
    pub async fn flush(&self, timeout: Duration) {
        let producers: Vec<_> =
            self.0.open.lock().unwrap_or_else(PoisonError::into_inner).values().map(Arc::clone).collect();
        let flush = move || producers.iter().try_for_each(|producer| producer.flush(timeout));
        match tokio::task::spawn_blocking(flush).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("not every record was acknowledged: {error}"),
            Err(error) => tracing::warn!("{error}"),
        }
    }
}

impl Factor for OutboundKafkaFactor {
    type Component = ComponentKafka;
    type Instance = ComponentKafka;

    fn init(linker: &mut Linker<State>) -> wasmtime::Result<()> {
        wit::add_to_linker::<_, Self>(linker, |state| View(&state.factors.kafka))
    }

    /// The cluster that the variable of this name names is checked now: a wrong one must not show
    /// first when a function goes there.
    fn configure(&self, _: &ComponentSpec, context: &Configure<'_>) -> Result<ComponentKafka> {
        if let Some(brokers) = context.values.get(BROKERS_VARIABLE) {
            let listed = addresses(brokers.expose()).map_err(anyhow::Error::msg);
            let checked = listed.and_then(|listed| check(&context.allowed_hosts, &listed));
            checked.with_context(|| format!("variable {BROKERS_VARIABLE}"))?;
        }
        Ok(ComponentKafka {
            allowed: Arc::clone(&context.allowed_hosts),
            checked: Arc::default(),
            producers: Arc::clone(&self.0),
        })
    }

    fn prepare(&self, component: &ComponentKafka, _: &Arc<Account>) -> ComponentKafka {
        component.clone()
    }
}

/// The component's access, borrowed from the store.
pub struct View<'a>(&'a ComponentKafka);

impl HasData for OutboundKafkaFactor {
    type Data<'a> = View<'a>;
}

impl wit::Host for View<'_> {}

impl<T: Send> wit::HostWithStore<T> for OutboundKafkaFactor {
    async fn send(
        accessor: &Accessor<T, Self>,
        brokers: String,
        messages: Vec<wit::Message>,
    ) -> wasmtime::Result<Result<Vec<wit::Delivery>, wit::Error>> {
        let kafka = accessor.with(|mut access| access.get().0.clone());
        Ok(kafka.send(&brokers, messages).await)
    }
}

fn check(allowed: &AllowedHosts, addresses: &[(String, u16)]) -> Result<()> {
    let mut destinations = addresses.iter().map(|(host, port)| Destination { scheme: "kafka", host, port: *port });
    destinations.try_for_each(|destination| allowed.check(destination))
}

fn failed(error: impl ToString) -> wit::Error {
    wit::Error::DeliveryFailed(error.to_string())
}

impl ComponentKafka {
    async fn send(&self, brokers: &str, messages: Vec<wit::Message>) -> Result<Vec<wit::Delivery>, wit::Error> {
        let addresses = addresses(brokers).map_err(wit::Error::BadParameter)?;
        self.check(&addresses)?;
        if let Some(message) = messages.iter().find(|message| message.topic.is_empty()) {
            return Err(wit::Error::BadParameter(format!("a message has no topic (key {:?})", message.key)));
        }
        let producer = self.producers.get(brokers)?;
        self.check_advertised(brokers, &producer).await?;
        let mut stored = Vec::with_capacity(messages.len());
        for messages in messages.chunks(MESSAGES_AT_ONCE) {
            self.send_some(&producer, messages, &mut stored).await?;
        }
        Ok(stored)
    }

    async fn send_some(
        &self,
        producer: &Producer,
        messages: &[wit::Message],
        stored: &mut Vec<wit::Delivery>,
    ) -> Result<(), wit::Error> {
        let mut deliveries = Vec::with_capacity(messages.len());
        for message in messages {
            if let Some(gate) = &self.producers.gate {
                gate.room(&message.topic).await;
            }
            deliveries.push(enqueue(producer, message).await?);
        }
        for (delivery, message) in join_all(deliveries).await.into_iter().zip(messages) {
            let delivery = delivery.map_err(failed)?.map_err(|(error, _)| failed(error))?;
            if let Some(gate) = &self.producers.gate {
                gate.stored(&message.topic, delivery.partition, delivery.offset, bytes(message));
            }
            stored.push(wit::Delivery { partition: delivery.partition, offset: delivery.offset });
        }
        Ok(())
    }

    fn check(&self, addresses: &[(String, u16)]) -> Result<(), wit::Error> {
        check(&self.allowed, addresses).map_err(|error| wit::Error::NotAllowed(error.to_string()))
    }

    /// The brokers that the cluster names are where the records go: they are checked as well,
    /// before the first record.
    async fn check_advertised(&self, brokers: &str, producer: &Producer) -> Result<(), wit::Error> {
        if self.checked.lock().unwrap_or_else(PoisonError::into_inner).contains(brokers) {
            return Ok(());
        }
        let client = Arc::clone(producer);
        let metadata = tokio::task::spawn_blocking(move || client.client().fetch_metadata(None, METADATA_TIMEOUT))
            .await
            .map_err(failed)?
            .map_err(|error| failed(format!("the cluster at {brokers} does not answer: {error}")))?;
        let advertised: Vec<_> = metadata
            .brokers()
            .iter()
            .filter_map(|broker| Some((broker.host().to_owned(), u16::try_from(broker.port()).ok()?)))
            .collect();
        self.check(&advertised)?;
        self.checked.lock().unwrap_or_else(PoisonError::into_inner).insert(brokers.to_owned());
        Ok(())
    }
}

impl Producers {
    fn get(&self, brokers: &str) -> Result<Producer, wit::Error> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(producer) = open.get(brokers) {
            return Ok(Arc::clone(producer));
        }
        let producer = client_config(brokers, &self.properties)
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", DELIVERY_TIMEOUT_MS)
            .set("linger.ms", "2")
            // The partition that Kafka's own clients choose for a key.
            .set("partitioner", "murmur2_random")
            .create_with_context(LogContext { who: "producer".to_owned() })
            .map_err(|error: KafkaError| wit::Error::BadParameter(error.to_string()))?;
        let producer = Arc::new(producer);
        open.insert(brokers.to_owned(), Arc::clone(&producer));
        Ok(producer)
    }
}

fn bytes(message: &wit::Message) -> usize {
    message.key.as_ref().map_or(0, Vec::len) + message.value.as_ref().map_or(0, Vec::len)
}

/// Puts the message into the producer's queue, waiting while it is full.
async fn enqueue(producer: &Producer, message: &wit::Message) -> Result<DeliveryFuture, wit::Error> {
    loop {
        let mut record: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(&message.topic);
        record.key = message.key.as_deref();
        record.payload = message.value.as_deref();
        if !message.headers.is_empty() {
            let headers = OwnedHeaders::new_with_capacity(message.headers.len());
            record = record.headers(
                message
                    .headers
                    .iter()
                    .fold(headers, |headers, (key, value)| headers.insert(Header { key, value: Some(value) })),
            );
        }
        match producer.send_result(record) {
            Ok(delivery) => return Ok(delivery),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                tokio::time::sleep(QUEUE_FULL_PAUSE).await;
            }
            Err((error, _)) => return Err(failed(error)),
        }
    }
}
