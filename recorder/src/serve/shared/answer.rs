//! Answers other recorders: of what is here, and nothing else, so that no question goes round in circles.

use std::sync::{Arc, OnceLock};

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use framekeeper_media::WallTime;
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};

use super::leases::Leases;
use super::wire::{Name, Question, Refusal, WireCoverage, WireFrames, WireHole, WireInit, WireRun, WireSegment};
use crate::serve::ServeState;
use crate::serve::footage::{Footage, FootageError, Segment};

/// More is not read of a file at once.
const BYTES_AT_MOST: u32 = 4 << 20;
/// Threads that read for other recorders.
const READERS_AT_MOST: usize = 2;

/// The handler of `POST /v1/peer`.
pub(in crate::serve) async fn answer(State(state): State<ServeState>, Json(question): Json<Question>) -> Response {
    let (footage, leases) = (Arc::clone(&state.own), Arc::clone(&state.leases));
    // Not on the threads that wait for other recorders: two of them that ask each other must not wait for each other.
    let Some(readers) = readers() else { return refuse(FootageError::Broken("no thread can be had".to_owned())) };
    match readers.spawn_blocking(move || find(footage.as_ref(), &leases, &question)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => refuse(error),
        Err(error) => refuse(FootageError::Broken(format!("the task that reads was lost: {error}"))),
    }
}

/// Threads that read for other recorders and for nobody else; made with the first question.
fn readers() -> Option<&'static Runtime> {
    static READERS: OnceLock<Option<Runtime>> = OnceLock::new();
    let make = || Builder::new_current_thread().max_blocking_threads(READERS_AT_MOST).thread_name("for-peers").build();
    READERS.get_or_init(|| make().ok()).as_ref()
}

fn refuse(error: FootageError) -> Response {
    let (status, refusal) = match error {
        FootageError::Gone => (StatusCode::GONE, Refusal::Gone),
        FootageError::Damaged(why) => (StatusCode::UNPROCESSABLE_ENTITY, Refusal::Damaged(why)),
        FootageError::Broken(why) => (StatusCode::SERVICE_UNAVAILABLE, Refusal::Broken(why)),
    };
    (status, Json(refusal)).into_response()
}

fn find(footage: &dyn Footage, leases: &Leases, question: &Question) -> Result<Response, FootageError> {
    Ok(match question {
        Question::Find { namespace, name } => json(&footage.find(namespace, name)?),
        Question::Coverage { stream, from, to } => {
            // Asked before: what is gathered meanwhile may be missing in the answer.
            let complete = footage.is_complete();
            let runs = footage.coverage(*stream, WallTime(*from), WallTime(*to))?;
            let durable = footage.durable_until(*stream).map(|durable| durable.0);
            json(&WireCoverage { complete, durable, runs: runs.iter().map(WireRun::from).collect() })
        }
        Question::Segments { stream, from, to } => {
            let segments = footage.segments(*stream, WallTime(*from), WallTime(*to))?;
            json(&segments.iter().map(WireSegment::from).collect::<Vec<_>>())
        }
        Question::Frames { segment } => json(&WireFrames::from(&*footage.frames(&named(footage, segment)?)?)),
        Question::Init { segment } => {
            let init = footage.init(&named(footage, segment)?)?;
            let head = serde_json::to_string(&WireInit { reorders: init.reorders }).unwrap_or_default();
            bytes([head.as_bytes(), b"\n", &init.bytes].concat())
        }
        Question::Bytes { segment, offset, length } if *length <= BYTES_AT_MOST => {
            let mut read = vec![0; *length as usize];
            footage.read_at(&named(footage, segment)?, *offset, &mut read)?;
            bytes(read)
        }
        Question::Bytes { length, .. } => {
            return Err(FootageError::Broken(format!(
                "{length} bytes were asked for; at most {BYTES_AT_MOST} at once"
            )));
        }
        Question::Damage { stream } => json(&footage.damage(*stream)?.iter().map(WireHole::from).collect::<Vec<_>>()),
        Question::Lease { lease, segments } => json(&leases.hold(footage, *lease, segments)?),
        Question::Release { lease } => {
            leases.release(*lease);
            json(&())
        }
    })
}

/// The segment of that name. It is looked up: nobody from outside says where a file is.
pub(super) fn named(footage: &dyn Footage, name: &Name) -> Result<Segment, FootageError> {
    let (from, to) = (WallTime(name.first), WallTime(name.first.saturating_add(1)));
    let segments = footage.segments(name.stream, from, to)?;
    segments.into_iter().find(|segment| Name::from(segment) == *name).ok_or(FootageError::Gone)
}

fn json<T: Serialize>(value: &T) -> Response {
    Json(value).into_response()
}

fn bytes(bytes: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response()
}
