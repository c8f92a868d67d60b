//! A connection's socket: read once a tick into a buffer that all connections share, written when there is something to say. Nothing wakes
//! anybody between ticks: after it is connected, the socket is in no event loop.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::ops::ControlFlow;

use url::{Host, Url};

use super::wire::{Channels, MAX_KEPT_BYTES, Piece, Trust, Wire, WireError};

/// Most bytes read of one session in one tick: what is more waits for the next one, so that a camera that floods does not hold up
/// the others. 640 Mbit/s at ten ticks a second.
const MAX_BYTES_A_TICK: usize = 8 << 20;

/// Bytes asked for at once: more than a tick's worth of most cameras, so that one call is enough, and little enough to stay in the cache.
const READ_BYTES: usize = 256 << 10;

const DEFAULT_PORT: u16 = 554;

/// Bytes that were read, of whichever connection is being read.
#[derive(Default)]
pub(super) struct SharedBuffer(Vec<u8>);

/// Why a connection cannot be read on.
#[derive(Debug)]
pub(super) enum ReadError {
    /// The other side closed it.
    Closed,
    /// It broke.
    Broken(io::Error),
    /// What came is not RTSP.
    Wire(WireError),
}

/// A connected socket and the beginning of what is not whole yet.
pub(super) struct Connection {
    stream: TcpStream,
    wire: Wire,
    kept: Vec<u8>,
}

/// Connects to the host of `url`. Needs a tokio runtime until it is done, and none afterwards.
pub(super) async fn connect(url: Url) -> io::Result<Connection> {
    let port = url.port().unwrap_or(DEFAULT_PORT);
    let stream = match url.host() {
        Some(Host::Ipv4(ip)) => tokio::net::TcpStream::connect((ip, port)).await?,
        Some(Host::Ipv6(ip)) => tokio::net::TcpStream::connect((ip, port)).await?,
        Some(Host::Domain(name)) => tokio::net::TcpStream::connect((name, port)).await?,
        None => return Err(io::Error::new(ErrorKind::InvalidInput, "no host")),
    };
    stream.set_nodelay(true)?;
    // Stays non-blocking.
    let stream = stream.into_std()?;
    Ok(Connection { stream, wire: Wire::default(), kept: Vec::new() })
}

impl Connection {
    /// Sends what the socket takes of `unsent`.
    pub(super) fn send(&mut self, unsent: &mut Vec<u8>) {
        while !unsent.is_empty() {
            match self.stream.write(unsent) {
                Ok(sent @ 1..) => drop(unsent.drain(..sent.min(unsent.len()))),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // What has come before is read yet; reading then tells.
                Ok(0) | Err(_) => unsent.clear(),
            }
        }
    }

    /// Reads what has arrived, a tick's worth at most, and gives `on` each piece until it breaks.
    pub(super) fn receive<B>(
        &mut self,
        buffer: &mut SharedBuffer,
        owner: &mut B,
        expected: impl Fn(&B) -> (Channels, Trust),
        mut on: impl FnMut(&mut B, Piece<'_>) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        let mut total = 0;
        while total < MAX_BYTES_A_TICK {
            let kept = self.kept.len();
            if buffer.0.len() < kept + READ_BYTES {
                buffer.0.resize(kept + READ_BYTES, 0);
            }
            let Some((front, back)) = buffer.0.split_at_mut_checked(kept) else { break };
            let Some(room) = back.get_mut(..READ_BYTES) else { break };
            let read = match self.stream.read(room) {
                Ok(0) => return Err(ReadError::Closed),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(ReadError::Broken(error)),
            };
            total += read;
            front.copy_from_slice(&self.kept);
            self.kept.clear();
            let Some(mut rest) = buffer.0.get(..kept + read) else { break };
            loop {
                let (piece, used) = if let Some((channel, data, used)) = self.wire.packet(rest) {
                    (Piece::Frame { channel, data }, used)
                } else {
                    let (channels, trust) = expected(owner);
                    let Some(next) = self.wire.next(rest, channels, trust).map_err(ReadError::Wire)? else { break };
                    next
                };
                rest = rest.get(used..).unwrap_or_default();
                if on(owner, piece).is_break() {
                    return Ok(());
                }
            }
            self.kept.extend_from_slice(rest);
            debug_assert!(self.kept.len() <= MAX_KEPT_BYTES);
            if read < READ_BYTES {
                // The socket had no more.
                break;
            }
        }
        if self.kept.is_empty() && self.kept.capacity() > READ_BYTES {
            // A long message is over.
            self.kept = Vec::new();
        }
        Ok(())
    }
}
