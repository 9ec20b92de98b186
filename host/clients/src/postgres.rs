//! What the host's own connections to PostgreSQL and the functions' share: addresses and TLS.
//!
//! `sslmode` means what it means to libpq: `disable`, `prefer` (encrypted where the server offers
//! it; the default), `require` (encrypted; the server's name is not looked at), `verify-ca` (and
//! its certificate is a known authority's), `verify-full` (and it is the server of that name).
//! Authorities are those of `[exagg] postgres_ca_file`, of the guest's own `set-ca-root`, or, where
//! neither names any, the web's. Where authorities are given they are looked at: only `disable`, said
//! so, goes without. A file in the address is refused: a guest chooses addresses, and files are the
//! host's.

mod settings;
mod words;

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use self::settings::{Unreadable, settings};
pub use self::words::{describe, place};

/// Certificates of authorities, PEM.
pub type Authorities = Arc<str>;

/// Bytes of an address: longer ones are none.
const ADDRESS_BYTES_MAX: usize = 8 * 1024;

/// Why an address cannot be used. It holds no part of the address: the client's own errors repeat what they do
/// not know, and that may be half of a password.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The address is refused by its length alone, before any of it is read.
    #[error("the address is longer than {ADDRESS_BYTES_MAX} bytes")]
    Long,
    /// It is neither a URL nor pairs as the client's parser takes them, or it has an unknown option.
    #[error(
        "the address cannot be read: it is postgres://user:password@host:port/database?option=value, or option=value pairs with blanks between them; an option is unknown, or a value with blanks is not in quotes"
    )]
    Unreadable,
    /// The text is the client's, which names the option and not the value.
    #[error("the address cannot be read: {0}")]
    Value(String),
    /// What stands in the host's place cannot be a host, or may be a part of the password.
    #[error(
        "the address names no host that can be: the user or the password holds an @, / or ?: write it percent-encoded (%40, %2F, %3F)"
    )]
    Host,
    /// `sslmode` stands in it more than once, also where it says the same each time.
    #[error("the address has more than one sslmode: say it once")]
    Repeated,
    /// The client's parser finds another `sslmode` than is found here, so it is not clear what to verify.
    #[error("the address's sslmode cannot be made out: write sslmode=verify-full, without quotes or percent signs")]
    Unsure,
    /// The option that names a file: `sslrootcert`, `sslcert` or `sslkey`.
    #[error("the address names {0}, which is a file of the host's: name it in [exagg] postgres_ca_file")]
    File(&'static str),
    /// The PEM text has no certificate, or one that cannot be used, for the reason it holds.
    #[error("the certificates of authorities cannot be used: {0}")]
    Authorities(String),
}

impl From<Unreadable> for AddressError {
    fn from(unreadable: Unreadable) -> Self {
        match unreadable {
            Unreadable::Form => Self::Unreadable,
            Unreadable::Password => Self::Host,
        }
    }
}

/// What is looked at in the server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verify {
    Nothing,
    Authority,
    AuthorityAndName,
}

/// What an address says, in a form that is the same for all its spellings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The client's own form; it has `require` for `verify-ca` and `verify-full`, which the client does not know.
    pub config: Config,
    verify: Verify,
}

impl Target {
    /// Reads a URL or a list of `key=value`.
    pub fn parse(text: &str, has_authorities: bool) -> Result<Self, AddressError> {
        if text.len() > ADDRESS_BYTES_MAX {
            return Err(AddressError::Long);
        }
        let settings = settings(text)?;
        for file in ["sslrootcert", "sslcert", "sslkey"] {
            if settings.iter().any(|setting| setting.name == file) {
                return Err(AddressError::File(file));
            }
        }
        let mut modes = settings.iter().filter(|setting| setting.name == "sslmode");
        let said = modes.next();
        if modes.next().is_some() {
            return Err(AddressError::Repeated);
        }
        let mut text = text.to_owned();
        if let Some(setting) = said.filter(|setting| setting.value.starts_with("verify-")) {
            let known = if matches!(&*setting.value, "verify-ca" | "verify-full") { "require" } else { "unknown" };
            text.replace_range(setting.at.clone(), known);
        }
        let mut config: Config = text.parse().map_err(|error| unreadable(&error))?;
        check_hosts(&config)?;
        let verify = decide(said.map(|setting| &*setting.value), &mut config, has_authorities)?;
        Ok(Self { config, verify })
    }

    /// How to get there: reads the authorities.
    pub fn connector(&self, authorities: Option<&Authorities>) -> Result<MakeRustlsConnect, AddressError> {
        connector(self.verify, authorities)
    }
}

