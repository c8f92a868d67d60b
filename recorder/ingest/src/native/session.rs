//! A session of the Native engine: a connection, the client that speaks RTSP on it, and the tracks that play.

use std::cell::RefCell;
use std::io;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use futures::Future;

use super::client::{Client, MAX_UNSENT_BYTES, Step};
use super::connection::{Connection, ReadError, SharedBuffer, connect};
use super::failure::{Stage, broken, unreachable};
use super::tracks::Tracks;
use super::wire::{Channels, Piece, Trust};
use crate::engine::{Failure, Item, Progress, Session, Traffic};
use crate::event::{SessionEndKind, TickTime};

/// What the sessions of an engine share.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) buffer: RefCell<SharedBuffer>,
    /// Sessions whose TEARDOWN is not answered yet.
    pub(super) farewells: RefCell<Vec<Farewell>>,
}

type Connecting = Pin<Box<dyn Future<Output = io::Result<Connection>>>>;

enum Link {
    Connecting(Connecting),
    Open(Box<Connection>),
}

/// See the module.
pub(super) struct NativeSession {
    shared: Rc<Shared>,
    /// `None` when it is over.
    attempt: Option<Attempt>,
    traffic: Traffic,
    now_us: u64,
}

struct Attempt {
    link: Link,
    state: State,
}

/// All but the connection, which is borrowed while it is read.
struct State {
    client: Client,
    tracks: Option<Tracks>,
    own_ssrc: u32,
    /// [`Item::Parameters`] is out, as far as there are any.
    begun: bool,
    moved: bool,
    failure: Option<Failure>,
    traffic: Traffic,
}

fn connecting(client: &Client) -> Link {
    // The thread's budget of tokio's reads is for tasks that wake each other; this one is polled once a tick.
    Link::Connecting(Box::pin(tokio::task::unconstrained(connect(client.url().clone()))))
}

impl NativeSession {
    /// Begins an attempt.
    pub(super) fn new(client: Client, own_ssrc: u32, shared: Rc<Shared>) -> Self {
        let link = connecting(&client);
        let traffic = Traffic::default();
        let state = State { client, tracks: None, own_ssrc, begun: false, moved: false, failure: None, traffic };
        Self { shared, attempt: Some(Attempt { link, state }), traffic, now_us: 0 }
    }

    /// Ends the attempt: says good-bye where there is somebody to hear it.
    fn close(&mut self) {
        let Some(Attempt { link: Link::Open(mut connection), state }) = self.attempt.take() else { return };
        let State { mut client, .. } = state;
        if client.close(self.now_us) {
            connection.send(client.unsent());
            if let Ok(mut farewells) = self.shared.farewells.try_borrow_mut() {
                farewells.push(Farewell { connection, client, since_us: self.now_us });
            }
        }
    }
}

impl Attempt {
    /// One tick; a failure ends the session.
    fn step(&mut self, shared: &Shared, now_us: u64, out: &mut Vec<Item>) -> Result<(), Failure> {
        if let Link::Connecting(connecting) = &mut self.link {
            // Nothing may wake the tick thread; everything is looked at on the next tick anyway.
            match connecting.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Err(error)) => return Err(unreachable(&error)),
                Poll::Ready(Ok(connection)) => {
                    self.link = Link::Open(Box::new(connection));
                    self.state.client.connected(now_us);
                }
            }
        }
        let Link::Open(connection) = &mut self.link else { return Ok(()) };
        let state = &mut self.state;
        connection.send(state.client.unsent());
        let read = match shared.buffer.try_borrow_mut() {
            Ok(mut buffer) => {
                connection.receive(&mut buffer, state, State::expected, |state, piece| state.piece(piece, now_us, out))
            }
            Err(_) => return Err(Failure::new(SessionEndKind::Internal, "the receive buffer is in use")),
        };
        if let Some(failure) = state.failure.take() {
            // Its last request may have an answer waiting.
            connection.send(state.client.unsent());
            return Err(failure);
        }
        if std::mem::take(&mut state.moved) {
            self.link = connecting(&state.client);
            return Ok(());
        }
        match read {
            Ok(()) => {}
            Err(ReadError::Closed) => return Err(broken(state.client.stage(), None)),
            Err(ReadError::Broken(error)) => return Err(broken(state.client.stage(), Some(&error))),
            Err(ReadError::Wire(error)) => return Err(Failure::new(SessionEndKind::Protocol, error.to_string())),
        }
        state.client.tick(now_us)?;
        if state.client.stage() == Stage::Playing
            && let Some(tracks) = &mut state.tracks
        {
            tracks.reports(now_us, state.client.unsent());
        }
        connection.send(state.client.unsent());
        if state.client.unsent().len() > MAX_UNSENT_BYTES {
            return Err(Failure::new(SessionEndKind::ClosedByCamera, "the camera reads nothing any more"));
        }
        Ok(())
    }
}

