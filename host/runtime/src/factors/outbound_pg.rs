//! `spin:postgres` 3.0 and 4.2, over pooled connections that carry nothing from call to call.
//!
//! # Layout
//! - [`pool`]: connections, and how they are cleaned before another call gets them.
//! - [`idle`]: connections that nobody uses; [`all`]: those of all components.
//! - [`query`]: one statement, and what can go wrong.
//! - [`weight`]: what values weigh in the host's memory.
//! - [`types`]: PostgreSQL's values and the interface's.
//! - [`host`]: the interfaces.

mod all;
mod failure;
mod host;
mod idle;
mod pool;
mod query;
mod types;
mod weight;

use std::sync::Arc;

use anyhow::{Result, bail};
use exagg_app::ComponentSpec;
use exagg_clients::postgres::Authorities;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::component::{HasData, Linker, ResourceTable};

use self::all::AllPools;
use self::failure::Failure;
use self::pool::{Pool, PooledClient, Pools};
use self::types::BadParameter;
use super::waits::Waits;
use super::{Call, Configure, Factor, Holds, Link};
use crate::budget::{Account, Held, Resource};
use crate::factors::bindings::spin;

/// Connections that one call may have open, and builders that it may hold.
const OPEN_PER_CALL_MAX: usize = 16;
/// Bytes of an address in a builder.
const ADDRESS_BYTES_MAX: usize = 8 * 1024;
/// Bytes of certificates of authorities that a function brings.
const AUTHORITIES_BYTES_MAX: usize = 256 * 1024;

/// Serves `spin:postgres` to guests, each component with pools of its own.
pub struct OutboundPgFactor {
    /// Connections of one component, over all its addresses.
    connections_max: usize,
    authorities: Option<Authorities>,
    all: Arc<AllPools>,
}

/// One component's pools: what one component leaves behind no other can meet.
pub struct ComponentPg {
    authorities: Option<Authorities>,
    pools: Arc<Pools>,
}

/// One call's way to its component's pools.
#[derive(Clone)]
pub struct InstancePg {
    authorities: Option<Authorities>,
    pools: Arc<Pools>,
    call: Arc<Account>,
    waits: Waits,
    /// See [`Call`].
    reused: Option<u64>,
    connections: Arc<Semaphore>,
    builders: Arc<Semaphore>,
}

/// The `connection` resource: an address that was checked, and its client.
#[derive(Clone)]
pub struct Connection(Arc<Opened>);

/// A connection of a call's.
pub struct Opened {
    client: PooledClient,
    /// Statements and results are charged to it.
    call: Arc<Account>,
    waits: Waits,
    _permit: OwnedSemaphorePermit,
}

/// The `connection-builder` resource. Its constructor has no error to give: one that is refused says so when it is
/// asked to build.
pub struct ConnectionBuilder(Result<Content, Refusal>);

/// Why a builder was not made, in words.
type Refusal = String;

/// What a builder holds, charged to the call.
struct Content {
    address: String,
    /// The guest's own, in place of the host's.
    authorities: Option<(Authorities, Held)>,
    _held: Held,
    _permit: OwnedSemaphorePermit,
}

impl OutboundPgFactor {
    /// `connections_max` is for each component; `authorities` hold where a guest brings none of its own.
    pub fn new(connections_max: usize, authorities: Option<Authorities>) -> Self {
        Self { connections_max, authorities, all: Arc::default() }
    }
}

impl Factor for OutboundPgFactor {
    type Component = ComponentPg;
    type Instance = InstancePg;

    /// A database that a variable names is checked now: a wrong one must not show first when a
    /// function goes there.
    fn configure(&self, _: &ComponentSpec, context: &Configure<'_>) -> Result<ComponentPg> {
        for (name, value) in context.values.iter().filter(|(_, value)| is_address(value.expose())) {
            let refused = Pool::new(value.expose(), self.authorities.as_ref(), &context.allowed_hosts).err();
            if let Some(Failure::Connection(reason)) = refused {
                bail!("variable {name}: {reason}");
            }
        }
        let pools = Arc::new(Pools::new(
            self.connections_max,
            &context.account,
            Arc::clone(&context.allowed_hosts),
            Arc::clone(&self.all),
        ));
        self.all.add(&pools);
        Ok(ComponentPg { authorities: self.authorities.clone(), pools })
    }

    fn prepare(&self, component: &ComponentPg, call: &Call) -> InstancePg {
        InstancePg::new(component, call)
    }
}

impl<S: Holds<InstancePg>> Link<S> for OutboundPgFactor {
    fn link(linker: &mut Linker<S>) -> wasmtime::Result<()> {
        fn view<S: Holds<InstancePg>>(store: &mut S) -> View<'_> {
            let (pg, table) = store.part();
            View { table, pg }
        }
        spin::postgres3_0_0::postgres::add_to_linker::<_, Self>(linker, view)?;
        spin::postgres4_2_0::postgres::add_to_linker::<_, Self>(linker, view)
    }
}

fn is_address(text: &str) -> bool {
    text.starts_with("postgres://") || text.starts_with("postgresql://")
}

impl InstancePg {
    fn new(component: &ComponentPg, call: &Call) -> Self {
        Self {
            authorities: component.authorities.clone(),
            pools: Arc::clone(&component.pools),
            call: Arc::clone(&call.account),
            waits: call.waits.clone(),
            reused: call.reused,
            connections: Arc::new(Semaphore::new(OPEN_PER_CALL_MAX)),
            builders: Arc::new(Semaphore::new(OPEN_PER_CALL_MAX)),
        }
    }

