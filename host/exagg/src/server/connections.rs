//! How many connections a listener has, and how many of them come from one address. Pure bookkeeping.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bounds of one listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Connections at one time.
    pub connections_max: usize,
    /// Of those, connections from one address; from one /64 where it is IPv6.
    pub per_address_max: usize,
    /// Connections beyond those, which get an answer to a probe and a 503 to all else.
    pub reserve_max: usize,
    /// Of those, connections from one address: nobody alone keeps the probes out.
    pub reserve_per_address_max: usize,
    /// How long a connection of the reserve may take altogether.
    pub reserve_time_max: Duration,
    /// How long a peer may take nothing of what is written to it.
    pub stall_max: Duration,
    /// How long a peer may take over a response, from its head to its end.
    pub response_time_max: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections_max: 1_024,
            per_address_max: 256,
            reserve_max: 64,
            reserve_per_address_max: 16,
            reserve_time_max: Duration::from_secs(2),
            stall_max: Duration::from_secs(10),
            response_time_max: Duration::from_secs(60),
        }
    }
}

/// Whose connections are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Peer {
    /// An IPv4 address, or the upper half of an IPv6 one: the lower half is the peer's own choice.
    Address(u64),
    Network(u64),
}

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::Address(u64::from(address.to_bits())),
            IpAddr::V6(address) => Self::Network((address.to_bits() >> 64) as u64),
        }
    }
}

/// Connections of one kind.
#[derive(Debug, Default)]
struct Tally {
    all: usize,
    by_peer: HashMap<Peer, usize>,
}

impl Tally {
    fn add(&mut self, peer: Option<Peer>, most: usize, most_per_peer: usize) -> bool {
        let of_peer = peer.and_then(|peer| self.by_peer.get(&peer)).copied().unwrap_or_default();
        if self.all >= most || (peer.is_some() && of_peer >= most_per_peer) {
            return false;
        }
        self.all += 1;
        if let Some(peer) = peer {
            self.by_peer.insert(peer, of_peer + 1);
        }
        true
    }

    fn remove(&mut self, peer: Option<Peer>) {
        self.all -= 1;
        if let Some(peer) = peer
            && let Some(of_peer) = self.by_peer.get_mut(&peer)
        {
            *of_peer -= 1;
            // A peer that is gone is not remembered: there are more addresses than memory.
            if *of_peer == 0 {
                self.by_peer.remove(&peer);
            }
        }
    }
}

/// Which bounds a connection is counted under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Regular,
    /// Only probes are answered.
    Reserve,
}

#[derive(Debug, Default)]
struct Tallies {
    regular: Tally,
    reserve: Tally,
}

impl Tallies {
    fn of(&mut self, kind: Kind) -> &mut Tally {
        match kind {
            Kind::Regular => &mut self.regular,
            Kind::Reserve => &mut self.reserve,
        }
    }
}

/// The connections of one listener.
#[derive(Debug)]
pub struct Connections {
    limits: ConnectionLimits,
    tallies: Mutex<Tallies>,
}

/// A connection that is counted until this goes.
#[derive(Debug)]
pub struct Admitted {
    connections: Arc<Connections>,
    peer: Option<Peer>,
    kind: Kind,
}

impl Connections {
    pub fn new(limits: ConnectionLimits) -> Arc<Self> {
        Arc::new(Self { limits, tallies: Mutex::default() })
    }

    fn tallies(&self) -> MutexGuard<'_, Tallies> {
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a new connection: as a regular one while there is room, then in the reserve. `None` when
    /// that is full too. A client on the socket has no address.
    pub fn admit(self: &Arc<Self>, client: Option<IpAddr>) -> Option<Admitted> {
        let (peer, limits) = (client.map(Peer::from), &self.limits);
        let mut tallies = self.tallies();
        let kind = if tallies.regular.add(peer, limits.connections_max, limits.per_address_max) {
            Kind::Regular
        } else if tallies.reserve.add(peer, limits.reserve_max, limits.reserve_per_address_max) {
            Kind::Reserve
        } else {
            return None;
        };
        drop(tallies);
        Some(Admitted { connections: Arc::clone(self), peer, kind })
    }
}

impl Admitted {
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.connections.tallies().of(self.kind).remove(self.peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections() -> Arc<Connections> {
        Connections::new(ConnectionLimits {
            connections_max: 4,
            per_address_max: 2,
            reserve_max: 3,
            reserve_per_address_max: 1,
            ..ConnectionLimits::default()
        })
    }

    fn admit(connections: &Arc<Connections>, address: &str) -> Option<Admitted> {
        connections.admit(Some(address.parse().unwrap()))
    }

    fn kind(admitted: Option<&Admitted>) -> Option<Kind> {
        admitted.map(Admitted::kind)
    }

    #[test]
    fn an_address_has_its_bound_then_a_place_in_the_reserve_then_none() {
        let connections = connections();
        let kept: Vec<_> = (0..4).map(|_| admit(&connections, "10.0.0.1")).collect();
        let kinds: Vec<_> = kept.iter().map(|admitted| kind(admitted.as_ref())).collect();
        assert_eq!(kinds, [Some(Kind::Regular), Some(Kind::Regular), Some(Kind::Reserve), None]);
        let other = admit(&connections, "10.0.0.2");
        assert_eq!(kind(other.as_ref()), Some(Kind::Regular), "others are not concerned");
    }

    #[test]
    fn the_listener_has_its_bound_whoever_comes() {
        let connections = connections();
        let kept: Vec<_> = (1..=8).map(|last| admit(&connections, &format!("10.0.0.{last}"))).collect();
        let of = |wanted| kept.iter().filter(|admitted| kind(admitted.as_ref()) == wanted).count();
        assert_eq!((of(Some(Kind::Regular)), of(Some(Kind::Reserve)), of(None)), (4, 3, 1));
    }

    #[test]
    fn what_ends_makes_room_and_is_forgotten() {
        let connections = connections();
        let mut kept: Vec<_> = (0..3).map(|_| admit(&connections, "10.0.0.1")).collect();
        kept.remove(0);
        let again = admit(&connections, "10.0.0.1");
        assert_eq!(kind(again.as_ref()), Some(Kind::Regular));
        drop((kept, again));
        let tallies = connections.tallies();
        assert_eq!((tallies.regular.all, tallies.reserve.all), (0, 0));
        assert!(tallies.regular.by_peer.is_empty() && tallies.reserve.by_peer.is_empty());
    }

    #[test]
    fn ipv6_counts_by_network_and_mapped_addresses_as_ipv4() {
        let peer = |address: &str| Peer::from(address.parse::<IpAddr>().unwrap());
        assert_eq!(peer("2001:db8:0:1::1"), peer("2001:db8:0:1:ffff::2"));
        assert_ne!(peer("2001:db8:0:1::1"), peer("2001:db8:0:2::1"));
        assert_eq!(peer("::ffff:10.0.0.1"), peer("10.0.0.1"));
        assert_ne!(peer("10.0.0.1"), peer("10.0.0.2"));
        assert_ne!(peer("0.0.0.1"), peer("0:0:0:1::"), "an address is no network of the same number");
    }

    #[test]
    fn the_socket_has_the_bound_of_the_listener_only() {
        let connections = connections();
        let kept: Vec<_> = (0..8).map(|_| connections.admit(None)).collect();
        let of = |wanted| kept.iter().filter(|admitted| kind(admitted.as_ref()) == wanted).count();
        assert_eq!((of(Some(Kind::Regular)), of(Some(Kind::Reserve)), of(None)), (4, 3, 1));
    }
}
