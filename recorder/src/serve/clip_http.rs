//! `clip.mp4` over HTTP: parameters, statuses, ranges and validators around the virtual file.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use axum::response::IntoResponse;
use framekeeper_media::WallTime;
use uuid::Uuid;
use xxhash_rust::xxh3::Xxh3Default;

use super::again::{ask, passes};
use super::clip::PlanError;
use super::clip::file::ClipFile;
use super::clip::layout::Layout;
use super::clip::plan::{Gaps, Plan, Request, plan};
use super::footage::Footage;
use super::problem::Problem;
use super::query::{Query, format_time};
use super::range::{Selected, not_modified, select};
use super::{ServeState, blocking, coverage, find, internal, stream};

/// Counts with each change of what bytes are made of the same footage, so that no old entity tag names new bytes.
const BYTES_VERSION: u8 = 1;

/// When a place may be free again; a guess, as clips take seconds to hours.
const RETRY_AFTER_S: u32 = 5;

pub(super) async fn clip(
    State(state): State<ServeState>,
    Path((namespace, name)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    method: Method,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let query = Query::parse(query.as_deref(), &["from", "to", "gaps"])?;
    let (from, to) = query.required_range()?;
    let gaps = match query.get("gaps") {
        None | Some("close") => Gaps::Close,
        Some("keep") => Gaps::Keep,
        Some(other) => return Err(Problem::parameter("gaps", other, "close or keep")),
    };
    let Ok(permit) = Arc::clone(&state.clips).try_acquire_owned() else {
        state.counters.refused_clips.fetch_add(1, Ordering::Relaxed);
        return Err(Problem::busy("as many clips are being sent as this recorder allows", RETRY_AFTER_S));
    };
    let footage = Arc::clone(&state.footage);
    let file_name = file_name(&namespace, &name, from, to);
    let planned = blocking(move || {
        let stream = find(footage.as_ref(), &namespace, &name)?;
        prepare(footage.as_ref(), Request { stream, from, to, gaps })
    })
    .await?;

    let Planned { plan, layout, etag } = planned;
    let mut response = Response::new(Body::empty());
    let head = response.headers_mut();
    head.insert(header::ETAG, value(&etag)?);
    head.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    head.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    head.insert("framekeeper-first-frame-time", value(&format_time(plan.first_wall))?);
    if not_modified(&headers, &etag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    head.insert(header::CONTENT_TYPE, HeaderValue::from_static("video/mp4"));
    head.insert(header::CONTENT_DISPOSITION, value(&format!("attachment; filename=\"{file_name}\""))?);
    let len = layout.len;
    let range = match select(&headers, len, &etag) {
        Selected::Whole => 0..len,
        Selected::Part(range) => {
            head.insert(header::CONTENT_RANGE, value(&format!("bytes {}-{}/{len}", range.start, range.end - 1))?);
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            range
        }
        Selected::Unsatisfiable => {
            let mut response = Problem::unsatisfiable(len).into_response();
            response.headers_mut().insert(header::CONTENT_RANGE, value(&format!("bytes */{len}"))?);
            return Ok(response);
        }
    };
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
    if method != Method::HEAD {
        let footage = Arc::clone(&state.footage);
        let file = ClipFile::new(Arc::clone(&footage), Arc::new(plan), Arc::new(layout));
        *response.body_mut() = stream::body(file, footage, range, permit);
    }
    Ok(response)
}

struct Planned {
    plan: Plan,
    layout: Layout,
    etag: String,
}

fn prepare(footage: &dyn Footage, request: Request) -> Result<Planned, Problem> {
    let may_pass = |error: &PlanError| matches!(error, PlanError::Footage(error) if passes(error));
    let planned = ask(footage, request.stream, may_pass, || {
        let plan = plan(footage, request)?;
        Ok((Layout::new(&plan)?, plan))
    });
    match planned {
        Ok((layout, plan)) => Ok(Planned { etag: entity_tag(request.stream, &plan, &layout), plan, layout }),
        Err(PlanError::Footage(error)) => Err(internal(error)),
        Err(PlanError::NoFrames) => {
            let nearest = coverage::nearest(footage, request.stream, request.from, request.to).map_err(internal)?;
            let (from, to) = (format_time(request.from), format_time(request.to));
            Err(Problem::no_footage(format!("no frame from {from} to {to} is held here"), nearest))
        }
        Err(error @ PlanError::TooLong) => {
            let (from, to) = (format_time(request.from), format_time(request.to));
            Err(Problem::parameter("to", &to, format!("a time closer to from ({from}): {error}")))
        }
    }
}

/// A strong entity tag: a hash of everything that the clip's bytes follow from. Files are named by their use's nonce, so it changes
/// when footage is retired or grows.
fn entity_tag(stream: Uuid, plan: &Plan, layout: &Layout) -> String {
    let mut hash = Xxh3Default::new();
    hash.update(&[BYTES_VERSION]);
    hash.update(stream.as_bytes());
    let mut add = |number: u64| hash.update(&number.to_be_bytes());
    add(layout.len);
    add(plan.first_wall.0 as u64);
    for piece in &plan.pieces {
        if let Some(segment) = plan.segments.get(piece.segment) {
            add(segment.nonce);
            add(segment.init_hash);
        }
        add(piece.zero as u64);
        add(u64::from(piece.video.start) << 32 | u64::from(piece.video.end));
        add(u64::from(piece.audio.start) << 32 | u64::from(piece.audio.end));
        add(piece.bytes);
    }
    for edit in &plan.edits {
        add(edit.media_time as u64);
        add(edit.duration as u64);
    }
    add(plan.video_end as u64);
    format!("\"{:032x}\"", hash.digest128())
}

/// A name for the downloaded file, of characters that every system takes.
fn file_name(namespace: &str, name: &str, from: WallTime, to: WallTime) -> String {
    let plain = |text: String| {
        text.replace([':'], "").replace(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '.', "_")
    };
    plain(format!("{namespace}_{name}_{}_{}.mp4", format_time(from), format_time(to)))
}

fn value(text: &str) -> Result<HeaderValue, Problem> {
    HeaderValue::from_str(text).map_err(|error| Problem::unreadable(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_plain() {
        let name = file_name("a\"b", "tür/\r\n", WallTime(0), WallTime(1_500_000));
        assert_eq!(name, "a_b_t_r____1970-01-01T000000.000Z_1970-01-01T000001.500Z.mp4");
    }
}
