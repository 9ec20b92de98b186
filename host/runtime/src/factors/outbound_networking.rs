//! `allowed_outbound_hosts`: the only place where a destination is permitted.

use std::net::IpAddr;

use anyhow::{Context, Result, anyhow, bail, ensure};
use exagg_common::template::Variables;
use ipnet::IpNet;

/// The destinations that a component may reach.
#[derive(Debug, Default)]
pub struct AllowedHosts {
    component: String,
    entries: Vec<Allowed>,
}

/// One entry, `scheme://host[:port]`.
#[derive(Debug, PartialEq, Eq)]
struct Allowed {
    /// None is any scheme.
    scheme: Option<String>,
    host: Host,
    /// None is any port.
    port: Option<u16>,
}

#[derive(Debug, PartialEq, Eq)]
enum Host {
    Any,
    /// `*.domain`: names below it, not itself.
    Below(String),
    Name(String),
    Net(IpNet),
    /// `self`: the app's own routes, which this host does not chain to.
    App,
}

/// Where a component wants to go.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    /// `http`, `https`, `postgres` or `kafka`, by the factor that asks.
    pub scheme: &'a str,
    /// A name or an IP address, in brackets or not; a name is compared as it is, and not resolved.
    pub host: &'a str,
    /// The TCP port; the factor puts the scheme's usual one where the guest names none.
    pub port: u16,
}

fn default_port(scheme: &str) -> Option<u16> {
    Some(match scheme {
        "http" => 80,
        "https" => 443,
        "postgres" => 5432,
        "mysql" => 3306,
        "redis" => 6379,
        "mqtt" => 1883,
        _ => return None,
    })
}

impl AllowedHosts {
    /// Expands and parses the entries.
    pub fn parse(component: &str, entries: &[String], variables: &Variables) -> Result<Self> {
        let parse = |entry: &String| {
            let in_entry = || format!("allowed_outbound_hosts: {entry:?}");
            let expanded = variables.expand(entry).with_context(in_entry)?;
            Allowed::parse(&expanded).with_context(in_entry)
        };
        Ok(Self { component: component.to_owned(), entries: entries.iter().map(parse).collect::<Result<_>>()? })
    }

    /// The component whose list it is.
    pub fn component(&self) -> &str {
        &self.component
    }

    /// # Errors
    /// With the entry that would permit the destination.
    pub fn check(&self, to: Destination<'_>) -> Result<()> {
        if self.entries.iter().any(|allowed| allowed.permits(to)) {
            return Ok(());
        }
        let Destination { scheme, host, port } = to;
        Err(anyhow!(
            "the destination {scheme}://{host}:{port} is not allowed: add it to allowed_outbound_hosts of component {}",
            self.component
        ))
    }
}

impl Allowed {
    fn parse(text: &str) -> Result<Self> {
        let (scheme, rest) = text.split_once("://").context("it is not of the form scheme://host[:port]")?;
        let scheme = match scheme {
            "*" => None,
            scheme if !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphabetic()) => {
                // Both are schemes of PostgreSQL's own URLs.
                Some(if scheme == "postgresql" { "postgres" } else { scheme }.to_ascii_lowercase())
            }
            _ => bail!("the scheme is letters, or *"),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = split_port(rest)?;
        let port = match port {
            Some("*") => None,
            Some(port) => Some(port.parse().context("the port is a number or *")?),
            None => match scheme.as_deref() {
                None => None,
                Some(scheme) => {
                    Some(default_port(scheme).with_context(|| format!("{scheme}:// has no usual port: name one"))?)
                }
            },
        };
        Ok(Self { scheme, host: Host::parse(host)?, port })
    }

    fn permits(&self, to: Destination<'_>) -> bool {
        self.scheme.as_deref().is_none_or(|scheme| scheme.eq_ignore_ascii_case(to.scheme))
            && self.port.is_none_or(|port| port == to.port)
            && self.host.permits(to.host)
    }
}

