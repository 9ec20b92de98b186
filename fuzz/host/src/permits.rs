//! What an entry of `allowed_outbound_hosts` names, as plainly as it can be said: not by how the host reads
//! it, and only where it permits.

use std::net::IpAddr;

/// Whether the entry names the destination.
pub(crate) fn names(entry: &str, scheme: &str, host: &str, port: u16) -> bool {
    let Some((entry_scheme, rest)) = entry.split_once("://") else { return false };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (entry_host, entry_port) = host_and_port(rest);
    let entry_scheme = entry_scheme.replace("postgresql", "postgres");
    (entry_scheme == "*" || entry_scheme.eq_ignore_ascii_case(scheme))
        && names_port(&entry_scheme, entry_port, port)
        && names_host(entry_host, host)
}

/// The last colon outside of brackets is what the port stands behind.
fn host_and_port(text: &str) -> (&str, Option<&str>) {
    let outside = text.rfind(']').map_or(0, |end| end + 1);
    let (host, port) = match text[outside..].rfind(':') {
        Some(colon) => (&text[..outside + colon], Some(&text[outside + colon + 1..])),
        None => (text, None),
    };
    (host.trim_start_matches('[').trim_end_matches(']'), port)
}

fn names_port(scheme: &str, entry: Option<&str>, port: u16) -> bool {
    match entry {
        Some("*") => true,
        Some(entry) => entry.parse() == Ok(port),
        None if scheme == "*" => true,
        None => {
            let usual =
                [("http", 80), ("https", 443), ("postgres", 5432), ("mysql", 3306), ("redis", 6379), ("mqtt", 1883)];
            usual.iter().any(|(name, usual)| name.eq_ignore_ascii_case(scheme) && *usual == port)
        }
    }
}

fn names_host(entry: &str, host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let entry = entry.to_ascii_lowercase();
    if entry == "*" {
        return true;
    }
    if let Some(domain) = entry.strip_prefix('*') {
        return domain.len() > 1 && host.len() > domain.len() && host.ends_with(domain);
    }
    if let (Some((net, bits)), Ok(address)) = (entry.split_once('/'), host.parse::<IpAddr>()) {
        return net.parse().is_ok_and(|net| shares_bits(net, address, bits.parse().unwrap_or(u32::MAX)));
    }
    match (entry.parse::<IpAddr>(), host.parse::<IpAddr>()) {
        (Ok(entry), Ok(host)) => entry == host,
        (Err(_), Err(_)) => entry == host,
        _ => false,
    }
}

/// Whether two addresses of one kind begin with the same bits.
fn shares_bits(net: IpAddr, address: IpAddr, bits: u32) -> bool {
    let (net, address, width) = match (net, address) {
        (IpAddr::V4(net), IpAddr::V4(address)) => (u128::from(net.to_bits()), u128::from(address.to_bits()), 32),
        (IpAddr::V6(net), IpAddr::V6(address)) => (net.to_bits(), address.to_bits(), 128),
        _ => return false,
    };
    bits <= width && (bits == 0 || (net ^ address) >> (width - bits) == 0)
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn an_entry_names_its_own_destination() {
        assert!(names("https://*.example.com", "https", "a.example.com", 443));
        assert!(!names("https://*.example.com", "https", "example.com", 443));
        assert!(names("postgresql://10.0.0.0/8:5432", "postgres", "10.1.2.3", 5432));
        assert!(!names("postgres://10.0.0.0/8:5432", "postgres", "11.1.2.3", 5432));
        assert!(names("postgres://[::1]:5432", "postgres", "::1", 5432));
        assert!(!names("kafka://broker:9092", "kafka", "broker", 9093));
        assert!(names("*://*:*", "x", "y", 1));
    }
}