    /// A connection to the address, with the guest's own authorities in place of the host's.
    async fn open(&self, address: &str, own: Option<Authorities>) -> Result<Connection, Failure> {
        let permit = Arc::clone(&self.connections).try_acquire_owned().map_err(|_| {
            Failure::Connection(format!("a call may have {OPEN_PER_CALL_MAX} connections open, and has them"))
        })?;
        let client =
            self.pools.get(address, own.or_else(|| self.authorities.clone()), &self.waits, self.reused).await?;
        let (call, waits) = (Arc::clone(&self.call), self.waits.clone());
        Ok(Connection(Arc::new(Opened { client, call, waits, _permit: permit })))
    }

    fn builder(&self, address: String) -> ConnectionBuilder {
        ConnectionBuilder(self.content(address))
    }

    fn content(&self, address: String) -> Result<Content, Refusal> {
        if address.len() > ADDRESS_BYTES_MAX {
            return Err(format!("the address is longer than {ADDRESS_BYTES_MAX} bytes"));
        }
        let permit = Arc::clone(&self.builders)
            .try_acquire_owned()
            .map_err(|_| format!("a call may hold {OPEN_PER_CALL_MAX} connection builders, and holds them"))?;
        let held =
            self.call.hold(Resource::HostBytes, address.capacity() as u64).map_err(|exceeded| exceeded.to_string())?;
        Ok(Content { address, authorities: None, _held: held, _permit: permit })
    }
}

impl Connection {
    /// The guest gives it back, and its call has not failed so far.
    fn give_back(self) {
        self.0.client.give_back();
    }
}

impl ConnectionBuilder {
    fn set_authorities(&mut self, call: &Arc<Account>, pem: &str) -> Result<(), Failure> {
        let content = self.0.as_mut().map_err(|refusal| Failure::Connection(refusal.clone()))?;
        if pem.len() > AUTHORITIES_BYTES_MAX {
            return Err(Failure::BadParameter(BadParameter::Authorities(AUTHORITIES_BYTES_MAX)));
        }
        // What was set before goes first: it is replaced.
        content.authorities = None;
        let held = call.hold(Resource::HostBytes, pem.len() as u64)?;
        content.authorities = Some((pem.into(), held));
        Ok(())
    }

    fn parts(&self) -> Result<(String, Option<Authorities>), Failure> {
        let content = self.0.as_ref().map_err(|refusal| Failure::Connection(refusal.clone()))?;
        Ok((content.address.clone(), content.authorities.as_ref().map(|(pem, _)| Arc::clone(pem))))
    }
}

/// The table of open connections, borrowed from the store.
pub struct View<'a> {
    table: &'a mut ResourceTable,
    pg: &'a InstancePg,
}

impl HasData for OutboundPgFactor {
    type Data<'a> = View<'a>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Limits;
    use crate::factors::outbound_networking::AllowedHosts;

    fn instance(call: &Arc<Account>) -> InstancePg {
        let pools = Arc::new(Pools::new(16, call, Arc::new(AllowedHosts::default()), Arc::default()));
        let call = Call { account: Arc::clone(call), waits: Waits::default(), reused: None };
        InstancePg::new(&ComponentPg { authorities: None, pools }, &call)
    }

    fn refusal(builder: &ConnectionBuilder) -> String {
        match builder.parts() {
            Err(Failure::Connection(refusal)) => refusal,
            other => panic!("{other:?}"),
        }
    }

    /// Take out: a limit in `content` or in `set_authorities`, or a guard in `Content`.
    #[test]
    fn builders_are_few_and_small_and_charged_as_long_as_they_live() {
        let call = Account::root("the call", Limits::NONE.with(Resource::HostBytes, 1024 * 1024));
        let pg = instance(&call);
        assert!(refusal(&pg.builder("x".repeat(8 << 20))).contains("8192"));
        assert_eq!(call.used(Resource::HostBytes), 0);
        let mut builders: Vec<_> = (0..17).map(|_| pg.builder("x".repeat(8000))).collect();
        assert!(refusal(&builders.pop().unwrap()).contains("16 connection builders"));
        assert_eq!(call.used(Resource::HostBytes), 16 * 8000);
        let pem = "x".repeat(AUTHORITIES_BYTES_MAX);
        assert!(builders[0].set_authorities(&call, &format!("{pem}x")).is_err());
        let set = |builder: &mut ConnectionBuilder| builder.set_authorities(&call, &pem).is_ok();
        // Twice for one: what is replaced is given back.
        assert!(set(&mut builders[0]) && set(&mut builders[0]) && set(&mut builders[1]) && set(&mut builders[2]));
        assert!(!set(&mut builders[3]), "the budget of the call is used up");
        drop(builders);
        assert_eq!(call.used(Resource::HostBytes), 0);
        assert!(pg.builder("host=h".to_owned()).parts().is_ok(), "those that went make room");
    }

    #[tokio::test]
    async fn a_call_has_so_many_connections_and_no_more() {
        let call = Account::root("the call", Limits::NONE);
        let pg = instance(&call);
        let _all = Arc::clone(&pg.connections).try_acquire_many_owned(16).unwrap();
        match pg.open("postgres://h/d", None).await {
            Err(Failure::Connection(refusal)) => assert!(refusal.contains("16 connections"), "{refusal}"),
            _ => panic!("it was opened"),
        }
    }
}
