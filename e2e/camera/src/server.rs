//! The server: one thread, one tick. On each tick it emits the frames that are due, hands them to the sockets, and reads
//! what clients sent; between ticks nothing wakes.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use rustix::event::{Timespec, epoll};

use crate::auth::Nonces;
use crate::camera::{Camera, Frame, LatestFrames, event};
use crate::clip::{Cache, Loop, resolve, sound};
use crate::conn::{Connection, Gone, Phase};
use crate::control::{self, Command};
use crate::fault::Fault;
use crate::ledger::{EndReason, Kind, Record};
use crate::source::{VideoSource, encoder};
use crate::spec::{CameraSpec, VideoKind};

/// epoll's name for the listener; connections have their keys.
const LISTENER: u64 = u64::MAX;

/// What a server is started with.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Where RTSP is served; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where the control interface is served, if at all.
    pub control: Option<SocketAddr>,
    /// Folder of the ledgers; made if missing.
    pub log_dir: PathBuf,
    /// Folder in which encoded clips are kept.
    pub cache_dir: PathBuf,
    /// Interval at which the server wakes.
    pub tick: Duration,
    /// The cameras; those with a `count` become so many.
    pub cameras: Vec<CameraSpec>,
}

impl ServerConfig {
    /// A server on a free port of 127.0.0.1, without control interface, with a tick of 10 ms.
    pub fn new(log_dir: impl Into<PathBuf>, cameras: Vec<CameraSpec>) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            control: None,
            log_dir: log_dir.into(),
            cache_dir: std::env::temp_dir().join("ledger-camera-cache"),
            tick: Duration::from_millis(10),
            cameras,
        }
    }
}

/// A running server; dropping it stops it.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    control_addr: Option<SocketAddr>,
    log_dir: PathBuf,
    commands: mpsc::Sender<Command>,
    thread: Option<std::thread::JoinHandle<anyhow::Result<()>>>,
}

impl Server {
    /// Starts a server on threads of its own.
    ///
    /// Errors: a wrong camera (named), a port in use, a folder that can't be written, a clip that can't be encoded.
    pub fn start(config: ServerConfig) -> anyhow::Result<Self> {
        let specs: Vec<_> = config.cameras.iter().flat_map(CameraSpec::expand).collect();
        let mut names = std::collections::HashSet::new();
        for spec in &specs {
            spec.check()?;
            if !names.insert(&spec.name) {
                bail!("name: `{}`: two cameras have it", spec.name);
            }
        }
        std::fs::create_dir_all(&config.log_dir).with_context(|| format!("log folder {}", config.log_dir.display()))?;
        let mut cache = Cache::new(&config.cache_dir);
        let mut sources = Vec::new();
        for spec in &specs {
            let spec = resolve(spec)?;
            let video: Box<dyn VideoSource> = match spec.kind {
                VideoKind::Clip => Box::new(Loop::new(cache.clip(&spec)?, spec.fps)),
                VideoKind::Synthetic | VideoKind::Frozen | VideoKind::Black => Box::new(encoder(&spec)),
            };
            let sound = sound(&spec, &mut cache)?;
            sources.push(Source { spec, video, sound });
        }

        let listener = listen(config.listen)?;
        let addr = listener.local_addr()?;
        let (commands, inbox) = mpsc::channel();
        let control_addr = config.control.map(|control| control::start(control, commands.clone())).transpose()?;
        let mut state = State::new(&config, addr, listener, inbox)?;
        state.add_cameras(sources, &config.log_dir)?;
        let thread = std::thread::Builder::new().name("ledger-camera".to_owned()).spawn(move || state.run())?;
        Ok(Self { addr, control_addr, log_dir: config.log_dir, commands, thread: Some(thread) })
    }

    /// Where RTSP is served.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where the control interface is served.
    pub fn control_addr(&self) -> Option<SocketAddr> {
        self.control_addr
    }

    /// The URL of a camera, without credentials.
    pub fn url(&self, name: &str) -> String {
        format!("rtsp://{}/{name}", self.addr)
    }

    /// The ledger of a camera.
    pub fn ledger_path(&self, name: &str) -> PathBuf {
        self.log_dir.join(format!("{name}.ledger"))
    }

    /// Switches a fault of a camera.
    ///
    /// Errors: no such camera, or it can't do it.
    pub fn fault(&self, name: &str, fault: Fault) -> anyhow::Result<()> {
        let (reply, answer) = mpsc::channel();
        self.commands.send(Command::Fault { camera: name.to_owned(), fault, reply })?;
        answer.recv()?.map_err(anyhow::Error::msg)
    }

