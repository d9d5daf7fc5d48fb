//! Certificates.

use crate::{error::Error, options::TlsFiles};
use std::sync::{Arc, PoisonError, RwLock};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

/// The certificate that connections get; it may be exchanged while the server runs.
pub(crate) struct Tls {
    files: TlsFiles,
    now: RwLock<TlsAcceptor>,
}

impl Tls {
    pub(crate) fn open(files: TlsFiles) -> Result<Self, Error> {
        let now = RwLock::new(acceptor(&files)?);
        Ok(Self { files, now })
    }

    /// For one connection.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.now
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Reads the files again; if they are no good, those before stay.
    pub(crate) fn reload(&self) {
        match acceptor(&self.files) {
            Ok(acceptor) => {
                *self.now.write().unwrap_or_else(PoisonError::into_inner) = acceptor;
                tracing::info!("read the TLS certificate again");
            }
            Err(error) => tracing::error!(%error, "the TLS certificate before stays"),
        }
    }
}

fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, Error> {
    let bad = |path: &std::path::Path| {
        let path = path.to_owned();
        move |reason: &dyn std::fmt::Display| Error::Tls {
            path,
            reason: reason.to_string(),
        }
    };
    let certificates = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| bad(&files.certificate)(&error))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| bad(&files.key)(&error))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(&files.certificate)(&error))?;
    let config = builder
        .with_no_client_auth()
        .with_single_cert(certificates, key);
    let mut config = config.map_err(|error| bad(&files.certificate)(&error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