impl State {
    fn expected(&self) -> (Channels, Trust) {
        let trust = if self.tracks.is_some() { Trust::Session } else { Trust::None };
        (self.tracks.as_ref().map(Tracks::channels).unwrap_or_default(), trust)
    }

    fn piece(&mut self, piece: Piece<'_>, now_us: u64, out: &mut Vec<Item>) -> ControlFlow<()> {
        match piece {
            Piece::Frame { channel, data } => match &mut self.tracks {
                // Packets may overtake the answer to PLAY; those that come before it was asked are of nobody.
                Some(tracks) if matches!(self.client.stage(), Stage::Play | Stage::Playing) => {
                    if !self.begun {
                        self.begun = true;
                        out.extend(tracks.parameters());
                    }
                    tracks.frame(channel, data, now_us, &mut self.traffic, out);
                }
                _ => self.traffic.malformed_packets += 1,
            },
            Piece::Junk => self.traffic.malformed_packets += 1,
            Piece::Blank => {}
            Piece::Message(message) => match self.client.message(&message, now_us) {
                Err(failure) => {
                    self.failure = Some(failure);
                    return ControlFlow::Break(());
                }
                Ok(Step::Moved) => {
                    self.moved = true;
                    return ControlFlow::Break(());
                }
                Ok(Step::Ready) => {
                    let own_ssrc = self.own_ssrc;
                    self.tracks =
                        self.client.tracks().map(|(what, video, audio)| Tracks::new(what, video, audio, own_ssrc));
                }
                Ok(Step::Playing) => {
                    if let Some(tracks) = self.tracks.as_ref().filter(|_| !self.begun) {
                        out.extend(tracks.parameters());
                    }
                    self.begun = true;
                }
                Ok(Step::None | Step::Closed) => {}
            },
        }
        ControlFlow::Continue(())
    }
}

impl Session for NativeSession {
    fn read(&mut self, at: TickTime, out: &mut Vec<Item>) -> Progress {
        self.now_us = at.monotonic_us;
        let Some(attempt) = &mut self.attempt else {
            return Progress::Ended(Failure::new(SessionEndKind::Internal, "read after the end"));
        };
        let result = attempt.step(&self.shared, self.now_us, out);
        self.traffic = attempt.state.traffic;
        match result {
            Ok(()) => match attempt.state.client.stage() {
                Stage::Playing => Progress::Playing,
                Stage::Ready => Progress::Ready,
                _ => Progress::Opening,
            },
            Err(failure) => {
                if failure.kind == SessionEndKind::ClosedByCamera {
                    // There is nobody left to say good-bye to.
                    self.attempt = None;
                }
                self.close();
                Progress::Ended(failure)
            }
        }
    }

    fn play(&mut self, at: TickTime) {
        if let Some(Attempt { link, state }) = &mut self.attempt {
            state.client.play(at.monotonic_us);
            if let Link::Open(connection) = link {
                connection.send(state.client.unsent());
            }
        }
    }

    fn want_key_frame(&mut self) {
        if let Some(tracks) = self.attempt.as_mut().and_then(|attempt| attempt.state.tracks.as_mut()) {
            tracks.want_key_frame();
        }
    }

    fn traffic(&self) -> Traffic {
        self.traffic
    }
}

impl Drop for NativeSession {
    fn drop(&mut self) {
        self.close();
    }
}

/// How long an answer to TEARDOWN is waited for while others play. To close at once would make the kernel reset the connection, and
/// TEARDOWN with it.
const FAREWELL_LIMIT_US: u64 = 2_000_000;

/// A session that is being torn down.
pub(super) struct Farewell {
    connection: Box<Connection>,
    client: Client,
    since_us: u64,
}

impl Farewell {
    /// True when it is done.
    pub(super) fn step(&mut self, buffer: &mut SharedBuffer, now_us: u64) -> bool {
        self.connection.send(self.client.unsent());
        let expected = |_: &Client| (Channels::default(), Trust::Session);
        let read = self.connection.receive(buffer, &mut self.client, expected, |client, piece| match piece {
            Piece::Message(message) if client.message(&message, now_us).is_err() => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        });
        self.connection.send(self.client.unsent());
        read.is_err() || self.client.stage() == Stage::Over || now_us.saturating_sub(self.since_us) >= FAREWELL_LIMIT_US
    }
}
