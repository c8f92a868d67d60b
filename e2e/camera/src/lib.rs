//! Ledger cameras: RTSP test cameras that number and log every coded frame.
