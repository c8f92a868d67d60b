//! Reading big-endian fields, never past the end.

/// The bytes ended before the fields did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ends early")]
pub struct Ended;

/// A cursor over bytes.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// At the beginning of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What was not read yet.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// When there are fewer. The same goes for all that follow.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Ended> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Ended)?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next `N` bytes, as an array.
    ///
    /// # Errors
    /// See [`Self::take`].
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Ended> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Ended)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// One byte.
    ///
    /// # Errors
    /// See [`Self::take`].
    pub fn u8(&mut self) -> Result<u8, Ended> {
        self.array().map(u8::from_be_bytes)
    }

    /// Big-endian.
    ///
    /// # Errors
    /// See [`Self::take`].
    pub fn u16(&mut self) -> Result<u16, Ended> {
        self.array().map(u16::from_be_bytes)
    }

    /// Big-endian.
    ///
    /// # Errors
    /// See [`Self::take`].
    pub fn u32(&mut self) -> Result<u32, Ended> {
        self.array().map(u32::from_be_bytes)
    }

    /// Big-endian.
    ///
    /// # Errors
    /// See [`Self::take`].
    pub fn u64(&mut self) -> Result<u64, Ended> {
        self.array().map(u64::from_be_bytes)
    }

    /// Big-endian, two's complement.
    ///
    /// # Errors
    /// See [`Self::take`].
    pub fn i32(&mut self) -> Result<i32, Ended> {
        self.array().map(i32::from_be_bytes)
    }

    /// Big-endian, two's complement.
    ///
    /// # Errors
    /// See [`Self::take`].
    pub fn i64(&mut self) -> Result<i64, Ended> {
        self.array().map(i64::from_be_bytes)
    }
}
