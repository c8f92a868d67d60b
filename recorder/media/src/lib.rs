//! Access units, codec parameters, MP4 boxes and fragments; no I/O.
