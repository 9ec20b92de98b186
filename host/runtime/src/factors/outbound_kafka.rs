//! Outbound Kafka: an idempotent producer a cluster, whose deliveries are awaited.

mod admission;
mod brokers;
pub mod producers;
mod sys;
#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use exagg_app::ComponentSpec;
use exagg_clients::kafka::{BOOTSTRAP, Properties, addresses};
use futures::future::BoxFuture;
use futures::future::join_all;
use tokio::sync::{Semaphore, oneshot};
use wasmtime::component::{Accessor, HasData, Linker};

use self::brokers::BrokerList;
use self::producers::{IDLE_MAX, Producer, Producers};
use self::sys::{Delivered, NotQueued};
use super::outbound_networking::{AllowedHosts, Destination};
use super::waits::Waits;
use super::{Call, Configure, Factor, Holds, Link};
use crate::budget::{Account, Held, Resource};
use crate::factors::bindings::exagg::kafka::producer as wit;

/// How long a full queue is waited for, at a time.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(10);

/// The component variable that names a broker list, by convention.
const BROKERS_VARIABLE: &str = "kafka_brokers";

/// Messages of one call that are on their way at a time: the gate knows them when they are stored.
const MESSAGES_AT_ONCE: usize = 500;

/// Sends of one call that are under way at a time; more of them wait.
const SENDS_AT_ONCE: usize = 4;

/// What a message, and each of its headers, takes beside its texts and bytes.
const MESSAGE_OVERHEAD: usize = 256;
const HEADER_OVERHEAD: usize = 64;

/// Holds a producer back while nobody keeps up, where records would be lost else.
pub trait ProduceGate: Send + Sync {
    /// Waits until the topic has room.
    fn room(&self, topic: &str) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
    /// A record of so many bytes was stored.
    fn stored(&self, topic: &str, partition: i32, offset: i64, bytes: usize);
}

/// Serves `exagg:kafka/producer` to guests, each component with producers of its own.
pub struct OutboundKafkaFactor {
    properties: Arc<Properties>,
    gate: Option<Arc<dyn ProduceGate>>,
    /// Every component's, for the flush at the end.
    components: Mutex<Vec<Weak<Producers>>>,
}

/// One component's allow-list and producers.
#[derive(Clone)]
pub struct ComponentKafka {
    properties: Arc<Properties>,
    gate: Option<Arc<dyn ProduceGate>>,
    allowed: Arc<AllowedHosts>,
    producers: Arc<Producers>,
}

/// The same for one call.
#[derive(Clone)]
pub struct InstanceKafka {
    component: ComponentKafka,
    call: Arc<Account>,
    waits: Waits,
    turns: Arc<Semaphore>,
}

impl OutboundKafkaFactor {
    /// `properties` are the operator's (`[exagg.kafka]`); only the embedded broker has a `gate`.
    pub fn new(properties: Properties, gate: Option<Arc<dyn ProduceGate>>) -> Self {
        Self { properties: Arc::new(properties), gate, components: Mutex::default() }
    }

    /// Waits until every record is acknowledged or given up.
    pub fn flush(&self, timeout: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let clients: Vec<_> = {
                let components = self.components.lock().unwrap_or_else(PoisonError::into_inner);
                components.iter().filter_map(Weak::upgrade).flat_map(|producers| producers.clients()).collect()
            };
            let end = Instant::now() + timeout;
            let flush = move || {
                clients.iter().try_for_each(|client| client.flush(end.saturating_duration_since(Instant::now())))
            };
            match tokio::task::spawn_blocking(flush).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!("not every record was acknowledged: {error}"),
                Err(error) => tracing::warn!("{error}"),
            }
        })
    }

    fn component(&self, allowed: Arc<AllowedHosts>, account: Arc<Account>, idle_max: Duration) -> ComponentKafka {
        let producers = Producers::new(Arc::clone(&self.properties), Arc::clone(&allowed), account, idle_max);
        let mut components = self.components.lock().unwrap_or_else(PoisonError::into_inner);
        // Those of versions that were swapped out.
        components.retain(|producers| producers.strong_count() > 0);
        components.push(Arc::downgrade(&producers));
        ComponentKafka { properties: Arc::clone(&self.properties), gate: self.gate.clone(), allowed, producers }
    }
}

impl Factor for OutboundKafkaFactor {
    type Component = ComponentKafka;
    type Instance = InstanceKafka;

    /// The cluster that the variable of this name names is checked now: a wrong one must not show
    /// first when a function goes there.
    fn configure(&self, _: &ComponentSpec, context: &Configure<'_>) -> Result<ComponentKafka> {
        if let Some(brokers) = context.values.get(BROKERS_VARIABLE) {
            let listed = addresses(brokers.expose()).map_err(anyhow::Error::from);
            let checked = listed.and_then(|listed| check(&context.allowed_hosts, &listed));
            checked.with_context(|| format!("variable {BROKERS_VARIABLE}"))?;
        }
        Ok(self.component(Arc::clone(&context.allowed_hosts), Arc::clone(&context.account), IDLE_MAX))
    }

    fn prepare(&self, component: &ComponentKafka, call: &Call) -> InstanceKafka {
        component.instance(call)
    }
}