    /// Newest emitted frames of a camera.
    ///
    /// Errors: no such camera.
    pub fn latest(&self, name: &str) -> anyhow::Result<LatestFrames> {
        let (reply, answer) = mpsc::channel();
        self.commands.send(Command::Latest { camera: name.to_owned(), reply })?;
        answer.recv()?.with_context(|| format!("no camera `{name}`"))
    }

    /// Stops or resumes accepting connections: the port is closed, those that exist stay.
    ///
    /// Errors: the port was taken by somebody else in the meantime.
    pub fn accepting(&self, on: bool) -> anyhow::Result<()> {
        let (reply, answer) = mpsc::channel();
        self.commands.send(Command::Accepting { on, reply })?;
        answer.recv()?.map_err(anyhow::Error::msg)
    }

    /// Stops it; ledgers get their last records.
    ///
    /// Errors: what it ended with before, for example a ledger that could not be written.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.stop_and_join()
    }

    /// Whether it still runs; it ends by itself only when a ledger can't be written.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    fn stop_and_join(&mut self) -> anyhow::Result<()> {
        // It may have ended already; joining tells.
        let _ = self.commands.send(Command::Stop);
        match self.thread.take().map(std::thread::JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => bail!("the server's thread panicked"),
            None => Ok(()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Whoever wants to know calls `stop`.
        let _ = self.stop_and_join();
    }
}

/// What one camera is made of.
struct Source {
    spec: CameraSpec,
    video: Box<dyn VideoSource>,
    sound: Option<Arc<Vec<Vec<u8>>>>,
}

