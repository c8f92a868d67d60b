//! One connection with a peer: shaken hands, then heartbeats both ways until it ends.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use framekeeper_takeover::heartbeat::{HEAD_BYTES, Heartbeat, HeartbeatError, body_bytes};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use uuid::Uuid;

use crate::key::PublicKey;
use crate::tls::{Ends, Known};
use crate::trouble::{Refusal, Trouble, UnknownKey};

/// A handshake, or a connection being made, that takes longer is none.
const SHAKE_AT_MOST: Duration = Duration::from_secs(2);
/// A connection on which nothing came for longer is half open: it is closed, and dialled again.
const IDLE_AT_MOST: Duration = Duration::from_secs(5);
/// A connection that ended sooner was of no use.
const OF_USE: Duration = Duration::from_secs(1);
/// Heartbeats that wait to be sent; more are not worth sending.
const WAITING: usize = 4;
/// The name in a handshake is not looked at: the key is.
const ANY_NAME: &str = "recorder.invalid";

/// What happens on connections.
pub(crate) enum Event {
    /// It stands.
    Up(Connection),
    /// A heartbeat came.
    Heard { peer: Uuid, connection: u64, heartbeat: Heartbeat },
    /// It ended.
    Down { peer: Uuid, connection: u64, why: Ended },
    /// Somebody came who was not let in.
    Refused { from: SocketAddr, why: Refusal },
    /// A peer was dialled in vain.
    NotReached { peer: Uuid, why: Trouble },
    /// A peer was found where another one was dialled.
    Found { peer: Uuid, at: SocketAddr },
}

/// The sending end of a connection; it is closed when this is dropped.
pub(crate) struct Connection {
    pub(crate) number: u64,
    pub(crate) peer: Uuid,
    pub(crate) key: PublicKey,
    pub(crate) dialled: bool,
    /// The other end.
    pub(crate) remote: SocketAddr,
    pub(crate) out: mpsc::Sender<Arc<[u8]>>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("nothing came for {} s", IDLE_AT_MOST.as_secs())]
    Idle,
    #[error("{0}")]
    Malformed(#[from] HeartbeatError),
    #[error("it says that it is {0}, and has another one's key")]
    Impostor(Uuid),
    #[error("this recorder closed it")]
    Closed,
}

/// A connection whose other end is known.
pub(crate) struct Shaken {
    stream: TlsStream<TcpStream>,
    pub(crate) peer: Uuid,
    pub(crate) key: PublicKey,
    dialled: bool,
    pub(crate) remote: SocketAddr,
}

#[cfg(test)]
impl Shaken {
    /// The connection itself.
    pub(crate) fn stream(&mut self) -> &mut TlsStream<TcpStream> {
        &mut self.stream
    }
}

/// Dials; `address` is `host:port`. Whoever is there is known, and may be another one than was looked for.
pub(crate) async fn dial(address: &str, ends: &Ends, known: &Known) -> io::Result<Shaken> {
    let shake = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(ANY_NAME).map_err(io::Error::other)?;
        TlsConnector::from(Arc::clone(&ends.client)).connect(name, stream).await
    };
    known_as(in_time(shake).await?.into(), known, true)
}

/// Lets in who came, if its key is known.
pub(crate) async fn accept(stream: TcpStream, ends: &Ends, known: &Known) -> io::Result<Shaken> {
    let shake = async {
        stream.set_nodelay(true)?;
        TlsAcceptor::from(Arc::clone(&ends.server)).accept(stream).await
    };
    known_as(in_time(shake).await?.into(), known, false)
}

async fn in_time<T>(shake: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(SHAKE_AT_MOST, shake).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn known_as(stream: TlsStream<TcpStream>, known: &Known, dialled: bool) -> io::Result<Shaken> {
    let (socket, session) = stream.get_ref();
    let remote = socket.peer_addr()?;
    let key = session.peer_certificates().and_then(<[_]>::first).and_then(|key| PublicKey::from_der(key));
    let key = key.ok_or_else(|| io::Error::other("it has no key"))?;
    // The plan may have changed since the handshake looked.
    let peer = known.of(key).ok_or_else(|| io::Error::other(UnknownKey(key)))?;
    Ok(Shaken { stream, peer, key, dialled, remote })
}

/// Until it ends. Whether it was of any use for a while: one that is not is not dialled again at once.
pub(crate) async fn run(shaken: Shaken, number: u64, events: mpsc::Sender<Event>) -> bool {
    let Shaken { stream, peer, key, dialled, remote } = shaken;
    let (out, mut waiting) = mpsc::channel::<Arc<[u8]>>(WAITING);
    // Whoever does not want to know has ended.
    let _ = events.send(Event::Up(Connection { number, peer, key, dialled, remote, out })).await;
    let (mut read, mut write) = tokio::io::split(stream);
    let (begun, mut has_heard) = (Instant::now(), false);
    let reading = async {
        loop {
            let heartbeat = match timeout(IDLE_AT_MOST, heard(&mut read)).await {
                Ok(heard) => heard?,
                Err(_) => return Err::<(), Ended>(Ended::Idle),
            };
            if heartbeat.sender != peer {
                return Err(Ended::Impostor(heartbeat.sender));
            }
            has_heard = true;
            let _ = events.send(Event::Heard { peer, connection: number, heartbeat }).await;
        }
    };
    let writing = async {
        while let Some(bytes) = waiting.recv().await {
            write.write_all(&bytes).await?;
            write.flush().await?;
        }
        Err::<(), Ended>(Ended::Closed)
    };
    let why = tokio::select! {
        ended = reading => ended,
        ended = writing => ended,
    };
    let why = why.err().unwrap_or(Ended::Closed);
    let _ = events.send(Event::Down { peer, connection: number, why }).await;
    has_heard && begun.elapsed() >= OF_USE
}

async fn heard(read: &mut (impl tokio::io::AsyncRead + Unpin)) -> Result<Heartbeat, Ended> {
    let mut head = [0; HEAD_BYTES];
    read.read_exact(&mut head).await?;
    let mut body = vec![0; body_bytes(&head)?];
    read.read_exact(&mut body).await?;
    Ok(Heartbeat::decode(&body)?)
}
