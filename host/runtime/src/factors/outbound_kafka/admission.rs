//! Asked before each connection: may the component reach this broker?
//!
//! A cluster names its brokers itself, and may name others later: the list that the guest gave says
//! only where the first connection goes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::factors::outbound_networking::{AllowedHosts, Destination};

/// How often the refusal of one broker is logged: librdkafka tries again every few seconds.
const LOG_EVERY: Duration = Duration::from_secs(300);
/// Refused brokers that are known at a time: the cluster may name any number.
const REFUSED_MAX: usize = 64;

/// One producer's admission.
pub struct Admission {
    who: String,
    allowed: Arc<AllowedHosts>,
    refused: Mutex<HashMap<(String, u16), Refusal>>,
}

struct Refusal {
    last: Instant,
    logged: Instant,
    /// What a guest is told.
    reason: String,
}

impl Admission {
    pub fn new(who: &str, allowed: Arc<AllowedHosts>) -> Self {
        Self { who: who.to_owned(), allowed, refused: Mutex::default() }
    }

    /// Whether a connection may be made to the address, as it is about to be resolved.
    pub fn permits(&self, host: &str, port: &str) -> bool {
        // A port that is no number has no entry that permits it.
        let port = port.parse().unwrap_or_default();
        match self.check(host, port) {
            Ok(()) => true,
            Err(reason) => {
                self.note(host, port, reason.to_string());
                false
            }
        }
    }

    /// # Errors
    /// With what a guest may be told.
    pub fn check(&self, host: &str, port: u16) -> anyhow::Result<()> {
        self.allowed.check(Destination { scheme: "kafka", host, port })
    }

    fn note(&self, host: &str, port: u16, reason: String) {
        let now = Instant::now();
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (host.to_owned(), port);
        if let Some(known) = refused.get_mut(&key) {
            known.last = now;
            if now.duration_since(known.logged) < LOG_EVERY {
                return;
            }
            known.logged = now;
        } else {
            if refused.len() >= REFUSED_MAX {
                refused.clear();
            }
            refused.insert(key, Refusal { last: now, logged: now, reason: reason.clone() });
        }
        drop(refused);
        tracing::warn!(client = %self.who, "no connection is made to a broker that the cluster names: {reason}");
    }

    /// The last refusal of all.
    pub fn last_refusal(&self) -> Option<String> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.values().max_by_key(|refusal| refusal.last).map(|refusal| refusal.reason.clone())
    }

    /// The last refusal since then.
    pub fn refused_since(&self, since: Instant) -> Option<String> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let last = refused.values().filter(|refusal| refusal.last >= since).max_by_key(|refusal| refusal.last);
        last.map(|refusal| refusal.reason.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use exagg_common::template::Variables;

    #[test]
    fn names_and_ports_that_are_not_allowed_are_refused_and_remembered() {
        let entries = ["kafka://a:1".to_owned(), "kafka://127.0.0.0/8:9092".to_owned()];
        let allowed = AllowedHosts::parse("a", &entries, &Variables::default()).unwrap();
        let admission = Admission::new("test", Arc::new(allowed));
        let start = Instant::now();
        assert!(admission.permits("A", "1") && admission.permits("127.0.0.1", "9092"));
        assert_eq!(admission.refused_since(start), None);
        for (host, port) in [("a", "2"), ("b", "1"), ("a", "x"), ("a", ""), ("localhost", "9092"), ("", "1")] {
            assert!(!admission.permits(host, port), "{host}:{port}");
        }
        assert!(!admission.permits("b", "7"));
        assert!(admission.refused_since(start).unwrap().contains("b:7"));
        assert_eq!(admission.refused_since(Instant::now() + Duration::from_secs(1)), None);
    }

    #[test]
    fn a_cluster_that_names_many_brokers_does_not_fill_the_memory() {
        let admission = Admission::new("test", Arc::default());
        for port in 0..1000 {
            assert!(!admission.permits("a", &port.to_string()));
        }
        assert!(admission.refused.lock().unwrap().len() <= REFUSED_MAX);
    }
}
