//! Connections, and how they are cleaned before another call gets them.
//!
//! A call that trapped or ran out of time may leave an open transaction, a lock, a setting or a
//! running statement behind. A connection goes back to the pool only after `DISCARD ALL` has
//! succeeded on it, which PostgreSQL refuses inside a transaction; else it is closed, and
//! PostgreSQL rolls back. That happens behind the call's back, not in its time. Where instances of a component serve
//! further calls (`reuse` of a trigger), a connection that they gave back does too, as it is, for calls of the same version
//! alone: whoever keeps its memory from call to call may keep this as well.
//!
//! A component has as many connections as its limit says, over all its addresses: they are charged to its account
//! until they are really closed, and one that is idle makes room for one that is wanted.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use exagg_clients::postgres::{Address, AddressError, Authorities, Target};
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_postgres::config::Host;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config};
use tokio_util::task::AbortOnDropHandle;

use super::all::AllPools;
use super::failure::{Failure, Refused};
use super::idle::{IDLE_MAX, Idle};
use crate::budget::{Account, Held, Limits, Resource};
use crate::factors::outbound_networking::{AllowedHosts, Destination};
use crate::factors::waits::Waits;

/// How long a connection may take to open, where the address does not say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a call waits for a connection while all are in use.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// How long cleaning may take before the connection is given up.
const CLEAN_TIMEOUT: Duration = Duration::from_secs(5);
/// A silent network is noticed within about this time.
const TCP_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a connection takes to open until the server is taken for one that has none left: a pooler that lends
/// sessions lets a client wait.
const SHORT_AFTER: Duration = Duration::from_millis(500);
/// How long a call tries where the server has no connection left, and the pause between: one that is closed is the
/// server's a moment later.
const FULL_MAX: Duration = Duration::from_secs(2);
const FULL_PAUSE: Duration = Duration::from_millis(20);
/// How often a call that waits for room looks, beside being told.
const ROOM_INTERVAL: Duration = Duration::from_millis(100);

impl From<AddressError> for Failure {
    fn from(error: AddressError) -> Self {
        Self::Connection(error.to_string())
    }
}

/// One address of a component, in all its spellings.
pub struct Pool {
    target: Target,
    /// Its hosts and ports, for messages.
    place: String,
    authorities: Option<Authorities>,
    address: Address,
}

impl Pool {
    /// Checks the address against the allow-list; nothing connects yet.
    pub fn new(address: &str, authorities: Option<&Authorities>, allowed: &AllowedHosts) -> Result<Self, Failure> {
        let target = Target::parse(address, authorities.is_some())?;
        Self::of(target, authorities.cloned(), allowed)
    }

    fn of(target: Target, authorities: Option<Authorities>, allowed: &AllowedHosts) -> Result<Self, Failure> {
        check(&target.config, allowed)?;
        let mut config = target.config.clone();
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        config.keepalives_idle(TCP_TIMEOUT).tcp_user_timeout(TCP_TIMEOUT);
        if config.get_application_name().is_none() {
            config.application_name("exagg");
        }
        let address = Address { config, tls: target.connector(authorities.as_ref())? };
        Ok(Self { place: exagg_clients::postgres::place(&target.config), target, authorities, address })
    }
}

/// All connections of one component.
pub struct Pools {
    allowed: Arc<AllowedHosts>,
    /// One permit a connection in use.
    permits: Arc<Semaphore>,
    /// One unit a connection, used or idle.
    account: Arc<Account>,
    closed: Arc<Notify>,
    /// One has become idle.
    returned: Notify,
    state: Mutex<State>,
    /// Those of the host's other components.
    all: Arc<AllPools>,
    /// Where connections are driven: the host's own threads, also for a call that runs behind others.
    runtime: Option<Handle>,
}

#[derive(Default)]
struct State {
    pools: Vec<Arc<Pool>>,
    idle: Idle<Pool, Left>,
    /// The address that was asked for last, and its pool: to take one apart costs more than all else of a connection.
    recent: Option<(String, Option<Authorities>, Weak<Pool>)>,
    /// Whether a task closes what stays idle.
    is_swept: bool,
}

/// A connection that nobody uses.
struct Left {
    client: Client,
    /// The version of the component that it is as it was left for; none: it is clean.
    by: Option<u64>,
}

