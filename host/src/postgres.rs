//! What the host's own connections to PostgreSQL and the functions' share: addresses and TLS.
//!
//! `sslmode` means what it means to libpq: `disable`, `prefer` (encrypted where the server offers
//! it; the default), `require` (encrypted; the server's name is not looked at), `verify-ca` (and
//! its certificate is a known authority's), `verify-full` (and it is the server of that name).
//! Authorities are those of `[exagg] postgres_ca_file`, of the guest's own `set-ca-root`, or, where
//! neither names any, the web's. A file in the address is refused: a guest chooses addresses, and
//! files are the host's.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres::Config;
use tokio_postgres_rustls::MakeRustlsConnect;

/// Certificates of authorities, PEM.
pub type Authorities = Arc<str>;

/// Why an address cannot be used: what it says of the password stays out of it.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    // The parser's own error names the part at fault, never the password.
    #[error("the address cannot be read: {0}")]
    Unreadable(#[from] tokio_postgres::Error),
    #[error("the address names {0}, which is a file of the host's: name it in [exagg] postgres_ca_file")]
    File(&'static str),
    #[error("the certificates of authorities cannot be used: {0}")]
    Authorities(String),
}

/// What is looked at in the server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verify {
    Nothing,
    Authority,
    AuthorityAndName,
}

/// How to reach a server.
#[derive(Clone)]
pub struct Address {
    pub config: Config,
    pub tls: MakeRustlsConnect,
}

impl Address {
    /// Reads a URL or a list of `key=value`.
    pub fn parse(text: &str, authorities: Option<&Authorities>) -> Result<Self, AddressError> {
        for file in ["sslrootcert", "sslcert", "sslkey"] {
            if parts(text).any(|part| part.split_once('=').is_some_and(|(name, _)| name == file)) {
                return Err(AddressError::File(file));
            }
        }
        let (text, verify) = strictness(text, authorities.is_some());
        Ok(Self { config: text.parse()?, tls: connector(verify, authorities)? })
    }
}

/// The settings of an address, in either form.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let settings = if text.contains("://") { text.split_once('?').map_or("", |(_, query)| query) } else { text };
    settings.split(|c: char| c == '&' || c.is_whitespace())
}

/// The address with an `sslmode` that the parser knows, and what is to be verified.
fn strictness(text: &str, has_authorities: bool) -> (String, Verify) {
    let says = |setting: &str| parts(text).any(|part| part == setting);
    for (mode, verify) in [("verify-full", Verify::AuthorityAndName), ("verify-ca", Verify::Authority)] {
        let setting = format!("sslmode={mode}");
        if says(&setting) {
            return (text.replace(&setting, "sslmode=require"), verify);
        }
    }
    // As libpq: whoever names an authority wants it looked at.
    let verify = if says("sslmode=require") && has_authorities { Verify::Authority } else { Verify::Nothing };
    (text.to_owned(), verify)
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
    use super::*;

    #[test]
    fn the_mode_decides_what_is_verified() {
        for (address, authorities, verify) in [
            ("postgres://u:p@h/d", false, Verify::Nothing),
            ("postgres://u:p@h/d?sslmode=require", false, Verify::Nothing),
            ("postgres://u:p@h/d?sslmode=require", true, Verify::Authority),
            ("postgres://u:p@h/d?connect_timeout=3&sslmode=verify-ca", false, Verify::Authority),
            ("postgres://u:p@h/d?sslmode=verify-full&connect_timeout=3", true, Verify::AuthorityAndName),
            ("host=h user=u sslmode=verify-full", false, Verify::AuthorityAndName),
        ] {
            let (text, found) = strictness(address, authorities);
            assert_eq!(found, verify, "{address}");
            assert!(text.parse::<Config>().is_ok(), "{text}");
        }
    }

    #[test]
    fn files_are_the_hosts_and_errors_tell_no_password() {
        let error = |text| Address::parse(text, None).err().unwrap().to_string();
        assert!(error("postgres://u:p@h/d?sslrootcert=/etc/passwd").contains("postgres_ca_file"));
        assert!(error("host=h sslkey=/etc/shadow").contains("sslkey"));
        assert!(!error("postgres://u:geheim@h/d?sslmode=verify-nothing").contains("geheim"));
    }

    #[test]
    fn authorities_that_are_none_are_refused() {
        let error = Address::parse("postgres://h/d?sslmode=verify-full", Some(&"nonsense".into())).err().unwrap();
        assert!(error.to_string().contains("no certificate"), "{error}");
    }
}