/// Host and port of `host`, `host:port`, `[v6]:port` or `net/bits:port`.
fn split_port(text: &str) -> Result<(&str, Option<&str>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').context("a [ without a ]")?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => bail!("{rest:?} behind the ]"),
        };
    }
    Ok(match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    })
}

impl Host {
    fn parse(text: &str) -> Result<Self> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self::Net(ip.into()));
        }
        if let Ok(net) = text.parse::<IpNet>() {
            return Ok(Self::Net(net));
        }
        let lower = text.to_ascii_lowercase();
        let name = lower.strip_prefix("*.").unwrap_or(&lower);
        match lower.as_str() {
            "*" => return Ok(Self::Any),
            "self" => return Ok(Self::App),
            _ => {}
        }
        ensure!(!name.is_empty(), "the host is missing");
        ensure!(
            name.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_')),
            "the host is a name, an address, a network, *, or *.domain: no path, no list"
        );
        Ok(if name == lower { Self::Name(lower) } else { Self::Below(name.to_owned()) })
    }

    fn permits(&self, host: &str) -> bool {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        match self {
            Self::Any => true,
            Self::App => false,
            Self::Net(net) => host.parse::<IpAddr>().is_ok_and(|ip| net.contains(&ip)),
            Self::Name(name) => name.eq_ignore_ascii_case(host),
            Self::Below(domain) => {
                let host = host.to_ascii_lowercase();
                host.strip_suffix(domain.as_str()).is_some_and(|sub| sub.len() > 1 && sub.ends_with('.'))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use exagg_common::template::Secret;

    fn permits(entry: &str, scheme: &str, host: &str, port: u16) -> bool {
        let allowed = AllowedHosts::parse("a", &[entry.to_owned()], &Variables::default()).unwrap();
        allowed.check(Destination { scheme, host, port }).is_ok()
    }

    #[test]
    fn an_entry_permits_its_own_destination_only() {
        assert!(permits("https://api.example.com", "https", "api.example.com", 443));
        assert!(permits("https://api.example.com", "https", "API.example.com", 443));
        assert!(!permits("https://api.example.com", "https", "api.example.com", 8443));
        assert!(!permits("https://api.example.com", "http", "api.example.com", 443));
        assert!(!permits("https://api.example.com", "https", "api.example.com.evil.org", 443));
        assert!(permits("kafka://broker:9092", "kafka", "broker", 9092));
        assert!(permits("kafka://*:9092", "kafka", "anything", 9092));
        assert!(permits("*://*:*", "redis", "x", 1));
        assert!(!permits("http://self", "http", "self", 80));
    }

    #[test]
    fn domains_addresses_and_networks_are_told_apart() {
        assert!(permits("https://*.example.com", "https", "a.example.com", 443));
        assert!(!permits("https://*.example.com", "https", "example.com", 443));
        assert!(!permits("https://*.example.com", "https", "badexample.com", 443));
        assert!(permits("postgres://10.0.0.0/8:5432", "postgres", "10.1.2.3", 5432));
        assert!(!permits("postgres://10.0.0.0/8:5432", "postgres", "11.1.2.3", 5432));
        assert!(permits("postgres://[::1]:5432", "postgres", "::1", 5432));
        assert!(permits("postgresql://db", "postgres", "db", 5432));
        assert!(!permits("postgres://127.0.0.1", "postgres", "localhost", 5432));
    }

    #[test]
    fn entries_are_templates() {
        let variables = Variables::new([("kafka_host".to_owned(), Secret::new("b:9092"))]);
        let allowed = AllowedHosts::parse("a", &["kafka://{{ kafka_host }}".to_owned()], &variables).unwrap();
        assert!(allowed.check(Destination { scheme: "kafka", host: "b", port: 9092 }).is_ok());
    }

    #[test]
    fn entries_that_cannot_be_right_are_refused() {
        for entry in [
            "example.com",
            "kafka://broker",
            "http://a,b",
            "http://a/path",
            "ht tp://a",
            "http://",
            "http://a:b",
            "kafka://a:1,b:2",
        ] {
            assert!(AllowedHosts::parse("a", &[entry.to_owned()], &Variables::default()).is_err(), "{entry}");
        }
    }
}