impl<S: Holds<InstanceKafka>> Link<S> for OutboundKafkaFactor {
    fn link(linker: &mut Linker<S>) -> wasmtime::Result<()> {
        wit::add_to_linker::<_, Self>(linker, |store| View(store.part().0))
    }
}

/// The component's access, borrowed from the store.
pub struct View<'a>(&'a InstanceKafka);

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
    fn instance(&self, call: &Call) -> InstanceKafka {
        InstanceKafka {
            component: self.clone(),
            call: Arc::clone(&call.account),
            waits: call.waits.clone(),
            turns: Arc::new(Semaphore::new(SENDS_AT_ONCE)),
        }
    }

    /// Whether the component may go there at all.
    fn check(&self, list: &BrokerList) -> Result<(), wit::Error> {
        let refuse = |error: String| Err(wit::Error::NotAllowed(error));
        check(&self.allowed, list.addresses()).or_else(|error| refuse(error.to_string()))?;
        let Some(operators) = self.properties.get(BOOTSTRAP) else { return Ok(()) };
        if BrokerList::parse(operators.expose()).as_ref() == Ok(list) {
            return Ok(());
        }
        refuse(format!("the brokers {list} are not those of the operator's {BOOTSTRAP} ([exagg.kafka])"))
    }
}

impl InstanceKafka {
    async fn send(&self, brokers: &str, messages: Vec<wit::Message>) -> Result<Vec<wit::Delivery>, wit::Error> {
        let list = BrokerList::parse(brokers).map_err(|error| wit::Error::BadParameter(error.to_string()))?;
        self.component.check(&list)?;
        if let Some(message) = messages.iter().find(|message| message.topic.is_empty()) {
            return Err(wit::Error::BadParameter(format!("a message has no topic (key {:?})", message.key)));
        }
        // What librdkafka still has when the call is cut off stays charged until it is given up.
        let charged = messages.iter().map(charged).sum::<usize>();
        let held = self.call.hold(Resource::HostBytes, u64::try_from(charged).unwrap_or(u64::MAX));
        let held = Arc::new(held.map_err(|exceeded| wit::Error::BadParameter(exceeded.to_string()))?);
        let _wait = self.waits.begin(format!("Kafka at {list} to store {} messages", messages.len()));
        let _turn = self.turns.acquire().await.map_err(failed)?;
        let producer = self.component.producers.get(&list)?;
        producer.check_advertised(&list).await?;
        let mut stored = Vec::with_capacity(messages.len());
        for messages in messages.chunks(MESSAGES_AT_ONCE) {
            self.send_some(&producer, messages, &held, &mut stored).await?;
        }
        Ok(stored)
    }

    async fn send_some(
        &self,
        producer: &Producer,
        messages: &[wit::Message],
        held: &Arc<Held>,
        stored: &mut Vec<wit::Delivery>,
    ) -> Result<(), wit::Error> {
        let gate = self.component.gate.as_ref();
        let start = Instant::now();
        let mut deliveries = Vec::with_capacity(messages.len());
        for message in messages {
            if let Some(gate) = gate {
                gate.room(&message.topic).await;
            }
            deliveries.push(enqueue(producer, message, held).await?);
        }
        let mut result = Ok(());
        for (delivered, message) in join_all(deliveries).await.into_iter().zip(messages) {
            let delivered = delivered.map_err(failed).and_then(|delivered| outcome(delivered, producer, start));
            match delivered {
                Ok(delivery) => {
                    if let Some(gate) = gate {
                        gate.stored(&message.topic, delivery.partition, delivery.offset, bytes(message));
                    }
                    stored.push(delivery);
                }
                // The gate must know of those that are stored behind it.
                Err(error) => result = result.and(Err(error)),
            }
        }
        result
    }
}

/// What a guest is told of a record; one that nobody took because its broker may not be reached is
/// not allowed.
fn outcome(delivered: Delivered, producer: &Producer, start: Instant) -> Result<wit::Delivery, wit::Error> {
    delivered.map_err(|undelivered| match producer.admission.refused_since(start) {
        Some(refused) if undelivered.is_local => wit::Error::NotAllowed(refused),
        _ => failed(undelivered.reason),
    })
}

fn bytes(message: &wit::Message) -> usize {
    message.key.as_ref().map_or(0, Vec::len) + message.value.as_ref().map_or(0, Vec::len)
}

/// What the message makes the host hold.
fn charged(message: &wit::Message) -> usize {
    let headers = message.headers.iter().map(|(name, value)| HEADER_OVERHEAD + name.len() + value.len());
    MESSAGE_OVERHEAD + message.topic.len() + bytes(message) + headers.sum::<usize>()
}

/// Puts the message into the producer's queue, waiting while it is full.
async fn enqueue(
    producer: &Producer,
    message: &wit::Message,
    held: &Arc<Held>,
) -> Result<oneshot::Receiver<Delivered>, wit::Error> {
    loop {
        match producer.client.produce(message, Arc::clone(held)) {
            Ok(delivery) => return Ok(delivery),
            Err(NotQueued::QueueFull) => tokio::time::sleep(QUEUE_FULL_PAUSE).await,
            Err(NotQueued::Bad(reason)) => return Err(wit::Error::BadParameter(reason)),
            Err(NotQueued::Failed(reason)) => return Err(failed(reason)),
        }
    }
}
