//! How the host's memory, and what else guests can use up, is shared out.
//!
//! Of the budget (`[exagg] memory_bytes_max`), the instances that a type of trigger calls get the eighths that its
//! world asks for (`World::memory`), and what the host holds for calls gets one; the rest is the host's own: fetched
//! records and batches (`triggers::kafka::fetch`), code, buffers. Where a type of trigger calls several components,
//! none of them may take more than three quarters of its part.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Account, Limits, Resource};

/// However small the host, and however many components share it, so many calls of a component may run at a time.
pub const INSTANCES_MIN: u32 = 4;
/// What the host holds for one call at the most.
const CALL_HOST_BYTES_MAX: u64 = 96 << 20;

/// The most that one component may hold, whatever the budget.
#[derive(Clone, Copy, Debug)]
pub struct ComponentLimits {
    /// Connections to PostgreSQL (`[exagg] postgres_connections_max`); the default is 16.
    pub connections_max: u64,
    /// Kafka producers, one for each list of brokers; the default is 4.
    pub producers_max: u64,
    /// Requests to other servers that are under way; the default is 64.
    pub requests_max: u64,
    /// Bytes of keys and values that are stored (`[exagg] key_value_bytes_max`); the default is 64 MiB.
    pub stored_bytes_max: u64,
}

impl Default for ComponentLimits {
    fn default() -> Self {
        Self { connections_max: 16, producers_max: 4, requests_max: 64, stored_bytes_max: 64 << 20 }
    }
}

/// What the calls of a type of trigger need of the memory budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallMemory {
    /// Eighths of the budget for all instances of the type. Those of all types leave the host at least two, beside the
    /// one for what it holds for calls.
    pub eighths: u64,
    /// What a call takes mostly: so many of them fit the part, and further calls wait rather than fail.
    pub call_bytes: u64,
}

/// What an app asks of a type of trigger.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// How many components its triggers call.
    pub components: u32,
    /// What their calls need.
    pub memory: CallMemory,
}

/// The accounts of a host.
pub struct Plan {
    host: Arc<Account>,
    kinds: BTreeMap<String, Kind>,
    each: ComponentLimits,
}

struct Kind {
    account: Arc<Account>,
    components: u32,
    /// For one component.
    instances: u32,
}

/// A part of the budget in eighths.
fn eighths(budget_bytes: u64, parts: u64) -> u64 {
    budget_bytes / 8 * parts
}

impl Plan {
    /// `demands` has the app's types of triggers; `instances_max` is for one type.
    pub fn new(
        budget_bytes: u64,
        instances_max: u32,
        each: ComponentLimits,
        demands: &BTreeMap<String, Demand>,
    ) -> Self {
        let held = eighths(budget_bytes, 1);
        let host = Account::root("the host", Limits::NONE.with(Resource::HostBytes, held));
        let kind = |(kind, demand): (&String, &Demand)| {
            let bytes = eighths(budget_bytes, demand.memory.eighths);
            let limits = Limits::NONE.with(Resource::InstanceBytes, bytes).with(Resource::HostBytes, held / 4 * 3);
            let fit = u32::try_from(bytes / demand.memory.call_bytes.max(1)).unwrap_or(u32::MAX);
            let account = host.below(&format!("{kind} components"), limits);
            let components = demand.components.max(1);
            let least = INSTANCES_MIN.min(instances_max);
            let instances = (fit.min(instances_max) / components).max(least);
            (kind.clone(), Kind { account, components, instances })
        };
        Self { kinds: demands.iter().map(kind).collect(), host, each }
    }

    /// Instances that one component may have at a time for calls of a kind.
    pub fn instances(&self, kind: &str) -> u32 {
        self.kinds.get(kind).map_or(1, |kind| kind.instances)
    }

    /// The account of a component that triggers of these kinds call.
    pub fn component(&self, id: &str, kinds: &[&str]) -> Arc<Account> {
        let owner = format!("component {id}");
        let limits = Limits::NONE
            .with(Resource::Connections, self.each.connections_max)
            .with(Resource::Producers, self.each.producers_max)
            .with(Resource::Requests, self.each.requests_max)
            .with(Resource::StoredBytes, self.each.stored_bytes_max);
        let Some(kind) = kinds.iter().find_map(|kind| self.kinds.get(*kind)) else {
            return self.host.below(&owner, limits);
        };
        let part = |resource| {
            let whole = kind.account.limit(resource);
            if kind.components > 1 { whole / 4 * 3 } else { whole }
        };
        let limits = [Resource::InstanceBytes, Resource::HostBytes]
            .into_iter()
            .fold(limits, |limits, resource| limits.with(resource, part(resource)));
        kind.account.below(&owner, limits)
    }

    /// The account above all others, which may hold an eighth of the budget as `HostBytes`.
    pub fn host(&self) -> &Arc<Account> {
        &self.host
    }
}

/// What one call may hold.
pub fn call_limits() -> Limits {
    Limits::NONE.with(Resource::HostBytes, CALL_HOST_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn plan(budget_bytes: u64) -> Plan {
        let demand = |kind: &str, components, eighths, call_bytes| {
            (kind.to_owned(), Demand { components, memory: CallMemory { eighths, call_bytes } })
        };
        let demands = [demand("kafka", 2, 2, 12 * MIB), demand("cron", 3, 1, 4 * MIB), demand("http", 1, 2, 4 * MIB)];
        Plan::new(budget_bytes, 64, ComponentLimits::default(), &BTreeMap::from(demands))
    }

    #[test]
    fn one_component_of_a_kind_leaves_room_for_the_others() {
        let plan = plan(384 * MIB);
        let (a, b) = (plan.component("a", &["kafka"]), plan.component("b", &["kafka"]));
        let page = plan.component("page", &["http"]);
        assert_eq!(a.limit(Resource::InstanceBytes), 72 * MIB);
        let _all = a.hold(Resource::InstanceBytes, 72 * MIB).unwrap();
        assert!(b.hold(Resource::InstanceBytes, 24 * MIB).is_ok(), "a quarter is left");
        assert!(b.hold(Resource::InstanceBytes, 25 * MIB).is_err());
        assert!(page.hold(Resource::InstanceBytes, 96 * MIB).is_ok(), "requests have a part of their own");
        assert!(page.hold(Resource::Connections, 17).is_err());
    }

    #[test]
    fn so_many_calls_run_at_a_time_as_fit() {
        let small = plan(384 * MIB);
        assert_eq!((small.instances("kafka"), small.instances("cron"), small.instances("http")), (4, 4, 24));
        let large = plan(u64::MAX);
        assert_eq!((large.instances("kafka"), large.instances("cron"), large.instances("http")), (32, 21, 64));
    }
}
