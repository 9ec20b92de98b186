//! Connections, and how they are cleaned before another call gets them.
//!
//! A call that trapped or ran out of time may leave an open transaction, a lock, a setting or a
//! running statement behind. A connection goes back to the pool only after `DISCARD ALL` has
//! succeeded on it, which PostgreSQL refuses inside a transaction; else it is closed, and
//! PostgreSQL rolls back. That happens behind the call's back, not in its time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_postgres::config::Host;
use tokio_postgres::{Client, Config};

use super::query::Failure;
use crate::factors::outbound_networking::{AllowedHosts, Destination};
use crate::postgres::{Address, Authorities};

/// How long a connection may take to open, where the address does not say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a call waits for a connection while all are in use.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// How long cleaning may take before the connection is given up.
const CLEAN_TIMEOUT: Duration = Duration::from_secs(5);
/// A silent network is noticed within about this time.
const TCP_TIMEOUT: Duration = Duration::from_secs(20);

/// Connections of one component to one address.
pub struct Pool {
    address: Address,
    idle: Mutex<Vec<Client>>,
    permits: Arc<Semaphore>,
}

impl Pool {
    /// Checks the address against the allow-list; nothing connects yet.
    pub fn new(
        address: &str,
        authorities: Option<&Authorities>,
        allowed: &AllowedHosts,
        connections_max: usize,
    ) -> Result<Self, Failure> {
        let mut address =
            Address::parse(address, authorities).map_err(|error| Failure::Connection(error.to_string()))?;
        check(&address.config, allowed)?;
        let config = &mut address.config;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        config.keepalives_idle(TCP_TIMEOUT).tcp_user_timeout(TCP_TIMEOUT);
        if config.get_application_name().is_none() {
            config.application_name("exagg");
        }
        Ok(Self { address, idle: Mutex::default(), permits: Arc::new(Semaphore::new(connections_max)) })
    }

    /// A clean connection: an idle one, or a new one.
    pub async fn get(self: &Arc<Self>) -> Result<PooledClient, Failure> {
        let permit = tokio::time::timeout(WAIT_MAX, Arc::clone(&self.permits).acquire_owned())
            .await
            .ok()
            .and_then(Result::ok)
            .ok_or_else(|| Failure::Connection(format!("all connections were in use for {} s", WAIT_MAX.as_secs())))?;
        let client = match self.take_idle() {
            Some(client) => client,
            None => self.connect().await?,
        };
        Ok(PooledClient {
            client: Some(client),
            permit: Some(permit),
            pool: Arc::clone(self),
            in_flight: AtomicUsize::new(0),
        })
    }

    fn take_idle(&self) -> Option<Client> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|client| !client.is_closed());
        idle.pop()
    }

    fn put_idle(&self, client: Client) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(client);
    }

    async fn connect(&self) -> Result<Client, Failure> {
        let Address { config, tls } = &self.address;
        let (client, connection) =
            config.connect(tls.clone()).await.map_err(|error| Failure::Connection(super::query::describe(&error)))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("a connection to PostgreSQL ended: {error}");
            }
        });
        Ok(client)
    }
}

fn check(config: &Config, allowed: &AllowedHosts) -> Result<(), Failure> {
    let refuse = |error: String| Err(Failure::Connection(error));
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return refuse("the address names no host".to_owned());
    }
    let ports = config.get_ports();
    let port = |index: usize| ports.get(index).or(ports.first()).copied().unwrap_or(5432);
    let mut names = Vec::new();
    for (index, host) in config.get_hosts().iter().enumerate() {
        match host {
            Host::Tcp(name) => names.push((name.clone(), port(index))),
            #[cfg(unix)]
            Host::Unix(_) => return refuse("unix sockets are not served: name a host".to_owned()),
        }
    }
    // An address given beside the name is where the connection really goes.
    names.extend(config.get_hostaddrs().iter().enumerate().map(|(index, ip)| (ip.to_string(), port(index))));
    for (host, port) in &names {
        allowed
            .check(Destination { scheme: "postgres", host, port: *port })
            .or_else(|error| refuse(error.to_string()))?;
    }
    Ok(())
}

/// A connection that one call holds.
pub struct PooledClient {
    /// Some until it is dropped.
    client: Option<Client>,
    permit: Option<OwnedSemaphorePermit>,
    pool: Arc<Pool>,
    /// Statements begun and not seen to end: not 0 at the end of a call that was cut off.
    in_flight: AtomicUsize,
}

impl PooledClient {
    /// Runs one statement and notes whether its end was seen.
    pub async fn run<R>(&self, statement: impl AsyncFnOnce(&Client) -> R) -> Option<R> {
        let client = self.client.as_ref()?;
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let result = statement(client).await;
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        Some(result)
    }
}

impl Drop for PooledClient {
    fn drop(&mut self) {
        let (Some(client), permit) = (self.client.take(), self.permit.take()) else { return };
        let cut_off = self.in_flight.load(Ordering::Relaxed) > 0;
        let pool = Arc::clone(&self.pool);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            if cut_off {
                // The statement must not go on holding locks; closing alone does not end it.
                let _ =
                    tokio::time::timeout(CLEAN_TIMEOUT, client.cancel_token().cancel_query(pool.address.tls.clone()))
                        .await;
            } else if let Ok(Ok(())) = tokio::time::timeout(CLEAN_TIMEOUT, client.batch_execute("DISCARD ALL")).await {
                pool.put_idle(client);
            }
            drop(permit);
        });
    }
}
