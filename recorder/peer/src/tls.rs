//! TLS 1.3 between two that know each other's keys: raw public keys (RFC 7250) in place of certificates, in both directions.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring as provider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
};
use uuid::Uuid;

use crate::key::{Identity, PublicKey};
use crate::trouble::UnknownKey;

/// The keys of the peers, and whose they are. Changed while connections stand: those that are there already are looked at by
/// whoever changes it.
#[derive(Debug, Default)]
pub(crate) struct Known(RwLock<HashMap<PublicKey, Uuid>>);

impl Known {
    pub(crate) fn set(&self, keys: HashMap<PublicKey, Uuid>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// Whose key it is.
    pub(crate) fn of(&self, key: PublicKey) -> Option<Uuid> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&key).copied()
    }
}

/// The two ends of a connection.
pub(crate) struct Ends {
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) server: Arc<ServerConfig>,
}

impl Ends {
    /// Of a recorder with this key, which lets in whom `known` has.
    ///
    /// # Errors
    /// When the library does not take the key; not with one of [`Identity`].
    pub(crate) fn new(identity: &Identity, known: Arc<Known>) -> Result<Self, Error> {
        let provider = Arc::new(provider::default_provider());
        let key = provider::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(identity.pkcs8()))?;
        let public = key.public_key().ok_or(Error::General("the key has no public part".to_owned()))?;
        let own = Arc::new(CertifiedKey::new(vec![CertificateDer::from(public.to_vec())], key));
        let judge = Arc::new(ByKey { known, provider: Arc::clone(&provider) });
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::<ByKey>::clone(&judge))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(Arc::clone(&own))));
        let server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(judge)
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(own)));
        Ok(Self { client: Arc::new(client), server: Arc::new(server) })
    }
}

/// Lets in whose key is known, whatever it calls itself and whatever time it is.
#[derive(Debug)]
struct ByKey {
    known: Arc<Known>,
    provider: Arc<CryptoProvider>,
}

impl ByKey {
    fn judge(&self, key: &CertificateDer<'_>) -> Result<(), Error> {
        let key = PublicKey::from_der(key).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let known = self.known.of(key).is_some();
        if known { Ok(()) } else { Err(UnknownKey(key).into()) }
    }

    fn signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(key.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.provider.signature_verification_algorithms)
    }
}

/// TLS 1.2 knows no raw public keys here, and is not offered.
fn too_old() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("TLS 1.3 is needed".to_owned()))
}

impl ServerCertVerifier for ByKey {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(key).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _key: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        too_old()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, key, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for ByKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        key: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(key).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _key: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        too_old()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, key, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
