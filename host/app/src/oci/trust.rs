//! Whom credentials are given to: a registry says where its tokens are to be had (the realm), and
//! may say anything.

use anyhow::{Context, Result, ensure};
use url::Url;

/// Which registries are spoken to without TLS.
#[derive(Clone, Debug)]
pub enum Insecure {
    /// The one that is asked, or none (`--insecure`).
    Flag(bool),
    /// These (host:port; `[exagg] insecure_registries`).
    Registries(Vec<String>),
}

impl Insecure {
    /// Whether this registry is one of them: by its exact host:port where there is a list.
    pub fn has(&self, registry: &str) -> bool {
        match self {
            Self::Flag(insecure) => *insecure,
            Self::Registries(list) => list.iter().any(|one| one == registry),
        }
    }
}

/// Registries whose tokens are to be had at another host, as everybody knows.
const KNOWN_REALMS: [(&str, &str); 4] = [
    ("docker.io", "auth.docker.io"),
    ("index.docker.io", "auth.docker.io"),
    ("registry-1.docker.io", "auth.docker.io"),
    ("registry.gitlab.com", "gitlab.com"),
];

/// What is allowed with which registry.
#[derive(Clone, Debug)]
pub struct Trust {
    insecure: Insecure,
    /// Registries, and hosts that may be given their credentials, beside the known ones.
    realms: Vec<(String, String)>,
}

impl From<&Insecure> for Trust {
    fn from(insecure: &Insecure) -> Self {
        Self { insecure: insecure.clone(), realms: Vec::new() }
    }
}

/// Why a realm is not asked for a token.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RealmError {
    #[error("the registry {0} sends its clients for a token to a place that is not the URL of a server")]
    NoUrl(String),
    #[error(
        "the registry {registry} sends its clients for a token to {realm} without TLS, and nothing was sent there: \
         only a registry that is declared insecure (insecure_registries, --insecure) may do so"
    )]
    Plain { registry: String, realm: String },
    #[error(
        "the registry {registry} wants its credentials to be sent to {realm}, which is not known to belong to it, \
         and nothing was sent there: if it does, say so by --registry-realm, or `[exagg] registry_realms = [\"{registry}={realm}\"]`"
    )]
    Foreign { registry: String, realm: String },
}

impl Trust {
    /// The operator's list of realms: `registry.example:5000=auth.example`.
    pub fn new(insecure: Insecure, registry_realms: &[String]) -> Result<Self> {
        let pair = |text: &String| {
            let (registry, realm) = text.split_once('=').with_context(|| {
                format!("registry_realms: {text:?} is not a registry and a host (registry.example=auth.example)")
            })?;
            let url = Url::parse(&format!("https://{realm}/"));
            let is_host = url.is_ok_and(|url| url.host_str() == Some(realm));
            ensure!(is_host, "registry_realms: {realm:?} in {text:?} is not a host's name in small letters, alone");
            ensure!(!registry.is_empty(), "registry_realms: {text:?} names no registry");
            Ok((registry.to_owned(), realm.to_owned()))
        };
        Ok(Self { insecure, realms: registry_realms.iter().map(pair).collect::<Result<_>>()? })
    }

    /// How the registry is spoken to.
    pub fn scheme(&self, registry: &str) -> &'static str {
        if self.insecure.has(registry) { "http" } else { "https" }
    }

    /// The realm's URL, when it may be asked. Without credentials any host may, as there is nothing that
    /// it could get; but never without TLS, unless the registry itself is spoken to in that way.
    pub fn realm(&self, registry: &str, realm: &str, with_credentials: bool) -> Result<Url, RealmError> {
        let no_url = || RealmError::NoUrl(registry.to_owned());
        let url = Url::parse(realm).map_err(|_| no_url())?;
        let host = url.host_str().ok_or_else(no_url)?;
        let is_plain = url.scheme() == "http";
        if !(is_plain || url.scheme() == "https") || !url.username().is_empty() || url.password().is_some() {
            return Err(no_url());
        }
        let refused = (registry.to_owned(), host.to_owned());
        if is_plain && !self.insecure.has(registry) {
            return Err(RealmError::Plain { registry: refused.0, realm: refused.1 });
        }
        // Over TLS anybody can be asked without credentials; over plain HTTP only who belongs to the registry.
        if (with_credentials || is_plain) && !self.belongs(registry, host) {
            return Err(RealmError::Foreign { registry: refused.0, realm: refused.1 });
        }
        Ok(url)
    }

    /// The same host, whatever the port (a certificate is of a host), or one that is named.
    fn belongs(&self, registry: &str, realm: &str) -> bool {
        let own = Url::parse(&format!("https://{registry}/"));
        let is_own = own.is_ok_and(|own| own.host_str() == Some(realm));
        let is_known = KNOWN_REALMS.contains(&(registry, realm));
        is_own || is_known || self.realms.iter().any(|(of, host)| of == registry && host == realm)
    }
}

