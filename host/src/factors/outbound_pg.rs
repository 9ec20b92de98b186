//! `spin:postgres` 3.0 and 4.2, over pooled connections that carry nothing from call to call.
//!
//! # Layout
//! - [`pool`]: connections, and how they are cleaned before another call gets them.
//! - [`query`]: one statement, and what can go wrong.
//! - [`types`]: PostgreSQL's values and the interface's.
//! - [`host`]: the interfaces.

mod host;
mod pool;
mod query;
pub use self::query::describe;
mod types;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, bail};
use wasmtime::component::{HasData, Linker, ResourceTable};

use self::pool::Pool;
pub use self::pool::PooledClient;
use super::outbound_networking::AllowedHosts;
use super::{Configure, Factor};
use crate::app::ComponentSpec;
use crate::bindings::imports::spin;
use crate::budget::Account;
use crate::instance::State;
use crate::postgres::Authorities;

pub struct OutboundPgFactor {
    /// Connections of one component to one address.
    connections_max: usize,
    authorities: Option<Authorities>,
    pools: Arc<Mutex<Pools>>,
}

/// Pools are kept apart by component: what one leaves behind no other can meet.
type Pools = HashMap<(Arc<str>, String, Option<Authorities>), Arc<Pool>>;

/// One component's allow-list and pools.
#[derive(Clone)]
pub struct ComponentPg {
    id: Arc<str>,
    allowed: Arc<AllowedHosts>,
    connections_max: usize,
    authorities: Option<Authorities>,
    pools: Arc<Mutex<Pools>>,
}

pub type InstancePg = ComponentPg;

/// The `connection` resource: an address that was checked, and its client.
#[derive(Clone)]
pub struct Connection(Arc<PooledClient>);

/// The `connection-builder` resource.
#[derive(Clone)]
pub struct ConnectionBuilder {
    address: String,
    /// The guest's own, in place of the host's.
    authorities: Option<Authorities>,
}

impl OutboundPgFactor {
    pub fn new(connections_max: usize, authorities: Option<Authorities>) -> Self {
        Self { connections_max, authorities, pools: Arc::default() }
    }
}

impl Factor for OutboundPgFactor {
    type Component = ComponentPg;
    type Instance = InstancePg;

    fn init(linker: &mut Linker<State>) -> wasmtime::Result<()> {
        fn view(state: &mut State) -> View<'_> {
            View { table: &mut state.table, pg: &state.factors.pg }
        }
        spin::postgres3_0_0::postgres::add_to_linker::<_, Self>(linker, view)?;
        spin::postgres4_2_0::postgres::add_to_linker::<_, Self>(linker, view)
    }

    /// A database that a variable names is checked now: a wrong one must not show first when a
    /// function goes there.
    fn configure(&self, _: &ComponentSpec, context: &Configure<'_>) -> Result<ComponentPg> {
        for (name, value) in context.values.iter().filter(|(_, value)| is_address(value.expose())) {
            let refused = Pool::new(value.expose(), self.authorities.as_ref(), &context.allowed_hosts, 1).err();
            if let Some(query::Failure::Connection(reason)) = refused {
                bail!("variable {name}: {reason}");
            }
        }
        Ok(ComponentPg {
            id: context.component_id.into(),
            allowed: Arc::clone(&context.allowed_hosts),
            connections_max: self.connections_max,
            authorities: self.authorities.clone(),
            pools: Arc::clone(&self.pools),
        })
    }

    fn prepare(&self, component: &ComponentPg, _: &Arc<Account>) -> InstancePg {
        component.clone()
    }
}

fn is_address(text: &str) -> bool {
    text.starts_with("postgres://") || text.starts_with("postgresql://")
}

impl ComponentPg {
    fn pool(&self, address: &str, own: Option<Authorities>) -> Result<Arc<Pool>, query::Failure> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let authorities = own.or_else(|| self.authorities.clone());
        let key = (Arc::clone(&self.id), address.to_owned(), authorities.clone());
        if let Some(pool) = pools.get(&key) {
            return Ok(Arc::clone(pool));
        }
        let pool = Arc::new(Pool::new(address, authorities.as_ref(), &self.allowed, self.connections_max)?);
        pools.insert(key, Arc::clone(&pool));
        Ok(pool)
    }
}

/// The table of open connections, borrowed from the store.
pub struct View<'a> {
    table: &'a mut ResourceTable,
    pg: &'a ComponentPg,
}

impl HasData for OutboundPgFactor {
    type Data<'a> = View<'a>;
}
