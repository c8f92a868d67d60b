//! Whether memory runs short: then playback waits, so that recording need not.

/// From this share of the limit on, playback is refused, per cent.
const SHED_PERCENT: u64 = 70;
/// Below this share it is served again.
const SERVE_PERCENT: u64 = 60;

/// Decides, with some distance between on and off.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pressure {
    short: bool,
}

impl Pressure {
    /// The process uses so many bytes of so many now: whether memory is short.
    pub(crate) fn look(&mut self, resident_bytes: u64, limit_bytes: u64) -> bool {
        let percent = if self.short { SERVE_PERCENT } else { SHED_PERCENT };
        self.short = resident_bytes >= limit_bytes / 100 * percent;
        self.short
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_does_not_flap() {
        let mut pressure = Pressure::default();
        let looks = [600, 690, 700, 690, 610, 599, 690].map(|resident| pressure.look(resident, 1_000));
        assert_eq!(looks, [false, false, true, true, true, false, false]);
    }
}