impl State {
    /// Closes what has been idle for too long; a pool without connections goes.
    fn sweep(&mut self) {
        self.idle.sweep(Instant::now(), |left| !left.client.is_closed());
        self.pools.retain(|pool| Arc::strong_count(pool) > 1);
    }

    /// The pool of an address in any of its spellings.
    fn find(
        &mut self,
        address: &str,
        authorities: Option<Authorities>,
        allowed: &AllowedHosts,
    ) -> Result<Arc<Pool>, Failure> {
        if let Some((text, with, pool)) = &self.recent
            && text == address
            && *with == authorities
            && let Some(pool) = pool.upgrade()
        {
            return Ok(pool);
        }
        let target = Target::parse(address, authorities.is_some())?;
        let pool = self.pool(target, authorities.clone(), allowed)?;
        self.recent = Some((address.to_owned(), authorities, Arc::downgrade(&pool)));
        Ok(pool)
    }

    fn pool(
        &mut self,
        target: Target,
        authorities: Option<Authorities>,
        allowed: &AllowedHosts,
    ) -> Result<Arc<Pool>, Failure> {
        self.sweep();
        let known = self.pools.iter().find(|pool| pool.target == target && pool.authorities == authorities);
        if let Some(pool) = known {
            return Ok(Arc::clone(pool));
        }
        let pool = Arc::new(Pool::of(target, authorities, allowed)?);
        self.pools.push(Arc::clone(&pool));
        Ok(pool)
    }
}

impl Pools {
    /// Whoever makes them adds them to all of the host's.
    pub fn new(connections_max: usize, account: &Arc<Account>, allowed: Arc<AllowedHosts>, all: Arc<AllPools>) -> Self {
        let limits = Limits::NONE.with(Resource::Connections, connections_max as u64);
        Self {
            allowed,
            permits: Arc::new(Semaphore::new(connections_max)),
            account: account.below(&format!("the connections of {}", account.owner()), limits),
            closed: Arc::default(),
            returned: Notify::new(),
            state: Mutex::default(),
            all,
            runtime: Handle::try_current().ok(),
        }
    }

    /// A clean connection, or one that this version left: an idle one, or a new one.
    pub async fn get(
        self: &Arc<Self>,
        address: &str,
        authorities: Option<Authorities>,
        waits: &Waits,
        version: Option<u64>,
    ) -> Result<PooledClient, Failure> {
        let pool = self.state().find(address, authorities, &self.allowed)?;
        let _wait = waits.begin_postgres(format!("a connection to PostgreSQL at {}", pool.place));
        let deadline = tokio::time::Instant::now() + WAIT_MAX;
        let permit = tokio::time::timeout_at(deadline, Arc::clone(&self.permits).acquire_owned())
            .await
            .ok()
            .and_then(Result::ok)
            .ok_or_else(|| Failure::Connection(format!("all connections were in use for {} s", WAIT_MAX.as_secs())))?;
        let client = match self.idle(&pool, version).await {
            Some(client) => client,
            None => self.open_somehow(&pool, deadline).await?,
        };
        Ok(PooledClient {
            client: Some(client),
            permit: Some(permit),
            pool,
            pools: Arc::clone(self),
            in_flight: AtomicUsize::new(0),
            version,
            is_given_back: AtomicBool::new(false),
        })
    }