/// How to reach a server.
#[derive(Clone)]
pub struct Address {
    /// As [`Target::config`]; the caller may set more of it, such as a time-out, before it connects.
    pub config: Config,
    /// Looks at as much of the server's certificate as `sslmode` and the authorities ask for.
    pub tls: MakeRustlsConnect,
}

impl Address {
    /// Reads a URL or a list of `key=value`.
    pub fn parse(text: &str, authorities: Option<&Authorities>) -> Result<Self, AddressError> {
        let target = Target::parse(text, authorities.is_some())?;
        Ok(Self { tls: target.connector(authorities)?, config: target.config })
    }
}

/// The client names the option whose value is wrong, and nothing else; what it says of others has their text.
fn unreadable(error: &tokio_postgres::Error) -> AddressError {
    match std::error::Error::source(error).map(ToString::to_string) {
        Some(reason) if reason.starts_with("invalid value for option ") => AddressError::Value(reason),
        _ => AddressError::Unreadable,
    }
}

/// Hosts go into messages: what cannot be one may be of the password.
fn check_hosts(config: &Config) -> Result<(), AddressError> {
    let may_be_in_one = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
    let can_be = |host: &Host| match host {
        Host::Tcp(name) => name.chars().all(may_be_in_one),
        Host::Unix(_) => true,
    };
    if config.get_hosts().iter().all(can_be) { Ok(()) } else { Err(AddressError::Host) }
}

/// What is verified, of what was said and what the client made of it; the two must agree.
fn decide(said: Option<&str>, config: &mut Config, has_authorities: bool) -> Result<Verify, AddressError> {
    let (verify, mode) = match said {
        None | Some("prefer") => (Verify::Nothing, SslMode::Prefer),
        Some("disable") => (Verify::Nothing, SslMode::Disable),
        Some("require") if has_authorities => (Verify::Authority, SslMode::Require),
        Some("require") => (Verify::Nothing, SslMode::Require),
        Some("verify-ca") => (Verify::Authority, SslMode::Require),
        Some("verify-full") => (Verify::AuthorityAndName, SslMode::Require),
        Some(_) => return Err(AddressError::Unsure),
    };
    if config.get_ssl_mode() != mode {
        return Err(AddressError::Unsure);
    }
    let is_socket = |host: &Host| matches!(host, Host::Unix(_));
    let leaves_the_machine = !config.get_hostaddrs().is_empty() || !config.get_hosts().iter().all(is_socket);
    // Whoever names an authority wants it looked at. A socket of this machine has no TLS, as to libpq.
    if mode == SslMode::Prefer && has_authorities && leaves_the_machine {
        config.ssl_mode(SslMode::Require);
        return Ok(Verify::Authority);
    }
    Ok(verify)
}

fn connector(verify: Verify, authorities: Option<&Authorities>) -> Result<MakeRustlsConnect, AddressError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let bad = |error: &dyn std::fmt::Display| AddressError::Authorities(error.to_string());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(&error))?;
    let authority = if verify == Verify::Nothing {
        None
    } else {
        let roots = Arc::new(roots(authorities)?);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
        Some(verifier.map_err(|error| bad(&error))?)
    };
    let verifier = Arc::new(Verifier { provider, authority, by_name: verify == Verify::AuthorityAndName });
    let config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

fn roots(authorities: Option<&Authorities>) -> Result<RootCertStore, AddressError> {
    let mut roots = RootCertStore::empty();
    let Some(pem) = authorities else {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        return Ok(roots);
    };
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| AddressError::Authorities(error.to_string()))?;
        roots.add(certificate).map_err(|error| AddressError::Authorities(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(AddressError::Authorities("there is no certificate in PEM form".to_owned()));
    }
    Ok(roots)
}

