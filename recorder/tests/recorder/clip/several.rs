//! Clips of what several recorders recorded at once: each frame is shown once.

use std::sync::Arc;

use framekeeper_recorder::serve::clip::plan::Gaps;
use uuid::Uuid;

use super::{PLAIN_SOURCE, REORDERED, REORDERED_SOURCE, check, check_audio, clip, spec};
use crate::serve_footage::*;

/// All of a stream's recorders record it, and are started anew now and then (class `Mirrored`): what one of them has another has too.
#[test]
fn what_several_record_all_the_time_is_shown_once() {
    const CASES: [&[(u128, std::ops::Range<usize>)]; 4] = [
        // One is never away, the other one often.
        &[(1, 0..300), (2, 0..80), (2, 100..180), (2, 200..300)],
        &[(1, 0..200), (2, 0..80), (2, 100..300)],
        // In turns.
        &[(1, 0..120), (2, 50..200), (1, 150..250), (2, 250..300)],
        // When the second begins anew the first has it still, and it is the third that comes behind the first.
        &[(1, 0..200), (2, 0..100), (3, 0..300), (2, 150..300)],
    ];
    for source in [&*PLAIN_SOURCE, &*REORDERED_SOURCE] {
        for (case, late_us) in CASES.into_iter().flat_map(|case| [0, 30_000, 200_000].map(|late_us| (case, late_us))) {
            let mut footage = Memory::new();
            for (recorder, frames) in case {
                let wall_us = START + late_us * (*recorder as i64 - 1);
                footage.record(&RunSpec { frames: frames.clone(), wall_us, ..spec(source) });
                footage.runs.last_mut().unwrap().recorder = Uuid::from_u128(*recorder);
            }
            let clip = clip(&Arc::new(footage), START - S, START + 60 * S, Gaps::Close);
            check(&clip, &shown(&RunSpec { frames: 0..300, ..spec(source) }, 0, i64::MAX), false);
            check_audio(&clip, 300.0 * 0.04);
        }
    }
}

/// The same for longer than what is looked at together.
#[test]
fn what_several_record_for_long_is_shown_once() {
    const CASES: [&[(u128, std::ops::Range<usize>)]; 3] = [
        &[(1, 0..17_500), (2, 0..17_500)],
        &[(1, 0..8_000), (2, 500..17_500), (1, 8_100..17_500)],
        &[(1, 0..17_000), (2, 2_000..9_000), (3, 4_000..17_500), (2, 9_200..17_500)],
    ];
    let source = encode(700, "64x48", REORDERED, Some("-b:a 16k -ar 16000"));
    for (number, case) in CASES.into_iter().enumerate() {
        let mut footage = Memory::new();
        for (recorder, frames) in case {
            let wall_us = START + 200_000 * (*recorder as i64 - 1);
            // Recorders begin with key frames, and with segments of their own.
            let frames = frames.start / 50 * 50..frames.end;
            let gops_per_segment = 10 + *recorder as usize;
            footage.record(&RunSpec { frames, wall_us, gops_per_segment, ..spec(&source) });
            footage.runs.last_mut().unwrap().recorder = Uuid::from_u128(*recorder);
        }
        let clip = clip(&Arc::new(footage), START - S, START + 1_000 * S, Gaps::Close);
        check(&clip, &shown(&RunSpec { frames: 0..17_500, ..spec(&source) }, 0, i64::MAX), false);
        check_audio(&clip, 700.0);
        // Where nobody was missing it is all of one recorder's.
        assert!(number > 0 || clip.plan.pieces.iter().all(|piece| piece.run == clip.plan.pieces[0].run));
    }
}