/// Whether a redirect from one to the other would give up TLS.
pub fn gives_up_tls(from: &Url, to: &Url) -> bool {
    from.scheme() == "https" && to.scheme() != "https"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secure() -> Trust {
        Trust::from(&Insecure::Registries(vec!["r.example:5000".to_owned()]))
    }

    fn foreign(trust: &Trust, registry: &str, realm: &str) -> bool {
        matches!(trust.realm(registry, realm, true), Err(RealmError::Foreign { .. }))
    }

    #[test]
    fn credentials_go_to_the_registrys_own_host_or_a_known_one() {
        let trust = secure();
        for (registry, realm) in [
            ("ghcr.io", "https://ghcr.io/token"),
            ("git.example:5050", "https://git.example/jwt/auth"),
            ("index.docker.io", "https://auth.docker.io/token"),
            ("registry.gitlab.com", "https://gitlab.com/jwt/auth"),
            ("r.example:5000", "http://r.example:5001/token"),
            ("r.example:5000", "https://r.example/token"),
        ] {
            assert!(trust.realm(registry, realm, true).is_ok(), "{registry} {realm}");
        }
        for (registry, realm) in [
            ("ghcr.io", "https://ghcr.io.evil.example/token"),
            ("ghcr.io", "https://evil.example/ghcr.io"),
            ("evil.example", "https://auth.docker.io/token"),
            ("registry.example", "https://example/token"),
            ("r.example:5000", "http://evil.example/token"),
        ] {
            assert!(foreign(&trust, registry, realm), "{registry} {realm}");
        }
        assert!(trust.realm("ghcr.io", "https://ghcr.io@evil.example/token", true).is_err());
        assert!(trust.realm("ghcr.io", "file:///etc/passwd", true).is_err());
        assert!(trust.realm("ghcr.io", "/token", true).is_err());
    }

    #[test]
    fn without_tls_nothing_is_asked_of_a_realm_unless_the_registry_is_insecure_and_its_own() {
        let trust = secure();
        for with_credentials in [true, false] {
            let plain = trust.realm("ghcr.io", "http://ghcr.io/token", with_credentials);
            assert!(matches!(plain, Err(RealmError::Plain { .. })), "{plain:?}");
            assert!(trust.realm("r.example:5000", "http://evil.example/token", with_credentials).is_err());
            assert!(trust.realm("r.example:5000", "http://r.example:5000/token", with_credentials).is_ok());
        }
        assert!(trust.realm("r.example", "https://elsewhere.example/token", false).is_ok());
    }

    #[test]
    fn the_operator_names_realms() {
        let trust = Trust::new(Insecure::Flag(false), &["r.example:5000=auth.example".to_owned()]).unwrap();
        assert!(trust.realm("r.example:5000", "https://auth.example/token", true).is_ok());
        assert!(foreign(&trust, "r.example", "https://auth.example/token"));
        let error = trust.realm("x.example", "https://auth.example/token", true).unwrap_err().to_string();
        assert!(error.contains("registry_realms = [\"x.example=auth.example\"]"), "{error}");
        for wrong in ["r.example", "r.example=", "=auth.example", "r.example=https://auth.example", "r=a:5"] {
            assert!(Trust::new(Insecure::Flag(false), &[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_redirect_keeps_tls() {
        let url = |text: &str| Url::parse(text).unwrap();
        assert!(gives_up_tls(&url("https://a/"), &url("http://a/")));
        assert!(!gives_up_tls(&url("https://a/"), &url("https://b/")));
        assert!(!gives_up_tls(&url("http://a/"), &url("http://b/")));
    }
}
