//! Cameras that send elsewhere: where that leads, and who gets the password there.

use std::sync::mpsc::channel;

use crate::common::*;
use crate::trouble::{answering, first_end, with_password};
use framekeeper_ingest::SessionEndKind;

/// Sends every request to `location`.
fn redirecting(location: String) -> Camera {
    Camera::new(move |mut conn| {
        while let Some(request) = conn.request() {
            conn.respond(&request, "302 Moved Temporarily", &format!("Location: {location}\r\n"), "");
        }
    })
}

#[test]
fn redirects_are_followed_and_credentials_stay_at_home() {
    let (tx, rx) = channel();
    let target = Camera::new(move |mut conn| {
        let tx = tx.clone();
        while let Some(request) = conn.request() {
            tx.send(request.clone()).unwrap();
            if conn.answer(&request, &video_sdp(), "s") && request.method == "PLAY" {
                return conn.stream_on(0);
            }
        }
    });
    // "localhost" is another host than 127.0.0.1, as far as anyone can tell by name.
    let elsewhere = format!("rtsp://localhost:{}/moved", target.addr.port());
    for status in ["301 Moved Permanently", "302 Moved Temporarily", "303 See Other", "307 Temporary Redirect"] {
        let location = elsewhere.clone();
        let camera = Camera::new(move |mut conn| {
            while let Some(request) = conn.request() {
                if request.header("Authorization").is_none() {
                    conn.respond(
                        &request,
                        "401 Unauthorized",
                        "WWW-Authenticate: Digest realm=\"r\", nonce=\"n\"\r\n",
                        "",
                    );
                } else {
                    conn.respond(&request, status, &format!("Location: {location}\r\n"), "");
                }
            }
        });
        let ingest = start();
        let (sink, heard) = sink();
        ingest.add(with_password(&camera), sink).unwrap();
        heard.video();
        ingest.shutdown();
        let requests: Vec<Request> = rx.try_iter().collect();
        assert!(requests.iter().any(|r| r.method == "DESCRIBE" && r.uri == elsewhere));
        assert!(requests.iter().all(|r| r.header("Authorization").is_none()));
    }
}

#[test]
fn a_redirect_in_circles_ends() {
    let camera = answering("302 Moved", "Location: /again\r\n");
    let end = first_end(camera.spec());
    assert_eq!(end.kind, SessionEndKind::Protocol);
    assert!(end.message.contains("more than 5"), "{}", end.message);
    assert_eq!(camera.connections(), 6);
}

#[test]
fn a_redirect_to_another_scheme_is_refused() {
    let end = first_end(answering("302 Moved", "Location: http://127.0.0.1/x\r\n").spec());
    assert!(end.kind == SessionEndKind::Protocol && end.message.contains("scheme"), "{end:?}");
}

#[test]
fn a_host_that_was_redirected_to_gets_no_password_even_if_it_asks() {
    let (tx, rx) = channel();
    let target = Camera::new(move |mut conn| {
        while let Some(request) = conn.request() {
            let _ = tx.send(request.clone());
            if request.header("Authorization").is_none() {
                conn.respond(&request, "401 Unauthorized", "WWW-Authenticate: Basic realm=\"cam\"\r\n", "");
            } else if conn.answer(&request, &video_sdp(), "s") && request.method == "PLAY" {
                return conn.stream_on(0);
            }
        }
    });
    let port = target.addr.port();
    let end = first_end(with_password(&redirecting(format!("rtsp://localhost:{port}/moved"))));
    assert_eq!(end.kind, SessionEndKind::Unauthorized);
    assert!(end.message.contains("redirected to localhost"), "{}", end.message);
    assert!(rx.try_iter().all(|r: Request| r.header("Authorization").is_none()));

    // Another port of the same host is the same camera.
    let camera = redirecting(format!("rtsp://127.0.0.1:{port}/moved"));
    let ingest = start();
    let (sink, heard) = sink();
    ingest.add(with_password(&camera), sink).unwrap();
    heard.video();
}
