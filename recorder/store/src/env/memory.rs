//! Memory that a disk may write from without the page cache in between.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::io;
use std::ptr::NonNull;

/// Where a huge page begins: few of them cost the kernel less than many small ones.
const ALIGN: usize = 2 << 20;

/// Aligned, zeroed memory.
pub(super) struct Memory {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it is plain memory with one owner.
#[expect(unsafe_code, reason = "a raw pointer is not Send by itself")]
unsafe impl Send for Memory {}

impl Memory {
    /// `bytes` of them, at least one.
    pub(super) fn new(bytes: usize) -> io::Result<Self> {
        let layout = Layout::from_size_align(bytes.max(1), ALIGN).map_err(io::Error::other)?;
        // SAFETY: the layout is not of size 0.
        #[expect(unsafe_code, reason = "no safe allocation has this alignment")]
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, layout })
    }

    pub(super) fn len(&self) -> usize {
        self.layout.size()
    }

    /// Where it begins, for the kernel.
    pub(super) fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// A part of it, to be filled. `None` when it is not inside.
    pub(super) fn part(&mut self, at: usize, bytes: usize) -> Option<&mut [u8]> {
        // SAFETY: the memory is initialized, as long as the slice says, and borrowed with `self`.
        #[expect(unsafe_code, reason = "the memory comes from the allocator")]
        let all = unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.size()) };
        all.get_mut(at..at.checked_add(bytes)?)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        #[expect(unsafe_code, reason = "the counterpart of alloc_zeroed")]
        unsafe {
            dealloc(self.start.as_ptr(), self.layout);
        }
    }
}
