//! What can go wrong before a TLS link stands: the peer, its certificate, what it speaks.

use std::{
    error::Error,
    io::{self, ErrorKind},
    time::Duration,
};

use rustls::{AlertDescription, PeerIncompatible};

/// Bytes of plain text that an error shows, at most.
const MAX_SHOWN_BYTES: usize = 16;

/// Why there is no TLS link.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The peer was silent, or too slow.
    #[error("{peer}: the TLS handshake took longer than {} ms", .timeout.as_millis())]
    TimedOut {
        /// The other end.
        peer: String,
        /// The time it had.
        timeout: Duration,
    },
    /// The peer went away in the middle.
    #[error("{peer} closed the connection during the TLS handshake\nhint: its own output says why")]
    Closed {
        /// The other end.
        peer: String,
    },
    /// The operating system reports a failure, such as a reset.
    #[error("{peer}: the TLS handshake failed: {source}")]
    Io {
        /// The other end.
        peer: String,
        /// The system's words.
        source: io::Error,
    },
    /// What came is no TLS.
    #[error("{peer}: expected TLS, found plain text {found:?}\nhint: one of the two ends has encryption off")]
    PlainText {
        /// The other end.
        peer: String,
        /// Its first bytes.
        found: String,
    },
    /// The peer speaks another version.
    #[error("{peer}: expected TLS 1.3, found {found}")]
    Version {
        /// The other end.
        peer: String,
        /// What it speaks, as far as it can be told.
        found: String,
    },
    /// Our verifier does not accept the peer's certificate.
    #[error(
        "{peer}: its certificate is refused: {source}\nhint: it belongs to another cluster, or a clock is wrong"
    )]
    Certificate {
        /// The other end.
        peer: String,
        /// The verifier's words.
        source: rustls::Error,
    },
    /// The peer does not accept ours.
    #[error(
        "{peer} refuses our certificate: {alert:?}\nhint: its own output says why; has this machine joined its cluster?"
    )]
    Refused {
        /// The other end.
        peer: String,
        /// Its reason, as TLS names it.
        alert: AlertDescription,
    },
    /// The peer showed no certificate.
    #[error("{peer}: expected a certificate, found none")]
    Anonymous {
        /// The other end.
        peer: String,
    },
    /// TLS, but not a link.
    #[error("{peer}: expected the greeting {expected:02x?} behind the TLS handshake, found {found:02x?}")]
    Greeting {
        /// The other end.
        peer: String,
        /// How a link begins.
        expected: [u8; 4],
        /// What came.
        found: [u8; 4],
    },
    /// The peer breaks TLS's rules, or this end is configured wrongly.
    #[error("{peer}: the TLS handshake failed: {source}")]
    Protocol {
        /// The other end.
        peer: String,
        /// What rustls found.
        source: rustls::Error,
    },
}

impl TlsError {
    /// Names what a step of the handshake ran into; `last_read` is what came last.
    pub(super) fn new(peer: String, source: io::Error, last_read: &[u8]) -> TlsError {
        if matches!(source.kind(), ErrorKind::UnexpectedEof) {
            return TlsError::Closed { peer };
        }
        let found =
            source.get_ref().and_then(|source| (source as &dyn Error).downcast_ref::<rustls::Error>());
        match found.cloned() {
            Some(found) => TlsError::of_tls(peer, found, last_read),
            None => TlsError::Io { peer, source },
        }
    }

    fn of_tls(peer: String, source: rustls::Error, last_read: &[u8]) -> TlsError {
        match source {
            rustls::Error::InvalidMessage(_) if !is_record(last_read) => {
                let shown = &last_read[..last_read.len().min(MAX_SHOWN_BYTES)];
                TlsError::PlainText { peer, found: shown.escape_ascii().to_string() }
            }
            rustls::Error::InvalidCertificate(_) => TlsError::Certificate { peer, source },
            rustls::Error::NoCertificatesPresented => TlsError::Anonymous { peer },
            rustls::Error::PeerIncompatible(
                PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
                | PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled,
            ) => TlsError::Version { peer, found: "another version only".to_owned() },
            rustls::Error::AlertReceived(AlertDescription::ProtocolVersion) => {
                TlsError::Version { peer, found: "a peer that refuses it".to_owned() }
            }
            rustls::Error::AlertReceived(alert) if is_about_certificates(alert) => {
                TlsError::Refused { peer, alert }
            }
            source => TlsError::Protocol { peer, source },
        }
    }
}

/// Whether bytes begin as TLS does: a kind of record, and a version from 3.0 to 3.4.
fn is_record(bytes: &[u8]) -> bool {
    matches!(bytes, [20..=24, 3, 0..=4, ..])
}

fn is_about_certificates(alert: AlertDescription) -> bool {
    use AlertDescription::{
        AccessDenied, BadCertificate, CertificateExpired, CertificateRequired, CertificateRevoked,
        CertificateUnknown, DecryptError, NoCertificate, UnknownCA, UnsupportedCertificate,
    };
    matches!(
        alert,
        AccessDenied
            | BadCertificate
            | CertificateExpired
            | CertificateRequired
            | CertificateRevoked
            | CertificateUnknown
            | DecryptError
            | NoCertificate
            | UnknownCA
            | UnsupportedCertificate
    )
}
