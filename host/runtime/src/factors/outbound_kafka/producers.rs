//! One component's producers: one a broker list, a few at a time, none that is not used.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use exagg_clients::kafka::{ClientError, Properties, settings};
use exagg_common::template::Secret;

use super::admission::Admission;
use super::brokers::BrokerList;
use super::sys;
use crate::budget::{Account, Resource};
use crate::factors::bindings::exagg::kafka::producer::Error;
use crate::factors::outbound_networking::AllowedHosts;

/// Producers that a component may have at a time: what its account's limit should be.
pub const PRODUCERS_MAX: u64 = 4;
/// How long a producer stays that nobody uses.
pub const IDLE_MAX: Duration = Duration::from_secs(300);

/// How long the cluster may take to say who its brokers are.
const METADATA_TIMEOUT: Duration = Duration::from_secs(10);

/// What every producer has, whatever the operator's properties say.
const FIXED: [(&str, &str); 5] = [
    ("enable.idempotence", "true"),
    // How long a record may take to be acknowledged, retries included.
    ("message.timeout.ms", "20000"),
    ("linger.ms", "2"),
    // The partition that Kafka's own clients choose for a key.
    ("partitioner", "murmur2_random"),
    // A broker that the cluster names anew is heard of soon, and asked for.
    ("topic.metadata.refresh.interval.ms", "30000"),
];

/// Never shared between components: each has its own allow-list.
pub struct Producers {
    properties: Arc<Properties>,
    allowed: Arc<AllowedHosts>,
    account: Arc<Account>,
    idle_max: Duration,
    open: Mutex<HashMap<BrokerList, Entry>>,
}

struct Entry {
    producer: Arc<Producer>,
    used: Instant,
}

/// A client, and what its cluster is known to be.
pub struct Producer {
    /// The handle of librdkafka; its client ends soon after the last clone is dropped.
    pub client: sys::Producer,
    /// Asked before each connection of the client; it knows which brokers were refused, and when.
    pub admission: Arc<Admission>,
    /// When all brokers that the cluster names were allowed.
    checked: Mutex<Option<Instant>>,
}

impl Producers {
    /// No producer yet; each is opened at its first use, and freed once it was idle for `idle_max`.
    pub fn new(
        properties: Arc<Properties>,
        allowed: Arc<AllowedHosts>,
        account: Arc<Account>,
        idle_max: Duration,
    ) -> Arc<Self> {
        Arc::new(Self { properties, allowed, account, idle_max, open: Mutex::default() })
    }

    /// The clients that are open now.
    pub fn clients(&self) -> Vec<sys::Producer> {
        self.with_open(|open| open.values().map(|entry| entry.producer.client.clone()).collect())
    }

    fn with_open<R>(&self, work: impl FnOnce(&mut HashMap<BrokerList, Entry>) -> R) -> R {
        work(&mut self.open.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The producer of the list; a new one goes by itself when it is not used.
    pub fn get(self: &Arc<Self>, list: &BrokerList) -> Result<Arc<Producer>, Error> {
        let (producer, is_new) = self.with_open(|open| {
            if let Some(entry) = open.get_mut(list) {
                entry.used = Instant::now();
                return Ok((Arc::clone(&entry.producer), false));
            }
            let producer = Arc::new(self.make(list)?);
            open.insert(list.clone(), Entry { producer: Arc::clone(&producer), used: Instant::now() });
            Ok((producer, true))
        })?;
        if is_new {
            self.free_when_idle(list.clone());
        }
        Ok(producer)
    }

    fn make(&self, list: &BrokerList) -> Result<Producer, Error> {
        let held = self.account.hold(Resource::Producers, 1);
        let held = held.map_err(|exceeded| Error::BadParameter(exceeded.to_string()))?;
        let mut properties = settings(&list.to_string(), &self.properties);
        for (name, value) in FIXED {
            properties.insert(name.to_owned(), Secret::new(value));
        }
        // Of librdkafka's lines those that warn, as of the host's other clients.
        properties.entry("log_level".to_owned()).or_insert_with(|| Secret::new("4"));
        let who = format!("producer of {}", self.account.owner());
        let admission = Arc::new(Admission::new(&who, Arc::clone(&self.allowed)));
        let client = sys::Producer::open(&who, &properties, Arc::clone(&admission), held);
        let client = client.map_err(|error: ClientError| {
            tracing::error!(client = %who, "{error}");
            Error::DeliveryFailed(error.for_guests())
        })?;
        Ok(Producer { client, admission, checked: Mutex::default() })
    }

    fn free_when_idle(self: &Arc<Self>, list: BrokerList) {
        let (producers, mut wait) = (Arc::downgrade(self), self.idle_max);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(wait).await;
                let Some(producers) = producers.upgrade() else { return };
                match producers.free_if_idle(&list) {
                    Some(left) => wait = left,
                    None => return,
                }
            }
        });
    }

    /// Frees the list's producer, or says when to look again.
    fn free_if_idle(&self, list: &BrokerList) -> Option<Duration> {
        self.with_open(|open| {
            let entry = open.get_mut(list)?;
            // A send that is under way holds it.
            if Arc::strong_count(&entry.producer) > 1 {
                entry.used = Instant::now();
            }
            let left = self.idle_max.saturating_sub(entry.used.elapsed());
            if left.is_zero() {
                open.remove(list);
                return None;
            }
            Some(left)
        })
    }
}

impl Producer {
    /// The brokers that the cluster names are where the records go: one that is not allowed is a
    /// clear error before the first record. It is not connected to in any case.
    pub async fn check_advertised(&self, list: &BrokerList) -> Result<(), Error> {
        let checked = *self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        // A refusal since then: the cluster names others now.
        if checked.is_some_and(|at| self.admission.refused_since(at).is_none()) {
            return Ok(());
        }
        let (client, asked) = (self.client.clone(), Instant::now());
        let advertised = tokio::task::spawn_blocking(move || client.advertised(METADATA_TIMEOUT))
            .await
            .map_err(|error| Error::DeliveryFailed(error.to_string()))?
            // A cluster whose only broker goes by another name is away once the client knows that name.
            .map_err(|error| match self.admission.last_refusal() {
                Some(refused) => Error::NotAllowed(refused),
                None => Error::DeliveryFailed(format!("the cluster at {list} does not answer: {error}")),
            })?;
        for (host, port) in &advertised {
            self.admission.check(host, *port).map_err(|error| Error::NotAllowed(error.to_string()))?;
        }
        *self.checked.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked);
        Ok(())
    }
}
