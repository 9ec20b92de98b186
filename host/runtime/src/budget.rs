//! What guests may make the host hold: every limit in one place, and the account of what is in use.
//!
//! Accounts form a tree: the host, a kind of trigger, a component, a call. What is held is charged to an
//! account and to all above it, or to none of them, and is released when its [`Held`] is dropped. A limit
//! that is reached refuses the one who asks, and is counted: nobody else's work stops.
//!
//! # Layout
//! - here: accounts, and what is charged to them.
//! - [`plan`]: the limits of each.

pub mod plan;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What can be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Linear memory of instances, in bytes.
    InstanceBytes,
    /// Memory of the host on behalf of calls, in bytes: statements, results, messages, values.
    HostBytes,
    /// Output that was logged, in bytes. It is never released: a call's account ends with the call, and
    /// those above have no limit.
    LoggedBytes,
    /// Keys and values in the key-value store, in bytes.
    StoredBytes,
    /// Connections to PostgreSQL.
    Connections,
    /// Kafka producers; each has a thread, and one more for every broker.
    Producers,
    /// Requests to other servers that are under way.
    Requests,
}

impl Resource {
    /// Every resource, in the order of the enum, which is the order of an account's counters.
    pub const ALL: [Self; 7] = [
        Self::InstanceBytes,
        Self::HostBytes,
        Self::LoggedBytes,
        Self::StoredBytes,
        Self::Connections,
        Self::Producers,
        Self::Requests,
    ];

    /// Its name in `/metrics` and `exagg status`; the unit is part of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::InstanceBytes => "instance_bytes",
            Self::HostBytes => "host_bytes",
            Self::LoggedBytes => "logged_bytes",
            Self::StoredBytes => "stored_bytes",
            Self::Connections => "connections",
            Self::Producers => "producers",
            Self::Requests => "requests",
        }
    }
}

/// The most that one account may hold of each resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits([u64; Resource::ALL.len()]);

impl Limits {
    /// No limit on anything: `u64::MAX` of each resource.
    pub const NONE: Self = Self([u64::MAX; Resource::ALL.len()]);

    /// The same limits, but at most `most` of this resource, in its own unit.
    #[must_use]
    pub fn with(mut self, resource: Resource, most: u64) -> Self {
        self.0[resource as usize] = most;
        self
    }

    /// The most of this resource; `u64::MAX` where there is no limit.
    pub fn of(&self, resource: Resource) -> u64 {
        self.0[resource as usize]
    }
}

/// A limit was reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the budget of {owner} is used up: {wanted} more {} are wanted, and at most {limit} may be held", .resource.name())]
pub struct Exceeded {
    /// Whose limit it is: `component dashboard`, say.
    pub owner: String,
    /// What was asked for; the two numbers below are in its unit.
    pub resource: Resource,
    /// How much was asked for on top of what is held.
    pub wanted: u64,
    /// The most that the owner may hold in all.
    pub limit: u64,
}

/// What one owner holds.
pub struct Account {
    owner: String,
    parent: Option<Arc<Account>>,
    limits: Limits,
    used: [AtomicU64; Resource::ALL.len()],
    refused: [AtomicU64; Resource::ALL.len()],
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.owner)
    }
}

impl Account {
    /// The account above all others.
    pub fn root(owner: &str, limits: Limits) -> Arc<Self> {
        Arc::new(Self::new(owner, None, limits))
    }

    /// An account below this one.
    pub fn below(self: &Arc<Self>, owner: &str, limits: Limits) -> Arc<Self> {
        Arc::new(Self::new(owner, Some(Arc::clone(self)), limits))
    }

    fn new(owner: &str, parent: Option<Arc<Self>>, limits: Limits) -> Self {
        let zeros = || std::array::from_fn(|_| AtomicU64::new(0));
        Self { owner: owner.to_owned(), parent, limits, used: zeros(), refused: zeros() }
    }

    /// Whose account it is, in words for messages: `component dashboard`, say.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// How much is charged now, by this account and all below it.
    pub fn used(&self, resource: Resource) -> u64 {
        self.used[resource as usize].load(Ordering::Relaxed)
    }

    /// The limit of this account alone, `u64::MAX` for none; one above it may be lower.
    pub fn limit(&self, resource: Resource) -> u64 {
        self.limits.of(resource)
    }

    /// How often something was refused here, above, or below.
    pub fn refused(&self, resource: Resource) -> u64 {
        self.refused[resource as usize].load(Ordering::Relaxed)
    }

