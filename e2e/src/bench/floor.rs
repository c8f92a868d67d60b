//! The floor of the benchmarks: what merely receiving a camera's bytes costs, and receiving and appending them to a file.
//!
//! One thread, epoll, one read for each wakeup; `append` writes the bytes of each read to the stream's file and syncs all
//! files each `sync`. No RTP is looked at. A recorder that costs less than `append` has gained something real.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::epoll;

/// What is done with the bytes.
#[derive(Clone, Debug)]
pub enum Floor {
    /// Nothing.
    Drop,
    /// Each read is appended to `<folder>/<n>.raw`, all files synced each `sync`.
    Append {
        /// Where the files are made.
        folder: PathBuf,
        /// Between two rounds of `fdatasync`.
        sync: Duration,
    },
}

/// Plays all `urls` for `duration` and returns the number of bytes received.
///
/// # Errors
/// When a camera can't be played, or a file can't be written.
pub fn run(floor: &Floor, urls: &[String], duration: Duration) -> Result<u64> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut sockets = Vec::new();
    for (number, url) in urls.iter().enumerate() {
        let socket = play(url).with_context(|| format!("cannot play {url}"))?;
        socket.set_nonblocking(true)?;
        epoll::add(&poll, &socket, epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN)?;
        sockets.push(socket);
    }
    let mut files = Vec::new();
    if let Floor::Append { folder, .. } = floor {
        std::fs::create_dir_all(folder)?;
        for number in 0..urls.len() {
            files.push(File::create(folder.join(format!("{number:04}.raw")))?);
        }
    }
    let syncer = match floor {
        Floor::Append { sync, .. } => {
            let files = files.iter().map(File::try_clone).collect::<std::io::Result<Vec<_>>>()?;
            let sync = *sync;
            let until = Instant::now() + duration;
            Some(std::thread::spawn(move || {
                while Instant::now() < until {
                    let began = Instant::now();
                    for file in &files {
                        if file.sync_data().is_err() {
                            return;
                        }
                    }
                    std::thread::sleep(sync.saturating_sub(began.elapsed()));
                }
            }))
        }
        Floor::Drop => None,
    };

    let until = Instant::now() + duration;
    let mut buffer = vec![0_u8; 256 * 1024];
    let mut events = Vec::with_capacity(256);
    let mut received = 0_u64;
    while Instant::now() < until {
        let timeout = rustix::time::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&timeout))?;
        for event in events.drain(..) {
            let number = usize::try_from(event.data.u64())?;
            let (Some(socket), file) = (sockets.get_mut(number), files.get_mut(number)) else { continue };
            match socket.read(&mut buffer) {
                Ok(0) => bail!("camera {number} closed the session"),
                Ok(length) => {
                    received += length as u64;
                    if let (Some(file), Some(bytes)) = (file, buffer.get(..length)) {
                        file.write_all(bytes)?;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    if let Some(syncer) = syncer {
        let _ended = syncer.join();
    }
    Ok(received)
}

/// DESCRIBE, SETUP of each track over one interleaved connection, PLAY (RFC 2326 §10).
fn play(url: &str) -> Result<TcpStream> {
    let authority =
        url.strip_prefix("rtsp://").and_then(|rest| rest.split('/').next()).context("not an rtsp:// URL")?;
    let mut socket = TcpStream::connect(authority)?;
    socket.set_nodelay(true)?;
    let (_, description) = request(&mut socket, "DESCRIBE", url, 1, "Accept: application/sdp\r\n")?;
    let mut session = String::new();
    let mut sequence = 2;
    let mut base = url.to_owned();
    if !base.ends_with('/') {
        base.push('/');
    }
    let mut in_media = false;
    let mut channel = 0;
    for line in description.lines() {
        in_media |= line.starts_with("m=");
        let Some(control) = line.strip_prefix("a=control:").filter(|_| in_media) else { continue };
        let track = if control.starts_with("rtsp://") { control.to_owned() } else { format!("{base}{control}") };
        let transport = format!("Transport: RTP/AVP/TCP;unicast;interleaved={channel}-{}\r\n{session}", channel + 1);
        let (headers, _) = request(&mut socket, "SETUP", &track, sequence, &transport)?;
        let id = headers.get("session").context("SETUP was answered without a Session header")?;
        session = format!("Session: {}\r\n", id.split(';').next().unwrap_or(id));
        sequence += 1;
        channel += 2;
    }
    request(&mut socket, "PLAY", url, sequence, &format!("{session}Range: npt=0.000-\r\n"))?;
    Ok(socket)
}

/// One request and its answer: headers (names in lower case) and body. Interleaved data before the answer is thrown away.
fn request(
    socket: &mut TcpStream,
    method: &str,
    url: &str,
    sequence: u32,
    extra: &str,
) -> Result<(HashMap<String, String>, String)> {
    socket.write_all(format!("{method} {url} RTSP/1.0\r\nCSeq: {sequence}\r\n{extra}\r\n").as_bytes())?;
    let mut byte = [0_u8; 1];
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte)?;
        if head.is_empty() && byte == *b"$" {
            let mut frame = [0_u8; 3];
            socket.read_exact(&mut frame)?;
            let [_, high, low] = frame;
            let mut skipped = vec![0_u8; usize::from(u16::from_be_bytes([high, low]))];
            socket.read_exact(&mut skipped)?;
            continue;
        }
        head.extend_from_slice(&byte);
        if head.len() > 64 * 1024 {
            bail!("{method}: the answer's head is longer than 64 KiB");
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default();
    if !status.contains(" 200 ") {
        bail!("{method}: {status}");
    }
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.get("content-length").map_or(Ok(0), |length| length.parse::<usize>())?;
    let mut body = vec![0_u8; length.min(1 << 20)];
    socket.read_exact(&mut body)?;
    Ok((headers, String::from_utf8(body)?))
}
