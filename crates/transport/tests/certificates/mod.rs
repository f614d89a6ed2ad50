//! Clusters as TLS sees them: an authority, and ends that have a certificate of it.
#![allow(dead_code)] // every program uses a part of it

use std::{
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
    client::WantsClientCert,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
    server::WebPkiClientVerifier,
    version::TLS13,
};
use transport::{TlsLink, tls};

pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

/// Time for a handshake that is to succeed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// An authority.
pub(crate) struct Cluster(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
pub(crate) struct Identity {
    pub(crate) certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Cluster {
    pub(crate) fn new() -> Result<Cluster, Error> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Cluster(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    pub(crate) fn identity(&self, name: &str) -> Result<Identity, Error> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new([name.to_owned()])?.signed_by(&key, &self.0)?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        Ok(Identity { certificate: certificate.der().clone(), key })
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, Error> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone())?;
        Ok(roots.into())
    }

    /// For an end that calls members of this cluster.
    pub(crate) fn client(&self, me: &Identity) -> Result<Arc<ClientConfig>, Error> {
        let config = self.client_of(&[&TLS13])?;
        Ok(config.with_client_auth_cert(vec![me.certificate.clone()], me.key.clone_key())?.into())
    }

    pub(crate) fn client_of(
        &self,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Result<rustls::ConfigBuilder<ClientConfig, WantsClientCert>, Error> {
        let config = ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions)?;
        Ok(config.with_root_certificates(self.roots()?))
    }

    /// For an end that is called by members of this cluster.
    pub(crate) fn server(&self, me: &Identity) -> Result<Arc<ServerConfig>, Error> {
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots()?, provider()).build()?;
        let config = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
        let config = config.with_client_cert_verifier(verifier);
        Ok(config.with_single_cert(vec![me.certificate.clone()], me.key.clone_key())?.into())
    }

    /// For an end that asks nobody who calls, in any version.
    pub(crate) fn careless_server(&self, me: &Identity) -> Result<Arc<ServerConfig>, Error> {
        let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        let config = config.with_no_client_auth();
        Ok(config.with_single_cert(vec![me.certificate.clone()], me.key.clone_key())?.into())
    }
}

pub(crate) fn name(name: &'static str) -> ServerName<'static> {
    ServerName::try_from(name).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Two ends of a link, of one cluster.
pub(crate) fn pair() -> Result<(TlsLink, TlsLink), Error> {
    let cluster = Cluster::new()?;
    let (a, b) = (cluster.identity("node-a")?, cluster.identity("node-b")?);
    let (client, server) = (cluster.client(&a)?, cluster.server(&b)?);
    let (calling, called) = sockets()?;
    let b = thread::spawn(move || tls::accept(called, "tls peer a", server, PATIENCE));
    let a = tls::connect(calling, "tls peer b", client, name("node-b"), PATIENCE)?;
    Ok((a, b.join().map_err(|_| "the accepting thread panicked")??))
}

pub(crate) fn sockets() -> Result<(TcpStream, TcpStream), Error> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let a = TcpStream::connect(listener.local_addr()?)?;
    Ok((a, listener.accept()?.0))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
