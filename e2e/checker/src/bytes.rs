//! Big-endian fields out of bytes that may hold anything, and the boxes of ISO/IEC 14496-12 §4.2.

/// Where and why bytes cannot be read on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at {at}: {what}")]
pub struct Broken {
    /// Offset in the file.
    pub at: usize,
    /// What is wrong there.
    pub what: String,
}

impl Broken {
    /// Something wrong at an offset.
    pub fn new(at: usize, what: impl Into<String>) -> Self {
        Self { at, what: what.into() }
    }
}

/// A file's bytes; every access is checked, every offset counts from the start of the file.
#[derive(Debug, Clone, Copy)]
pub struct Bytes<'a>(pub &'a [u8]);

macro_rules! field {
    ($name:ident, $type:ty) => {
        #[doc = concat!("The big-endian `", stringify!($type), "` at an offset.")]
        pub fn $name(self, at: usize) -> Result<$type, Broken> {
            self.array(at).map(<$type>::from_be_bytes)
        }
    };
}

impl<'a> Bytes<'a> {
    field!(u16, u16);
    field!(u32, u32);
    field!(u64, u64);
    field!(i32, i32);
    field!(i64, i64);

    /// Length of the file.
    pub fn len(self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// `len` bytes from an offset on.
    pub fn slice(self, at: usize, len: usize) -> Result<&'a [u8], Broken> {
        at.checked_add(len)
            .and_then(|end| self.0.get(at..end))
            .ok_or_else(|| Broken::new(at, format!("{len} bytes do not fit into the {} of the file", self.0.len())))
    }

    /// `N` bytes from an offset on.
    pub fn array<const N: usize>(self, at: usize) -> Result<[u8; N], Broken> {
        let mut out = [0; N];
        out.copy_from_slice(self.slice(at, N)?);
        Ok(out)
    }

    /// Whether `start..end` holds nothing but zero bytes.
    pub fn is_zero(self, start: usize, end: usize) -> Result<bool, Broken> {
        Ok(self.slice(start, end.saturating_sub(start))?.iter().all(|&byte| byte == 0))
    }

    /// CRC32C over `start..end`, the 4 bytes at `crc_at` taken as zero.
    pub fn crc32c_without(self, start: usize, end: usize, crc_at: usize) -> Result<u32, Broken> {
        let before = crc32c::crc32c(self.slice(start, crc_at.saturating_sub(start))?);
        let zeros = crc32c::crc32c_append(before, &[0; 4]);
        Ok(crc32c::crc32c_append(zeros, self.slice(crc_at + 4, end.saturating_sub(crc_at + 4))?))
    }

    /// The box at `at`, which must end at or before `end`.
    pub fn box_at(self, at: usize, end: usize) -> Result<Box4, Broken> {
        let small = self.u32(at)? as usize;
        let kind = self.array(at + 4)?;
        let (header, len) = match small {
            0 => (8, end.saturating_sub(at)),
            1 => (16, usize::try_from(self.u64(at + 8)?).unwrap_or(usize::MAX)),
            len => (8, len),
        };
        let name = String::from_utf8_lossy(&kind).into_owned();
        match at.checked_add(len) {
            Some(stop) if len >= header && stop <= end => Ok(Box4 { kind, start: at, body: at + header, end: stop }),
            _ => Err(Broken::new(at, format!("box `{name}` of {len} bytes does not fit before {end}"))),
        }
    }

    /// The boxes that fill `start..end` exactly.
    pub fn boxes(self, start: usize, end: usize) -> Result<Vec<Box4>, Broken> {
        let (mut at, mut boxes) = (start, Vec::new());
        while at < end {
            let one = self.box_at(at, end)?;
            at = one.end;
            boxes.push(one);
        }
        Ok(boxes)
    }

    /// The children of a container box.
    pub fn children(self, parent: &Box4) -> Result<Vec<Box4>, Broken> {
        self.boxes(parent.body, parent.end)
    }

    /// The only child of this type.
    pub fn child(self, parent: &Box4, kind: &[u8; 4]) -> Result<Box4, Broken> {
        self.optional_child(parent, kind)?
            .ok_or_else(|| Broken::new(parent.start, format!("no `{}` inside `{}`", text(kind), parent.name())))
    }

    /// The only child of this type, if there is one.
    pub fn optional_child(self, parent: &Box4, kind: &[u8; 4]) -> Result<Option<Box4>, Broken> {
        let mut found = self.children(parent)?.into_iter().filter(|child| child.kind == *kind);
        match (found.next(), found.next()) {
            (_, Some(second)) => Err(Broken::new(second.start, format!("a second `{}`", text(kind)))),
            (first, None) => Ok(first),
        }
    }
}

/// A box: its type, and where it and its body lie in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Box4 {
    /// Four-character code.
    pub kind: [u8; 4],
    /// Offset of its header.
    pub start: usize,
    /// Offset behind its header (version and flags of a full box belong to the body).
    pub body: usize,
    /// Offset behind it.
    pub end: usize,
}

impl Box4 {
    /// Its type as text.
    pub fn name(&self) -> String {
        text(&self.kind)
    }

    /// Its length, header included.
    pub fn size(&self) -> usize {
        self.end - self.start
    }
}

/// A four-character code as text.
pub(crate) fn text(kind: &[u8; 4]) -> String {
    String::from_utf8_lossy(kind).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_is_castagnoli_and_takes_its_own_field_as_zero() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xE306_9283);
        let bytes = [1, 2, 9, 9, 9, 9, 3];
        assert_eq!(Bytes(&bytes).crc32c_without(0, 7, 2).unwrap(), crc32c::crc32c(&[1, 2, 0, 0, 0, 0, 3]));
        assert!(Bytes(&bytes).crc32c_without(0, 8, 2).is_err());
    }

    #[test]
    fn boxes_fill_their_parent_exactly() {
        let mut bytes = vec![0, 0, 0, 8];
        bytes.extend(b"free");
        bytes.extend([0, 0, 0, 1]);
        bytes.extend(b"mdat");
        bytes.extend(17u64.to_be_bytes());
        bytes.push(7);
        let boxes = Bytes(&bytes).boxes(0, bytes.len()).unwrap();
        assert_eq!(
            boxes.iter().map(|b| (b.name(), b.body, b.size())).collect::<Vec<_>>(),
            [("free".into(), 8, 8), ("mdat".into(), 24, 17)]
        );
        bytes.push(0);
        assert!(Bytes(&bytes).boxes(0, bytes.len()).is_err(), "a stray byte");
        bytes.extend([0, 0, 7]);
        assert!(Bytes(&bytes).boxes(0, bytes.len()).is_err(), "a length below a header");
    }
}
