//! Connections to upstreams: resolving, connecting, TLS; each failure told apart.
//!
//! TLS is done here and not by awc, so that the certificate roots are read when they are first needed.

use std::fmt;
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use actix_http::Uri;
use actix_rt::net::{ActixStream, Ready, TcpStream};
use actix_service::Service;
use actix_tls::connect::{ConnectError, ConnectInfo, Connection};
use futures_core::future::LocalBoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls;

use crate::platform::threads::RESOLVING;

/// How long it is believed that the system's certificate roots cannot be read.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Opens connections, encrypted or not.
#[derive(Clone)]
pub struct Connector {
    /// Whether connections are encrypted.
    pub is_tls: bool,
    /// Where every connection goes in place of its target, unencrypted.
    pub stand_in: Option<SocketAddr>,
}

/// A failed handshake, wrapped in an [`io::Error`] on its way through awc.
#[derive(Debug)]
pub struct TlsFailed(String);

impl fmt::Display for TlsFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TlsFailed {}

impl Service<ConnectInfo<Uri>> for Connector {
    type Response = Connection<Uri, Stream>;
    type Error = ConnectError;
    type Future = LocalBoxFuture<'static, Result<Self::Response, Self::Error>>;

    actix_service::always_ready!();

    fn call(&self, info: ConnectInfo<Uri>) -> Self::Future {
        let Self { is_tls, stand_in } = *self;
        Box::pin(async move {
            if let Some(stand_in) = stand_in {
                let stream = TcpStream::connect(stand_in).await;
                let stream = Stream::Plain(stream.map_err(ConnectError::Io)?);
                return Ok(Connection::new(info.request().clone(), stream));
            }
            let host = info
                .hostname()
                .trim_start_matches('[')
                .trim_end_matches(']')
                .to_owned();
            let addresses = look_up(host.clone(), info.port()).await?;
            if addresses.is_empty() {
                return Err(ConnectError::NoRecords);
            }
            let stream = TcpStream::connect(&*addresses)
                .await
                .map_err(ConnectError::Io)?;
            // A request is written in one piece; waiting for more would only add latency.
            stream.set_nodelay(true).map_err(ConnectError::Io)?;
            let stream = if is_tls {
                Stream::Tls(Box::new(handshake(host, stream).await?))
            } else {
                Stream::Plain(stream)
            };
            Ok(Connection::new(info.request().clone(), stream))
        })
    }
}

/// Asks the system for the addresses of a host, on a thread that may wait for other machines.
async fn look_up(host: String, port: u16) -> Result<Vec<SocketAddr>, ConnectError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let found = RESOLVING.run(move || (host, port).to_socket_addrs().map(Vec::from_iter));
    match found.await {
        Ok(Ok(addresses)) => Ok(addresses),
        Ok(Err(cause)) => Err(ConnectError::Resolver(Box::new(cause))),
        Err(cause) => Err(ConnectError::Resolver(Box::new(cause))),
    }
}

/// Connects to a listener of the host's own, asks for nothing, and waits until it has been accepted and closed. Blocks.
///
/// # Errors
/// Where that does not happen in time.
pub fn knock(listener: SocketAddr, timeout: Duration) -> io::Result<()> {
    let mut stream = std::net::TcpStream::connect_timeout(&listener, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.read_to_end(&mut Vec::new()).map(drop)
}

async fn handshake(host: String, stream: TcpStream) -> Result<TlsStream<TcpStream>, ConnectError> {
    let failed = |cause: String| ConnectError::Io(io::Error::other(TlsFailed(cause)));
    let name =
        rustls::pki_types::ServerName::try_from(host).map_err(|cause| failed(cause.to_string()))?;
    let config = client_config().map_err(failed)?;
    TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(|cause| failed(cause.to_string()))
}

/// Where SSL_CERT_FILE and SSL_CERT_DIR were at the start.
static ROOTS: OnceLock<[Option<PathBuf>; 2]> = OnceLock::new();

/// Remembers where the operator keeps certificate roots: they are read at the first encrypted call, and an extension may have
/// changed the environment or the working directory by then.
pub fn remember_roots() {
    ROOTS.get_or_init(|| {
        ["SSL_CERT_FILE", "SSL_CERT_DIR"].map(|name| {
            let path = std::env::var_os(name).filter(|path| !path.is_empty())?;
            std::path::absolute(path).ok()
        })
    });
}

fn load_roots() -> rustls_native_certs::CertificateResult {
    match ROOTS.get() {
        Some([file, folder]) if file.is_some() || folder.is_some() => {
            rustls_native_certs::load_certs_from_paths(file.as_deref(), folder.as_deref())
        }
        _ => rustls_native_certs::load_native_certs(),
    }
}

/// The process's TLS settings: made at the first encrypted call, for reading the system's roots takes time and memory. Where they
/// could not be read, they are tried again by a later call.
fn client_config() -> Result<Arc<rustls::ClientConfig>, String> {
    static CONFIG: Mutex<Option<Made>> = Mutex::new(None);
    let mut config = CONFIG.lock().unwrap_or_else(PoisonError::into_inner);
    match &*config {
        Some(Made::Config(config)) => return Ok(config.clone()),
        Some(Made::Failed(when, cause)) if when.elapsed() < TRY_AGAIN_AFTER => {
            return Err(cause.clone());
        }
        Some(Made::Failed(..)) | None => {}
    }
    let made = make_client_config();
    *config = Some(match &made {
        Ok(config) => Made::Config(config.clone()),
        Err(cause) => Made::Failed(Instant::now(), cause.clone()),
    });
    made
}

/// What came of making the settings.
enum Made {
    Config(Arc<rustls::ClientConfig>),
    Failed(Instant, String),
}

fn make_client_config() -> Result<Arc<rustls::ClientConfig>, String> {
    let found = load_roots();
    let mut roots = rustls::RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        return Err(format!(
            "no certificate roots were found{}; install ca-certificates or set SSL_CERT_FILE",
            found
                .errors
                .first()
                .map(|error| format!(" ({error})"))
                .unwrap_or_default()
        ));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|cause| cause.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A connection to an upstream.
#[derive(Debug)]
pub enum Stream {
    /// Not encrypted.
    Plain(TcpStream),
    /// Encrypted.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl ActixStream for Stream {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        self.tcp().poll_read_ready(cx).map_ok(|()| Ready::READABLE)
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        self.tcp().poll_write_ready(cx).map_ok(|()| Ready::WRITABLE)
    }
}