/// Looks at no more than `sslmode` says; that the server has the certificate's key is always seen.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    authority: Option<Arc<WebPkiServerVerifier>>,
    by_name: bool,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(authority) = &self.authority else { return Ok(ServerCertVerified::assertion()) };
        match authority.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.by_name => Ok(ServerCertVerified::assertion()),
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn verified(text: &str, has_authorities: bool) -> (Verify, SslMode) {
        let target = Target::parse(text, has_authorities).unwrap_or_else(|error| panic!("{text}: {error}"));
        (target.verify, target.config.get_ssl_mode())
    }

    /// Take out: a rule of the tokenizer (blanks, quotes, percent signs, the first @), or of `decide`.
    #[test]
    fn the_mode_decides_what_is_verified_however_it_is_spelt() {
        use Verify::{Authority, AuthorityAndName, Nothing};
        // What is verified without authorities, and with them.
        for (text, without, with) in [
            ("postgres://u:p@h/d", (Nothing, SslMode::Prefer), (Authority, SslMode::Require)),
            ("postgres://u:p@h/d?sslmode=prefer", (Nothing, SslMode::Prefer), (Authority, SslMode::Require)),
            ("host=h", (Nothing, SslMode::Prefer), (Authority, SslMode::Require)),
            // An operator may say so.
            ("postgres://u:p@h/d?sslmode=disable", (Nothing, SslMode::Disable), (Nothing, SslMode::Disable)),
            ("host=h sslmode = 'disable'", (Nothing, SslMode::Disable), (Nothing, SslMode::Disable)),
            // But not by a password or another setting.
            ("postgres://u:?sslmode=disable@h/d", (Nothing, SslMode::Prefer), (Authority, SslMode::Require)),
            ("host=h password='sslmode=disable'", (Nothing, SslMode::Prefer), (Authority, SslMode::Require)),
            (r"host=h password=x\ sslmode=disable", (Nothing, SslMode::Prefer), (Authority, SslMode::Require)),
            ("postgres://h/d?options=-c%20sslmode=disable", (Nothing, SslMode::Prefer), (Authority, SslMode::Require)),
            ("postgres://u:p@h/sslmode=disable", (Nothing, SslMode::Prefer), (Authority, SslMode::Require)),
            // A socket of this machine has no TLS; where the address is given, it is not the socket that is used.
            ("host=/run/postgresql", (Nothing, SslMode::Prefer), (Nothing, SslMode::Prefer)),
            ("postgres://u@%2Frun%2Fpostgresql/d", (Nothing, SslMode::Prefer), (Nothing, SslMode::Prefer)),
            ("host=/run/x,h", (Nothing, SslMode::Prefer), (Authority, SslMode::Require)),
            ("host=/run/x hostaddr=10.0.0.1", (Nothing, SslMode::Prefer), (Authority, SslMode::Require)),
        ] {
            assert_eq!(verified(text, false), without, "{text}");
            assert_eq!(verified(text, true), with, "{text}, with authorities");
        }
        for text in [
            "postgres://u:p@h/d?sslmode=MODE",
            "postgres://u:p@h?sslmode=MODE",
            "postgresql://u:p@h/d?connect_timeout=3&sslmode=MODE&",
            "postgres://u:p@h/d?%73slmode=MODE",
            "postgres://u:a://b@h/d?sslmode=MODE",
            "postgres://u:a?b&c@h/d?sslmode=MODE",
            "postgres://u:sslmode=disable@h/d?sslmode=MODE",
            "postgres://u:p@h,i:5433/d?sslmode=MODE",
            "postgres://h/d?options=-c%20sslmode=disable&sslmode=MODE",
            "host=h sslmode=MODE",
            "host=h sslmode = MODE",
            "host=h\nsslmode\t=\n'MODE'",
            "host=h password='a://b?sslmode=disable' sslmode=MODE",
            "sslmode='MODE' host=h",
        ] {
            for (mode, without, with) in [
                ("require", Nothing, Authority),
                ("verify-ca", Authority, Authority),
                ("verify-full", AuthorityAndName, AuthorityAndName),
            ] {
                let percent = format!("%{:02x}{}", mode.as_bytes()[0], &mode[1..]);
                let escaped = format!("\\{mode}");
                let other = if text.starts_with("postgres") { percent } else { escaped };
                for spelling in [mode, &other] {
                    let text = text.replace("MODE", spelling);
                    assert_eq!(verified(&text, false), (without, SslMode::Require), "{text}");
                    assert_eq!(verified(&text, true), (with, SslMode::Require), "{text}, with authorities");
                }
            }
        }
    }

    #[test]
    fn what_is_not_surely_understood_is_refused() {
        for text in [
            "postgres://h/d?SSLMODE=require",
            "postgres://h/d?sslmode=REQUIRE",
            "postgres://h/d?sslmode=verify-nothing",
            "postgres://h/d?sslmode=",
            "postgres://h/d?sslmode=require&sslmode=disable",
            "host=h sslmode=disable %73slmode=require",
            "host=h sslmode=require sslmode=require",
            "host=h =x sslmode=verify-full",
            "host=h sslmode",
            "postgres://h/d?a&sslmode=require",
            "postgres://h/d?sslmode=verify-full&application_name=a@b",
        ] {
            for has_authorities in [false, true] {
                assert!(Target::parse(text, has_authorities).is_err(), "{text}");
            }
        }
        assert_eq!(Target::parse(&"x".repeat(8193), false), Err(AddressError::Long));
    }

    #[test]
    fn files_are_the_hosts() {
        for text in [
            "postgres://u:p@h/d?sslrootcert=/etc/passwd",
            "postgres://u:p@h/d?%73slrootcert=/etc/passwd",
            "postgres://u:a?b@h/d?sslcert=x",
            "host=h sslkey=/etc/shadow",
            "host=h sslkey = '/etc/shadow'",
        ] {
            assert!(matches!(Target::parse(text, true), Err(AddressError::File(_))), "{text}");
        }
    }

    /// Take out: the second @ in `settings::of_url`, `check_hosts`, or `unreadable`.
    #[test]
    fn errors_tell_nothing_of_the_password() {
        for text in [
            "postgres://u:geheim@geheim@h/d",
            "postgres://u:x@geheim/geheim@h/d",
            "postgres://u:x@geheim?geheim=geheim@h/d",
            "postgres://geheim/geheim@h/d",
            "postgres://u:x@geheim%40h/d",
            "postgres://u:x@geheim%20h/d",
            "host=geheim@h",
            "host=h password=x geheim=y",
            "host=h password=x geheim",
            "postgres://h/d?geheim=x",
            "postgres://u:geheim@h/d?sslmode=verify-geheim",
            "postgres://u:geheim@h:geheim/d",
            "postgres://u:geheim@h/d?connect_timeout=geheim",
            "host=h hostaddr=geheim",
        ] {
            let error = Target::parse(text, false).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("geheim"), "{text}: {error}");
        }
        let error = Target::parse("postgres://u:p@h/d?connect_timeout=x", false).unwrap_err().to_string();
        assert!(error.contains("connect_timeout"), "{error}");
        let error = Target::parse("postgres://u:p@q@h/d", false).unwrap_err().to_string();
        assert!(error.contains("%40"), "{error}");
    }

    #[test]
    fn authorities_that_are_none_are_refused() {
        let error = Address::parse("postgres://h/d?sslmode=verify-full", Some(&"nonsense".into())).err().unwrap();
        assert!(error.to_string().contains("no certificate"), "{error}");
    }

    #[test]
    fn spellings_of_one_address_are_one_target() {
        let target = |text| Target::parse(text, false).unwrap();
        let url = target("postgres://u:p@h:5432/d?sslmode=require");
        assert_eq!(url, target("host = h  port=5432 user='u' password=p sslmode=require dbname=d"));
        assert_ne!(url, target("postgres://u:q@h:5432/d?sslmode=require"));
        assert_ne!(url, target("postgres://u:p@h:5432/d?sslmode=verify-ca"));
    }

    fn percent_encoded(text: &str) -> String {
        text.bytes().map(|byte| format!("%{byte:02x}")).collect()
    }

    fn quoted(text: &str) -> String {
        format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
    }

    fn expected(mode: Option<&str>, has_authorities: bool) -> Verify {
        match mode {
            Some("disable") => Verify::Nothing,
            Some("verify-full") => Verify::AuthorityAndName,
            Some("verify-ca") => Verify::Authority,
            _ if has_authorities => Verify::Authority,
            _ => Verify::Nothing,
        }
    }

    proptest! {
        #[test]
        fn no_password_and_no_other_setting_changes_what_is_verified(
            password: String,
            name: String,
            mode in prop::option::of(prop::sample::select(vec!["disable", "prefer", "require", "verify-ca", "verify-full"])),
            has_authorities: bool,
        ) {
            let in_url = mode.map(|mode| format!("&sslmode={mode}")).unwrap_or_default();
            let url = format!(
                "postgres://u:{}@h/d?application_name={}{in_url}",
                percent_encoded(&password), percent_encoded(&name)
            );
            let in_pairs = mode.map(|mode| format!("sslmode={mode}")).unwrap_or_default();
            let pairs = format!("host=h user=u password={} {in_pairs} application_name={}", quoted(&password), quoted(&name));
            for text in [url, pairs] {
                if text.len() > ADDRESS_BYTES_MAX {
                    continue;
                }
                let target = Target::parse(&text, has_authorities).unwrap();
                prop_assert_eq!(target.verify, expected(mode, has_authorities));
                prop_assert_eq!(target.config.get_password(), Some(password.as_bytes()));
                prop_assert_eq!(target.config.get_application_name(), Some(name.as_str()));
            }
        }

        #[test]
        fn whatever_is_read_is_what_the_client_reads(text in "(postgres://)?[a-z:@/?&= '%2f\\\\,sslmode]{0,40}") {
            if let Ok(target) = Target::parse(&text, false) {
                let client: Config = text.replace("verify-full", "require").replace("verify-ca", "require").parse().unwrap();
                prop_assert_eq!(target.config, client);
            }
        }
    }
}
