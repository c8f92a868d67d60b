//! Whether memory runs short: then playback waits, so that recording need not.

/// From this share of the limit on, playback is refused, per cent.
const SHED_PERCENT: u64 = 70;
/// Below this share it is served again.
const SERVE_PERCENT: u64 = 60;

/// Decides, with some distance between on and off.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pressure {
    limit_bytes: u64,
    short: bool,
}

impl Pressure {
    /// Nothing is short under a limit of so many bytes.
    pub(crate) fn new(limit_bytes: u64) -> Self {
        Self { limit_bytes, short: false }
    }

    /// The process uses so many bytes now: whether memory is short.
    pub(crate) fn look(&mut self, resident_bytes: u64) -> bool {
        let percent = if self.short { SERVE_PERCENT } else { SHED_PERCENT };
        self.short = resident_bytes >= self.limit_bytes / 100 * percent;
        self.short
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_does_not_flap() {
        let mut pressure = Pressure::new(1_000);
        let looks = [600, 690, 700, 690, 610, 599, 690].map(|resident| pressure.look(resident));
        assert_eq!(looks, [false, false, true, true, true, false, false]);
    }
}