    /// Charges `amount` here and in all accounts above, until the guard goes.
    pub fn hold(self: &Arc<Self>, resource: Resource, amount: u64) -> Result<Held, Exceeded> {
        self.charge(resource, amount)?;
        Ok(Held { account: Arc::clone(self), resource, amount })
    }

    /// Charges for good, or until [`Account::release`].
    pub fn charge(&self, resource: Resource, amount: u64) -> Result<(), Exceeded> {
        self.charge_here(resource, amount).inspect_err(|_| self.count_refusal(resource))?;
        let Some(parent) = &self.parent else { return Ok(()) };
        parent.charge(resource, amount).inspect_err(|_| {
            self.release_here(resource, amount);
            self.refused[resource as usize].fetch_add(1, Ordering::Relaxed);
        })
    }

    /// A refusal is one of all accounts above as well: what a call is refused, its component is.
    fn count_refusal(&self, resource: Resource) {
        self.refused[resource as usize].fetch_add(1, Ordering::Relaxed);
        if let Some(parent) = &self.parent {
            parent.count_refusal(resource);
        }
    }

    fn charge_here(&self, resource: Resource, amount: u64) -> Result<(), Exceeded> {
        let limit = self.limits.of(resource);
        let add = |used: u64| used.checked_add(amount).filter(|sum| *sum <= limit);
        match self.used[resource as usize].fetch_update(Ordering::Relaxed, Ordering::Relaxed, add) {
            Ok(_) => Ok(()),
            Err(_) => Err(Exceeded { owner: self.owner.clone(), resource, wanted: amount, limit }),
        }
    }

    /// Gives back what [`Account::charge`] took.
    pub fn release(&self, resource: Resource, amount: u64) {
        self.release_here(resource, amount);
        if let Some(parent) = &self.parent {
            parent.release(resource, amount);
        }
    }

    fn release_here(&self, resource: Resource, amount: u64) {
        self.used[resource as usize].fetch_sub(amount, Ordering::Relaxed);
    }
}

/// Something held; dropping it gives it back.
#[derive(Debug)]
pub struct Held {
    account: Arc<Account>,
    resource: Resource,
    amount: u64,
}

impl Held {
    /// Holds `more` beside what is held already.
    pub fn grow(&mut self, more: u64) -> Result<(), Exceeded> {
        self.account.charge(self.resource, more)?;
        self.amount += more;
        Ok(())
    }

    /// How much the guard gives back when it is dropped, with all that it grew by.
    pub fn amount(&self) -> u64 {
        self.amount
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.account.release(self.resource, self.amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(resource: Resource, most: u64) -> Limits {
        Limits::NONE.with(resource, most)
    }

    #[test]
    fn what_is_held_is_charged_to_all_above_and_given_back() {
        let host = Account::root("the host", limited(Resource::Connections, 3));
        let component = host.below("component a", limited(Resource::Connections, 2));
        let mut held = component.hold(Resource::Connections, 1).unwrap();
        held.grow(1).unwrap();
        assert_eq!((component.used(Resource::Connections), host.used(Resource::Connections)), (2, 2));
        assert!(held.grow(1).is_err());
        drop(held);
        assert_eq!((component.used(Resource::Connections), host.used(Resource::Connections)), (0, 0));
    }

    #[test]
    fn a_limit_above_refuses_and_nothing_stays_charged() {
        let host = Account::root("the host", limited(Resource::HostBytes, 10));
        let (a, b) = (host.below("component a", Limits::NONE), host.below("component b", Limits::NONE));
        let _held = a.hold(Resource::HostBytes, 8).unwrap();
        let error = b.hold(Resource::HostBytes, 3).unwrap_err();
        assert_eq!((error.owner.as_str(), error.limit, error.wanted), ("the host", 10, 3));
        assert_eq!((b.used(Resource::HostBytes), host.used(Resource::HostBytes)), (0, 8));
        assert_eq!((b.refused(Resource::HostBytes), a.refused(Resource::HostBytes)), (1, 0));
        let call = b.below("the call", limited(Resource::HostBytes, 1));
        assert!(call.hold(Resource::HostBytes, 2).is_err());
        assert_eq!((call.refused(Resource::HostBytes), b.refused(Resource::HostBytes)), (1, 2));
        assert!(b.hold(Resource::HostBytes, 2).is_ok());
        assert!(b.hold(Resource::HostBytes, u64::MAX).is_err(), "a sum that overflows is no sum");
    }
}
