//! The engines: RTSP to access units.