fn listen(addr: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(addr).with_context(|| format!("listen {addr}"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Nanoseconds since the Unix epoch.
pub(crate) fn wall_ns() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64)
}

/// Everything the server's thread has.
pub(crate) struct State {
    pub(crate) addr: SocketAddr,
    listener: Option<TcpListener>,
    epoll: OwnedFd,
    inbox: mpsc::Receiver<Command>,
    pub(crate) cameras: Vec<Camera>,
    connections: Vec<Option<Connection>>,
    pub(crate) nonces: Nonces,
    pub(crate) next_session: u64,
    tick: Duration,
    started: Instant,
    frames: Vec<Frame>,
    scratch: Vec<u8>,
    receive_buffer: Vec<u8>,
}

impl State {
    fn new(
        config: &ServerConfig,
        addr: SocketAddr,
        listener: TcpListener,
        inbox: mpsc::Receiver<Command>,
    ) -> anyhow::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
        Ok(Self {
            addr,
            listener: Some(listener),
            epoll,
            inbox,
            cameras: Vec::new(),
            connections: Vec::new(),
            nonces: Nonces::new(rand::random()),
            next_session: rand::random::<u64>() >> 1,
            tick: config.tick.max(Duration::from_millis(1)),
            started: Instant::now(),
            frames: Vec::new(),
            scratch: Vec::new(),
            receive_buffer: vec![0; 64 * 1024],
        })
    }

    /// Their first frames are spread evenly over a frame interval, or over a GOP.
    fn add_cameras(&mut self, sources: Vec<Source>, log_dir: &std::path::Path) -> anyhow::Result<()> {
        let count = sources.len() as u64;
        let (base_ns, base_wall_ns) = (self.now_ns(), wall_ns());
        for (at, Source { spec, video, sound }) in sources.into_iter().enumerate() {
            let frames = if spec.spread { spec.gop.into() } else { 1 };
            let phase_ns = frames * 1_000_000_000 / u64::from(spec.fps) * at as u64 / count;
            let wall_ns = base_wall_ns + phase_ns as i64;
            self.cameras.push(Camera::new(spec, video, sound, log_dir, base_ns + phase_ns, wall_ns)?);
        }
        Ok(())
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// Index of the camera of that name.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.cameras.iter().position(|camera| camera.spec.name == name)
    }

    fn run(mut self) -> anyhow::Result<()> {
        let mut next_tick = self.started;
        let mut next_timeouts_ns = 0;
        loop {
            while let Ok(command) = self.inbox.try_recv() {
                if matches!(command, Command::Stop) {
                    return self.stop();
                }
                self.command(command)?;
            }
            self.emit()?;
            self.flush()?;
            self.poll()?;
            let now_ns = self.now_ns();
            if now_ns >= next_timeouts_ns {
                self.close_silent_sessions(now_ns)?;
                next_timeouts_ns = now_ns + 500_000_000;
            }
            // Absolute deadlines; ticks that were missed are not made up for, their frames are.
            let now = Instant::now();
            while next_tick <= now {
                next_tick += self.tick;
            }
            std::thread::sleep(next_tick - now);
        }
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        for key in 0..self.connections.len() {
            self.close(key, EndReason::Stopped)?;
        }
        for camera in &mut self.cameras {
            camera.log(event(Kind::Stopped, wall_ns()))?;
        }
        Ok(())
    }

    fn emit(&mut self) -> anyhow::Result<()> {
        let now_ns = self.now_ns();
        let wall_ns = wall_ns();
        for at in 0..self.cameras.len() {
            let camera = &mut self.cameras[at];
            let count = camera.emit(now_ns, wall_ns, &mut self.frames).with_context(|| camera.spec.name.clone())?;
            if count == 0 {
                continue;
            }
            let mut gone = Vec::new();
            for &key in &camera.sessions.clone() {
                let Some(connection) = self.connections.get_mut(key).and_then(Option::as_mut) else { continue };
                let frames = &self.frames[..count];
                if connection.deliver(frames, camera, now_ns, wall_ns, &mut self.scratch).is_err() {
                    gone.push(key);
                }
            }
            for key in gone {
                self.close(key, EndReason::Closed)?;
            }
        }
        Ok(())
    }

    /// Tries again where sockets did not take everything.
    fn flush(&mut self) -> anyhow::Result<()> {
        for key in 0..self.connections.len() {
            let Some(connection) = self.connections[key].as_mut().filter(|connection| connection.has_backlog()) else {
                continue;
            };
            let slow = connection
                .session
                .as_ref()
                .map(|session| self.cameras[session.camera].switches.slow_bytes_per_second)
                .filter(|&bytes_per_second| bytes_per_second > 0)
                .map(|bytes_per_second| (f64::from(bytes_per_second) * self.tick.as_secs_f64()).ceil() as u64);
            if connection.flush(slow).is_err() {
                self.close(key, EndReason::Closed)?;
            }
        }
        Ok(())
    }

    /// Accepts and reads whatever is there, without waiting.
    fn poll(&mut self) -> anyhow::Result<()> {
        let mut events = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 256];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let count = match epoll::wait(&self.epoll, &mut events[..], Some(&at_once)) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        for at in events.iter().take(count) {
            match at.data.u64() {
                LISTENER => self.accept()?,
                key => self.receive(key as usize)?,
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> anyhow::Result<()> {
        while let Some(listener) = &self.listener {
            // Whatever is wrong with one connection, the next may be right.
            let Ok((stream, _)) = listener.accept() else { return Ok(()) };
            if stream.set_nonblocking(true).is_err() || stream.set_nodelay(true).is_err() {
                continue;
            }
            let key = self.connections.iter().position(Option::is_none).unwrap_or(self.connections.len());
            epoll::add(&self.epoll, &stream, epoll::EventData::new_u64(key as u64), epoll::EventFlags::IN)?;
            let connection = Some(Connection::new(stream, self.now_ns()));
            match self.connections.get_mut(key) {
                Some(slot) => *slot = connection,
                None => self.connections.push(connection),
            }
        }
        Ok(())
    }

    fn receive(&mut self, key: usize) -> anyhow::Result<()> {
        // Its slot is empty if an earlier event of this tick closed it.
        let Some(mut connection) = self.connections.get_mut(key).and_then(Option::take) else { return Ok(()) };
        let mut result = connection.receive(&mut self.receive_buffer);
        let mut reason = EndReason::Closed;
        let hang = |state: &Self, connection: &Connection| {
            connection.session.as_ref().is_some_and(|session| state.cameras[session.camera].switches.hang)
        };
        if result.is_ok() && !hang(self, &connection) {
            match self.serve(key, &mut connection) {
                Ok(()) => {}
                Err(ended) => (result, reason) = (Err(Gone), ended),
            }
        }
        self.connections[key] = Some(connection);
        if result.is_err() {
            self.close(key, reason)?;
        }
        Ok(())
    }

    /// Forgets a connection; `reason` is logged if it had a session.
    pub(crate) fn close(&mut self, key: usize, reason: EndReason) -> anyhow::Result<()> {
        let Some(mut connection) = self.connections.get_mut(key).and_then(Option::take) else { return Ok(()) };
        if reason == EndReason::Killed {
            // With a linger time of 0 the peer gets a reset.
            let _ = rustix::net::sockopt::set_socket_linger(&connection.stream, Some(Duration::ZERO));
        }
        self.end_session(key, &mut connection, reason)
    }

    /// Ends a connection's session, if it has one.
    pub(crate) fn end_session(
        &mut self,
        key: usize,
        connection: &mut Connection,
        reason: EndReason,
    ) -> anyhow::Result<()> {
        let Some(session) = connection.session.take() else { return Ok(()) };
        let camera = &mut self.cameras[session.camera];
        camera.sessions.retain(|&other| other != key);
        if matches!(session.phase, Phase::Playing | Phase::Losing) {
            let record = Record { number: session.id, bytes: reason as u32, ..event(Kind::SessionEnded, wall_ns()) };
            camera.log(record)?;
        }
        Ok(())
    }

    fn close_silent_sessions(&mut self, now_ns: u64) -> anyhow::Result<()> {
        for key in 0..self.connections.len() {
            let Some(connection) = &self.connections[key] else { continue };
            let spec = connection.session.as_ref().map(|session| &self.cameras[session.camera].spec);
            let is_over = |since_ns: u64, seconds: u32| now_ns - since_ns > u64::from(seconds) * 1_000_000_000;
            let idle_since_ns = connection.session.as_ref().and_then(|session| session.idle_since_ns);
            let idle = spec.map_or(0, |spec| spec.idle);
            if is_over(connection.last_heard_ns, spec.map_or(60, |spec| spec.timeout))
                || idle > 0 && idle_since_ns.is_some_and(|since_ns| is_over(since_ns, idle))
            {
                self.close(key, EndReason::Timeout)?;
            }
        }
        Ok(())
    }

    /// Does what the control interface asks. Whoever asked may be gone: nobody minds then.
    fn command(&mut self, command: Command) -> anyhow::Result<()> {
        match command {
            Command::Stop => {}
            Command::Fault { camera, fault, reply } => {
                let result = match self.find(&camera) {
                    Some(at) => self.fault(at, fault).map_err(|error| format!("{error:#}")),
                    None => Err(format!("no camera `{camera}`")),
                };
                let _ = reply.send(result);
            }
            Command::Spec { camera, reply } => {
                let _ = reply.send(self.find(&camera).map(|at| self.cameras[at].spec.clone()));
            }
            Command::Latest { camera, reply } => {
                let _ = reply.send(self.find(&camera).map(|at| self.cameras[at].latest));
            }
            Command::List { reply } => {
                let _ = reply.send(self.cameras.iter().map(|camera| self.describe_camera(camera)).collect());
            }
            Command::Accepting { on, reply } => {
                let _ = reply.send(self.set_accepting(on).map_err(|error| format!("{error:#}")));
            }
        }
        Ok(())
    }

    fn describe_camera(&self, camera: &Camera) -> serde_json::Value {
        serde_json::json!({
            "name": camera.spec.name,
            "url": format!("rtsp://{}/{}", self.addr, camera.spec.name),
            "ledger": camera.ledger_path,
            "sessions": camera.sessions.len(),
            "counts": camera.counts,
            "latest": camera.latest,
            "faults": camera.switches,
        })
    }

    fn set_accepting(&mut self, on: bool) -> anyhow::Result<()> {
        if !on {
            self.listener = None;
        } else if self.listener.is_none() {
            let listener = listen(self.addr)?;
            epoll::add(&self.epoll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
            self.listener = Some(listener);
        }
        Ok(())
    }

    fn fault(&mut self, at: usize, fault: Fault) -> anyhow::Result<()> {
        self.cameras[at].switch(fault, wall_ns())?;
        for key in self.cameras[at].sessions.clone() {
            let clock = [crate::camera::Track::Video, crate::camera::Track::Audio].map(|t| self.cameras[at].clock(t));
            let Some(connection) = self.connections.get_mut(key).and_then(Option::as_mut) else { continue };
            let tracks = connection.session.iter_mut().flat_map(|session| session.tracks.iter_mut());
            for (track, clock) in tracks.zip(clock) {
                let Some(track) = track else { continue };
                let numbering = &mut track.numbering;
                match fault {
                    Fault::TimestampJump { by } => {
                        let by = by * clock / crate::source::VIDEO_CLOCK;
                        numbering.timestamp_offset = numbering.timestamp_offset.wrapping_add(by as u32);
                    }
                    Fault::SequenceJump { by } => {
                        numbering.next_sequence = numbering.next_sequence.wrapping_add(by);
                    }
                    _ => {}
                }
            }
            if let (Fault::Mute { client }, Some(connection)) = (fault, &mut self.connections[key]) {
                connection.mute(client);
            }
            if fault == Fault::Kill {
                self.close(key, EndReason::Killed)?;
            } else {
                // What came while it was hanging is answered now.
                self.receive(key)?;
            }
        }
        Ok(())
    }
}
