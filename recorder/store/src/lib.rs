//! Volumes, segments, frame index, recovery, retention.
