//! Who asks the admin address. A page of another origin, open in the browser of somebody who can reach
//! the address, must read and change nothing: neither by a request of its own (`Origin`, `Sec-Fetch-Site`)
//! nor under a name of its own that it lets point here (`Host`).

use std::net::IpAddr;

use exagg_common::printable::printable;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};

/// Why a request is not answered.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the request names no host, or more than one")]
    NoHost,
    #[error(
        "the admin address does not answer to the name {}: ask for it by its IP address or as localhost, or list the \
         name in admin_hosts of [exagg] in the runtime configuration",
        printable(.0)
    )]
    OtherHost(String),
    #[error("the admin address answers no pages of other origins")]
    OtherOrigin,
}

impl Refused {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NoHost => StatusCode::BAD_REQUEST,
            Self::OtherHost(_) => StatusCode::MISDIRECTED_REQUEST,
            Self::OtherOrigin => StatusCode::FORBIDDEN,
        }
    }
}

/// Whether a request over the network may be answered. `hosts` are the names of the admin address beside
/// IP literals and `localhost`.
pub fn check(uri: &Uri, headers: &HeaderMap, hosts: &[String]) -> Result<(), Refused> {
    let mut named = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (named.next(), named.next()) else { return Err(Refused::NoHost) };
    let host = String::from_utf8_lossy(host.as_bytes());
    // A target with a host of its own says the same, or something that is refused as well.
    for named in [Some(&*host), uri.authority().map(Authority::as_str)].into_iter().flatten() {
        if !is_known(named, hosts) {
            return Err(Refused::OtherHost(named.to_owned()));
        }
    }
    // A browser sends no Origin with what a page of the same origin reads, and nothing here posts.
    let site = headers.get_all("sec-fetch-site").iter().all(|site| site == "none" || site == "same-origin");
    if headers.contains_key(header::ORIGIN) || !site {
        return Err(Refused::OtherOrigin);
    }
    Ok(())
}

fn is_known(named: &str, hosts: &[String]) -> bool {
    let Some(name) = host_of(named) else { return false };
    let is_address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    is_address || name == "localhost" || hosts.iter().any(|host| host_of(host).as_ref() == Some(&name))
}

/// The host of `host:port`, in small letters and without a full stop at its end.
fn host_of(named: &str) -> Option<String> {
    let authority: Authority = named.parse().ok()?;
    if authority.as_str().contains('@') {
        return None;
    }
    let host = authority.host().to_ascii_lowercase();
    Some(host.strip_suffix('.').unwrap_or(&host).to_owned())
}

/// Headers that keep an answer out of other pages.
pub fn protect(headers: &mut HeaderMap) {
    let values = [
        ("x-content-type-options", "nosniff"),
        ("cross-origin-resource-policy", "same-origin"),
        ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ];
    for (name, value) in values {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(target: &str, headers: &[(&'static str, &str)]) -> Result<(), Refused> {
        let headers = headers.iter().map(|(name, value)| {
            (http::HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        });
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, value);
        }
        check(&target.parse().unwrap(), &map, &["metrics.example".to_owned(), "Other.Example:9464".to_owned()])
    }

    #[test]
    fn addresses_localhost_and_listed_names_are_answered() {
        for host in [
            "127.0.0.1",
            "10.1.2.3:9464",
            "[::1]:9464",
            "[2001:db8::1]",
            "localhost",
            "LocalHost:9464",
            "localhost.:80",
            "metrics.example",
            "METRICS.example.:9464",
            "other.example",
        ] {
            assert_eq!(ask("/metrics", &[("host", host)]), Ok(()), "{host}");
        }
    }

    #[test]
    fn other_names_are_misdirected() {
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "metrics.example.evil.example",
            "user@localhost",
            "evil.example@127.0.0.1",
            "exagg",
            "",
            "a b",
            "[::1",
        ] {
            let refused = ask("/", &[("host", host)]).unwrap_err();
            assert_eq!(
                (refused.status(), &refused),
                (StatusCode::MISDIRECTED_REQUEST, &Refused::OtherHost(host.into()))
            );
            assert!(refused.to_string().contains("admin_hosts"), "{refused}");
        }
        assert_eq!(
            ask("http://evil.example/", &[("host", "localhost")]),
            Err(Refused::OtherHost("evil.example".into()))
        );
        assert_eq!(ask("http://localhost/", &[("host", "localhost")]), Ok(()));
        assert!(!Refused::OtherHost("a\u{202e}\u{9b}b".into()).to_string().contains(['\u{202e}', '\u{9b}']));
    }

    #[test]
    fn one_host_is_named() {
        assert_eq!(ask("/", &[]), Err(Refused::NoHost));
        assert_eq!(ask("/", &[("host", "localhost"), ("host", "localhost")]), Err(Refused::NoHost));
    }

    #[test]
    fn pages_are_refused_unless_they_are_of_the_same_origin() {
        let ask = |more: &[(&'static str, &str)]| ask("/status", &[&[("host", "localhost:9464")], more].concat());
        for site in ["none", "same-origin"] {
            assert_eq!(ask(&[("sec-fetch-site", site)]), Ok(()), "{site}");
        }
        for site in ["cross-site", "same-site", "", "None", "what comes next"] {
            assert_eq!(ask(&[("sec-fetch-site", site)]), Err(Refused::OtherOrigin), "{site}");
        }
        assert_eq!(ask(&[("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")]), Err(Refused::OtherOrigin));
        for origin in ["http://evil.example", "null", "http://localhost:9464"] {
            assert_eq!(ask(&[("origin", origin)]), Err(Refused::OtherOrigin), "{origin}");
        }
        assert_eq!(Refused::OtherOrigin.status(), StatusCode::FORBIDDEN);
    }
}