    /// One that is idle. Where another version left it, it is cleaned first.
    async fn idle(&self, pool: &Arc<Pool>, version: Option<u64>) -> Option<Client> {
        loop {
            let Left { client, by } = self.take_idle(pool)?;
            if by.is_none() || by == version || is_cleaned(&client).await {
                return Some(client);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_idle(&self, pool: &Arc<Pool>) -> Option<Left> {
        let mut state = self.state();
        // The call holds this pool, so sweeping does not drop it.
        state.sweep();
        state.idle.take(pool)
    }

    /// Leave to open one more connection: an idle one is closed where all are open.
    async fn room(&self, deadline: tokio::time::Instant) -> Result<Held, Failure> {
        loop {
            if self.account.used(Resource::Connections) >= self.account.limit(Resource::Connections) {
                let oldest = self.state().idle.take_oldest();
                drop(oldest);
            }
            let refused = match self.account.hold(Resource::Connections, 1) {
                Ok(held) => return Ok(held),
                Err(refused) => refused,
            };
            if tokio::time::Instant::now() >= deadline {
                return Err(Failure::Connection(refused.to_string()));
            }
            // What was told to close is charged until it is closed.
            let _ = tokio::time::timeout(ROOM_INTERVAL, self.closed.notified()).await;
        }
    }

    /// A connection, where the server may have none left: then those that nobody uses are closed, one by one, of whatever
    /// component, until it has.
    async fn open_somehow(&self, pool: &Arc<Pool>, deadline: tokio::time::Instant) -> Result<Client, Failure> {
        let full_until = deadline.min(tokio::time::Instant::now() + FULL_MAX);
        loop {
            match self.open(pool, self.room(deadline).await?).await {
                Err(Refused::Full(_)) if tokio::time::Instant::now() < full_until => {
                    self.all.close_one();
                    tokio::time::sleep(FULL_PAUSE).await;
                }
                opened => return opened.map_err(Refused::into_failure),
            }
        }
    }

    /// A new connection, or one that a call gives back meanwhile. While it does not come, connections that nobody uses
    /// are closed, one by one, of whatever component: behind a pooler they may be what is waited for.
    async fn open(&self, pool: &Arc<Pool>, held: Held) -> Result<Client, Refused> {
        let mut connecting = std::pin::pin!(self.connect(pool, held));
        loop {
            let is_short = tokio::select! {
                client = &mut connecting => return client,
                () = self.returned.notified() => false,
                () = tokio::time::sleep(SHORT_AFTER) => true,
            };
            if let Some(client) = self.idle(pool, None).await {
                return Ok(client);
            }
            if is_short {
                self.all.close_one();
            }
        }
    }

    /// Closes the connection that nobody has used for longest; false when none is idle.
    pub fn close_one(&self) -> bool {
        self.state().idle.take_oldest().is_some()
    }

    async fn connect(&self, pool: &Pool, held: Held) -> Result<Client, Refused> {
        let Address { config, tls } = pool.address.clone();
        let opening = async move { config.connect(tls).await };
        let runtime = self.runtime.clone().unwrap_or_else(Handle::current);
        let opened = AbortOnDropHandle::new(runtime.spawn(opening)).await;
        let (client, connection) = opened
            .map_err(|error| Refused::Other(Failure::Other(error.to_string())))?
            .map_err(|error| self.refused(pool, &error))?;
        let closed = Arc::clone(&self.closed);
        runtime.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("a connection to PostgreSQL ended: {error}");
            }
            drop(held);
            closed.notify_one();
        });
        // A pooler takes clients in before it has a session for them: the first statement waits for it.
        client.batch_execute("SELECT 1").await.map_err(|error| self.refused(pool, &error))?;
        Ok(client)
    }

    fn refused(&self, pool: &Pool, error: &tokio_postgres::Error) -> Refused {
        let why = exagg_clients::postgres::describe(error);
        let failure = Failure::Connection(format!("{} (component {}): {why}", pool.place, self.allowed.component()));
        match error.code() {
            Some(&SqlState::TOO_MANY_CONNECTIONS) => Refused::Full(failure),
            _ => Refused::Other(failure),
        }
    }

    fn put_idle(self: &Arc<Self>, pool: Arc<Pool>, left: Left) {
        let mut state = self.state();
        state.sweep();
        state.idle.put(pool, left, Instant::now());
        self.returned.notify_one();
        if !std::mem::replace(&mut state.is_swept, true) {
            // A connection may be given back where no runtime is entered: on a guest's thread.
            let sweep = sweep(Arc::downgrade(self));
            match &self.runtime {
                Some(runtime) => drop(runtime.spawn(sweep)),
                None => drop(tokio::spawn(sweep)),
            }
        }
    }
}

/// Leaves nothing of a session; false where that cannot be.
async fn is_cleaned(client: &Client) -> bool {
    matches!(tokio::time::timeout(CLEAN_TIMEOUT, client.batch_execute("DISCARD ALL")).await, Ok(Ok(())))
}

