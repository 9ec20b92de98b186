//! What a component may import: one factor an interface, shaped as Spin shapes its own.
//!
//! A factor may use one that stands before it in the list, never a later one, and reaches the
//! network only after [`outbound_networking::AllowedHosts`] has said yes.

pub mod bindings;
mod handed;
pub mod key_value;
pub mod outbound_http;
pub mod outbound_kafka;
pub mod outbound_networking;
pub mod outbound_pg;
pub mod variables;
pub mod waits;
pub mod wasi;

use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use exagg_app::ComponentSpec;
use exagg_common::template::Variables;
use wasmtime::component::{Linker, ResourceTable};
use wasmtime_wasi::WasiView;
use wasmtime_wasi_http::WasiHttpView;

use self::key_value::KeyValueFactor;
use self::outbound_http::OutboundHttpFactor;
use self::outbound_kafka::OutboundKafkaFactor;
use self::outbound_networking::AllowedHosts;
use self::outbound_pg::OutboundPgFactor;
use self::variables::VariablesFactor;
use self::waits::Waits;
use self::wasi::WasiFactor;
use crate::budget::Account;

/// The host's implementation of one interface.
pub trait Factor {
    /// What one component needs of it, made once an app.
    type Component;
    /// What one instance needs of it, made once a call: this must be cheap.
    type Instance;

    /// Checks and resolves what the manifest says of the component. Must not do I/O: nothing
    /// runs before every component is checked.
    fn configure(&self, spec: &ComponentSpec, context: &Configure<'_>) -> Result<Self::Component>;

    /// Prepares an instance for a call.
    fn prepare(&self, component: &Self::Component, call: &Call) -> Self::Instance;
}

/// A call, as the factors see it.
#[derive(Clone)]
pub struct Call {
    /// Its resources are charged to it.
    pub account: Arc<Account>,
    /// What it waits for.
    pub waits: Waits,
    /// The version of the component, where its instances serve further calls: what they leave in a connection that they
    /// give back is met by calls of this version alone.
    pub reused: Option<u64>,
}

/// A factor that can be linked into stores of this kind. It knows of a store only that it has the factor's own part.
pub trait Link<S>: Factor {
    /// Adds the interface to the linker. Must not do I/O.
    fn link(linker: &mut Linker<S>) -> wasmtime::Result<()>;
}

/// A store that has the part of one factor.
pub trait Holds<I>: Send + 'static {
    /// The factor's own part, and the table of what the guest has open.
    fn part(&mut self) -> (&mut I, &mut ResourceTable);
}

/// What a factor may look at while it configures a component.
pub struct Configure<'a> {
    /// The component's id in the manifest, which names its log files and stands in messages.
    pub component_id: &'a str,
    /// The app's variables.
    pub variables: &'a Variables,
    /// The component's own variables, templates expanded.
    pub values: Arc<Variables>,
    /// The component's `allowed_outbound_hosts`, parsed; it is asked before every connection.
    pub allowed_hosts: Arc<AllowedHosts>,
    /// The component's account: what it makes the host hold is charged to it.
    pub account: Arc<Account>,
}

/// All factors of a host.
pub struct Factors {
    /// WASI without sockets; it decides where output goes.
    pub wasi: WasiFactor,
    /// Outbound `wasi:http`.
    pub http: OutboundHttpFactor,
    /// Outbound `spin:postgres`, with the host's certificates of authorities.
    pub pg: OutboundPgFactor,
    /// Outbound `exagg:kafka/producer`, with the operator's properties.
    pub kafka: OutboundKafkaFactor,
    /// The stores of `spin:key-value`: one file, which all components share.
    pub key_value: KeyValueFactor,
}

/// All factors' settings of one component.
pub struct ComponentFactors {
    wasi: wasi::ComponentWasi,
    variables: Arc<Variables>,
    http: outbound_http::ComponentHttp,
    pg: outbound_pg::ComponentPg,
    kafka: outbound_kafka::ComponentKafka,
    key_value: key_value::ComponentKeyValue,
}

/// All factors' state of one instance.
pub struct InstanceFactors {
    /// The environment, the mounted folders and the output of this call.
    pub wasi: wasi::InstanceWasi,
    /// The component's own variables, templates expanded; all its calls share them.
    pub variables: Arc<Variables>,
    /// The component's allow-list, and its count of requests under way.
    pub http: outbound_http::InstanceHttp,
    /// The way to the component's pools, with this call's limits on connections and builders.
    pub pg: outbound_pg::InstancePg,
    /// The way to the component's producers, with this call's limit on sends.
    pub kafka: outbound_kafka::InstanceKafka,
    /// The stores that the component may open, charged to this call.
    pub key_value: key_value::InstanceKeyValue,
}

impl Factors {
    /// Adds every interface to the linker of a store that has all parts.
    pub fn link<S>(linker: &mut Linker<S>) -> Result<()>
    where
        S: WasiView
            + WasiHttpView
            + Holds<Arc<Variables>>
            + Holds<key_value::InstanceKeyValue>
            + Holds<outbound_pg::InstancePg>
            + Holds<outbound_kafka::InstanceKafka>,
    {
        let added = WasiFactor::link(linker)
            .and_then(|()| OutboundHttpFactor::link(linker))
            .and_then(|()| VariablesFactor::link(linker))
            .and_then(|()| KeyValueFactor::link(linker))
            .and_then(|()| OutboundPgFactor::link(linker))
            .and_then(|()| OutboundKafkaFactor::link(linker));
        added.map_err(|error| anyhow!("{error:#}")).context("the linker refuses an interface")
    }

    /// Checks and resolves what the manifest says of a component.
    pub fn configure(
        &self,
        id: &str,
        spec: &ComponentSpec,
        variables: &Variables,
        account: &Arc<Account>,
    ) -> Result<ComponentFactors> {
        let allowed_hosts = Arc::new(AllowedHosts::parse(id, &spec.allowed_outbound_hosts, variables)?);
        let values = Arc::new(variables::expand(spec, variables)?);
        let context = Configure { component_id: id, variables, values, allowed_hosts, account: Arc::clone(account) };
        Ok(ComponentFactors {
            wasi: self.wasi.configure(spec, &context)?,
            variables: VariablesFactor.configure(spec, &context)?,
            http: self.http.configure(spec, &context)?,
            pg: self.pg.configure(spec, &context)?,
            kafka: self.kafka.configure(spec, &context)?,
            key_value: self.key_value.configure(spec, &context)?,
        })
    }

    /// Prepares an instance.
    pub fn prepare(&self, component: &ComponentFactors, call: &Call) -> InstanceFactors {
        InstanceFactors {
            wasi: self.wasi.prepare(&component.wasi, call),
            variables: VariablesFactor.prepare(&component.variables, call),
            http: self.http.prepare(&component.http, call),
            pg: self.pg.prepare(&component.pg, call),
            kafka: self.kafka.prepare(&component.kafka, call),
            key_value: self.key_value.prepare(&component.key_value, call),
        }
    }
}