/// Closes what stays idle, as long as anything is.
async fn sweep(pools: Weak<Pools>) {
    loop {
        tokio::time::sleep(IDLE_MAX / 4).await;
        let Some(pools) = pools.upgrade() else { return };
        let mut state = pools.state();
        state.sweep();
        if state.idle.is_empty() {
            state.is_swept = false;
            return;
        }
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
    pools: Arc<Pools>,
    /// Statements begun and not seen to end: not 0 at the end of a call that was cut off.
    in_flight: AtomicUsize,
    /// The version whose instances serve further calls, if they do.
    version: Option<u64>,
    /// The guest gave it back itself: it did not end by the way.
    is_given_back: AtomicBool,
}

impl PooledClient {
    /// The guest gives it back.
    pub fn give_back(&self) {
        self.is_given_back.store(true, Ordering::Relaxed);
    }

    /// Runs one statement and notes whether its end was seen.
    pub async fn run<R>(&self, statement: impl AsyncFnOnce(&Client) -> R) -> Option<R> {
        let client = self.client.as_ref()?;
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let result = statement(client).await;
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        Some(result)
    }

    /// The server's hosts and ports.
    pub fn place(&self) -> &str {
        &self.pool.place
    }

    /// Ends the statement that runs; its stream of rows then ends with an error.
    pub async fn end(&self, client: &Client) {
        end(client, &self.pool).await;
    }
}

async fn end(client: &Client, pool: &Pool) {
    let token = client.cancel_token();
    // Where that cannot be said, the statement's end is waited for.
    let _ = tokio::time::timeout(CLEAN_TIMEOUT, token.cancel_query(pool.address.tls.clone())).await;
}

impl Drop for PooledClient {
    fn drop(&mut self) {
        let (Some(client), permit) = (self.client.take(), self.permit.take()) else { return };
        let cut_off = self.in_flight.load(Ordering::Relaxed) > 0;
        let (pool, pools) = (Arc::clone(&self.pool), Arc::clone(&self.pools));
        let by = self.version.filter(|_| self.is_given_back.load(Ordering::Relaxed));
        if by.is_some() && !cut_off {
            pools.put_idle(pool, Left { client, by });
            return;
        }
        let Some(runtime) = self.pools.runtime.clone().or_else(|| Handle::try_current().ok()) else { return };
        runtime.spawn(async move {
            if cut_off {
                // The statement must not go on holding locks; closing alone does not end it.
                end(&client, &pool).await;
            } else if is_cleaned(&client).await {
                pools.put_idle(pool, Left { client, by: None });
            }
            drop(permit);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use exagg_common::template::Variables;

    fn allowed() -> Arc<AllowedHosts> {
        Arc::new(AllowedHosts::parse("a", &["postgres://db".to_owned()], &Variables::default()).unwrap())
    }

    /// Take out: the comparison of targets (compare the texts).
    #[test]
    fn spellings_of_one_address_share_a_pool_and_pools_without_connections_go() {
        let (mut state, allowed) = (State::default(), allowed());
        let mut pool = |text: &str, own: Option<&str>| {
            let authorities = own.map(Authorities::from);
            let target = Target::parse(text, authorities.is_some()).unwrap();
            state.pool(target, authorities, &allowed).map(|pool| (pool, state.pools.len()))
        };
        let (first, _) = pool("host=db user=u password=p", None).unwrap();
        let (second, count) = pool(" password = 'p'  user=u host=db ", None).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(count, 1);
        let (other, count) = pool("host=db user=u password=q", None).unwrap();
        assert!(!Arc::ptr_eq(&first, &other));
        assert_eq!(count, 2);
        drop((first, second));
        // The one without a user went when the next was asked for.
        assert_eq!(pool("host=db user=u password=r", None).unwrap().1, 2);
        assert!(pool("host=elsewhere", None).is_err());
    }

    /// Take out: the account in `room`.
    #[tokio::test]
    async fn a_component_that_has_all_its_connections_waits_and_gets_the_next_that_closes() {
        let component = Account::root("component a", Limits::NONE);
        let pools = Arc::new(Pools::new(2, &component, allowed(), Arc::default()));
        let deadline = tokio::time::Instant::now();
        let first = pools.room(deadline).await.unwrap();
        let _second = pools.room(deadline).await.unwrap();
        assert_eq!(component.used(Resource::Connections), 2);
        assert!(matches!(pools.room(deadline).await, Err(Failure::Connection(_))));
        let waiting = Arc::clone(&pools);
        let third = tokio::spawn(async move { waiting.room(deadline + WAIT_MAX).await.is_ok() });
        tokio::time::sleep(ROOM_INTERVAL / 10).await;
        drop(first);
        assert!(third.await.unwrap());
    }
}
