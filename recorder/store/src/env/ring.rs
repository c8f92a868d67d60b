//! Many writes at once through io_uring (io_uring(7)), from memory that the kernel knows.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::RawFd;
use std::time::Duration;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode};
use rustix::io::Errno;

use super::Interrupt;
use super::memory::Memory;

/// Writes that are on their way at once, at most.
const DEPTH: u32 = 256;
/// Parts of the memory: one is filled while the others are being written.
const LANES: usize = 4;
/// Memory to begin with, and at most; it grows to what is written in one go. Multiples of every block size that there is.
const BYTES_AT_LEAST: usize = 2 << 20;
const BYTES_AT_MOST: usize = 4 << 20;
/// One write is not longer, so that the disk has something to do while the next one is being copied.
pub(super) const PIECE_BYTES: usize = 512 << 10;
/// How often somebody who waits for a disk that does not answer looks whether he still should.
const PATIENCE: Duration = Duration::from_millis(250);
/// Threads of the kernel's for writes that could block, at most. Two or three keep a disk busy; more only wait for each other.
const WORKERS: [u32; 2] = [4, 1];

/// Some bytes on their way.
#[derive(Clone, Copy, Debug)]
struct Piece {
    fd: RawFd,
    offset: u64,
    lane: usize,
    /// In the memory.
    at: usize,
    bytes: usize,
}

#[derive(Clone, Copy, Default)]
struct Lane {
    used: usize,
    in_flight: usize,
}

/// The ring with its memory. Everything but making it happens in one thread.
pub(super) struct Ring {
    uring: IoUring,
    // Not freed while the kernel still reads it.
    memory: ManuallyDrop<Memory>,
    registered: bool,
    enabled: bool,
    lanes: [Lane; LANES],
    lane: usize,
    pieces: Vec<Option<Piece>>,
    free: Vec<usize>,
    in_flight: usize,
    /// Something was written since the last [`Ring::finish`], so many bytes.
    begun: bool,
    sent: usize,
    failed: Option<io::Error>,
    interrupt: Interrupt,
}

impl Ring {
    /// # Errors
    /// When the kernel, or whoever guards it, does not let us.
    pub(super) fn new(interrupt: Interrupt) -> io::Result<Self> {
        // Completions are handled when somebody waits for them, by the one thread that submits: newer kernels save wake-ups so.
        let uring = IoUring::builder()
            .setup_r_disabled()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(DEPTH)
            .or_else(|e| match e.raw_os_error() {
                Some(code) if code == Errno::INVAL.raw_os_error() => IoUring::builder().setup_r_disabled().build(DEPTH),
                _ => Err(e),
            })?;
        if !uring.params().is_feature_ext_arg() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel's io_uring is too old (before 5.11)"));
        }
        let pieces = vec![None; DEPTH as usize];
        Ok(Self {
            uring,
            memory: ManuallyDrop::new(Memory::new(BYTES_AT_LEAST)?),
            registered: false,
            enabled: false,
            lanes: [Lane::default(); LANES],
            lane: 0,
            free: (0..pieces.len()).collect(),
            pieces,
            in_flight: 0,
            begun: false,
            sent: 0,
            failed: None,
            interrupt,
        })
    }

    /// Makes the calling thread the one that writes.
    pub(super) fn enable(&mut self) -> io::Result<()> {
        if self.enabled {
            return Ok(());
        }
        self.uring.submitter().register_enable_rings()?;
        self.enabled = true;
        // Where it is not known, the kernel's own limit holds.
        let _unknown = self.uring.submitter().register_iowq_max_workers(&mut WORKERS.clone());
        self.resize(self.memory.len())
    }

    /// Makes ready for the first write behind [`Self::finish`]: as much memory as was of use the time before.
    fn begin(&mut self) -> io::Result<()> {
        if self.in_flight > 0 {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "what was written before never ended"));
        }
        self.enable()?;
        let want = self.sent.next_power_of_two().clamp(BYTES_AT_LEAST, BYTES_AT_MOST);
        if want > self.memory.len() {
            self.resize(want)?;
        }
        self.lanes = [Lane::default(); LANES];
        (self.lane, self.sent, self.failed, self.begun) = (0, 0, None, true);
        Ok(())
    }

    /// Nothing is on its way when this is called.
    fn resize(&mut self, bytes: usize) -> io::Result<()> {
        if self.registered {
            self.uring.submitter().unregister_buffers()?;
            self.registered = false;
        }
        if bytes > self.memory.len() {
            let old = std::mem::replace(&mut self.memory, ManuallyDrop::new(Memory::new(bytes)?));
            drop(ManuallyDrop::into_inner(old));
        }
        let buffer = libc::iovec { iov_base: self.memory.start().cast(), iov_len: self.memory.len() };
        // SAFETY: the memory lives until it is unregistered above, or until the ring is gone.
        #[expect(unsafe_code, reason = "the kernel is given memory to keep")]
        let registered = unsafe { self.uring.submitter().register_buffers(&[buffer]) };
        // RLIMIT_MEMLOCK may be small: then each write pins its own part, for a little more CPU.
        self.registered = registered.is_ok();
        Ok(())
    }

    /// Copies `parts` and sends them to `offset` of a file. May return before they are written.
    pub(super) fn write(&mut self, fd: RawFd, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        if !self.begun {
            self.begin()?;
        }
        let mut left: usize = parts.iter().map(|part| part.len()).sum();
        self.sent += left;
        let mut parts = parts.iter().copied();
        let mut part: &[u8] = &[];
        let mut offset = offset;
        while left > 0 {
            let (lane, at, bytes) = self.room(left.min(PIECE_BYTES))?;
            let mut into = self.memory.part(at, bytes).unwrap_or_default();
            while !into.is_empty() {
                if part.is_empty() {
                    part = parts.next().ok_or(io::ErrorKind::InvalidInput)?;
                }
                let n = part.len().min(into.len());
                let (from, later) = part.split_at(n);
                let (to, rest) = into.split_at_mut(n);
                to.copy_from_slice(from);
                (part, into) = (later, rest);
            }
            self.send(Piece { fd, offset, lane, at, bytes })?;
            offset += bytes as u64;
            left -= bytes;
        }
        Ok(())
    }

    /// Memory for at most so many bytes: lane, place, bytes.
    fn room(&mut self, wanted: usize) -> io::Result<(usize, usize, usize)> {
        let lane_bytes = self.memory.len() / LANES;
        if self.lanes.get(self.lane).is_none_or(|lane| lane.used >= lane_bytes) {
            self.submit()?;
            let next = (self.lane + 1) % LANES;
            self.wait_until(|ring| ring.lanes.get(next).is_none_or(|lane| lane.in_flight == 0))?;
            self.lane = next;
            if let Some(lane) = self.lanes.get_mut(next) {
                lane.used = 0;
            }
        }
        let start = self.lane * lane_bytes;
        let lane = self.lanes.get_mut(self.lane).ok_or(io::ErrorKind::InvalidInput)?;
        let bytes = wanted.min(lane_bytes - lane.used);
        let at = start + lane.used;
        lane.used += bytes;
        Ok((self.lane, at, bytes))
    }

    fn send(&mut self, piece: Piece) -> io::Result<()> {
        if self.free.is_empty() {
            self.submit()?;
            self.wait_until(|ring| !ring.free.is_empty())?;
        }
        let id = self.free.pop().ok_or(io::ErrorKind::WouldBlock)?;
        if let (Some(slot), Some(lane)) = (self.pieces.get_mut(id), self.lanes.get_mut(piece.lane)) {
            *slot = Some(piece);
            lane.in_flight += 1;
            self.in_flight += 1;
        }
        self.push(id, piece)
    }

    fn push(&mut self, id: usize, piece: Piece) -> io::Result<()> {
        let length = u32::try_from(piece.bytes).map_err(io::Error::other)?;
        let start = self.memory.start().wrapping_add(piece.at).cast_const();
        let entry = if self.registered {
            opcode::WriteFixed::new(Fd(piece.fd), start, length, 0).offset(piece.offset).build()
        } else {
            opcode::Write::new(Fd(piece.fd), start, length).offset(piece.offset).build()
        };
        let entry = entry.user_data(id as u64);
        // SAFETY: the memory lives and is not touched until the completion was seen (`Lane::in_flight`), and is leaked if it never is.
        #[expect(unsafe_code, reason = "the kernel is given memory and a descriptor")]
        let pushed = unsafe { self.uring.submission().push(&entry) };
        // There is an entry for each piece.
        pushed.map_err(io::Error::other)
    }

    /// Hands over what was pushed.
    fn submit(&mut self) -> io::Result<()> {
        loop {
            match self.uring.submit() {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Completions first.
                Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::BUSY | Errno::AGAIN)) => self.wait_some(1)?,
                Err(e) => return Err(e),
            }
        }
    }

    /// Submits, and waits until all is written.
    ///
    /// # Errors
    /// The first one that any write met; none is on its way then either, unless waiting was interrupted.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.begun = false;
        self.wait_until(|ring| ring.in_flight == 0)?;
        self.failed.take().map_or(Ok(()), Err)
    }

    fn wait_until(&mut self, done: impl Fn(&Self) -> bool) -> io::Result<()> {
        while !done(self) {
            // All at once, so that there is one wake-up for them.
            let want = if self.free.is_empty() { 1 } else { self.in_flight };
            self.wait_some(want)?;
        }
        Ok(())
    }

    fn wait_some(&mut self, want: usize) -> io::Result<()> {
        self.reap()?;
        if self.in_flight == 0 {
            return Ok(());
        }
        let patience = Timespec::from(PATIENCE);
        let args = SubmitArgs::new().timespec(&patience);
        match self.uring.submitter().submit_with_args(want.min(self.in_flight), &args) {
            Ok(_) => {}
            Err(e) => match Errno::from_io_error(&e) {
                Some(Errno::TIME | Errno::INTR | Errno::BUSY | Errno::AGAIN) => {
                    if self.interrupt.is_set() {
                        return Err(io::Error::new(io::ErrorKind::TimedOut, "the disk does not answer"));
                    }
                }
                _ => return Err(e),
            },
        }
        self.reap()
    }

    /// Takes note of what was written.
    fn reap(&mut self) -> io::Result<()> {
        loop {
            let Some(completion) = self.uring.completion().next() else { return Ok(()) };
            let id = usize::try_from(completion.user_data()).unwrap_or(usize::MAX);
            let Some(piece) = self.pieces.get_mut(id).and_then(Option::take) else { continue };
            let written = completion.result();
            let rest = match usize::try_from(written) {
                Ok(bytes) if bytes >= piece.bytes => None,
                // A signal came, or there was not enough of something in the kernel: nothing of the disk.
                Err(_) if [Errno::INTR, Errno::AGAIN].iter().any(|e| e.raw_os_error() == -written) => Some(0),
                Ok(0) => {
                    self.failed.get_or_insert(io::ErrorKind::WriteZero.into());
                    None
                }
                Ok(bytes) => Some(bytes),
                Err(_) => {
                    self.failed.get_or_insert(io::Error::from_raw_os_error(-written));
                    None
                }
            };
            if let Some(done) = rest.filter(|_| self.failed.is_none()) {
                let rest = Piece {
                    offset: piece.offset + done as u64,
                    at: piece.at + done,
                    bytes: piece.bytes - done,
                    ..piece
                };
                if let Some(slot) = self.pieces.get_mut(id) {
                    *slot = Some(rest);
                }
                self.push(id, rest)?;
                continue;
            }
            self.free.push(id);
            self.in_flight -= 1;
            if let Some(lane) = self.lanes.get_mut(piece.lane) {
                lane.in_flight -= 1;
            }
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // Perhaps it has ended by now.
        let _error = self.wait_some(self.in_flight);
        if self.in_flight > 0 {
            // The disk may still read it, and would write somebody else's bytes.
            tracing::error!(bytes = self.memory.len(), "memory is given up to writes that a disk never finished");
            return;
        }
        // SAFETY: dropped once, here, and not used behind.
        #[expect(unsafe_code, reason = "the counterpart of leaking it")]
        unsafe {
            ManuallyDrop::drop(&mut self.memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::time::Instant;

    use super::*;

    #[test]
    fn more_than_fits_in_the_memory_and_in_the_ring_is_written() {
        let mut file = tempfile::tempfile().unwrap();
        let mut ring = Ring::new(Interrupt::default()).unwrap();
        let big: Vec<u8> = (0..BYTES_AT_MOST * 2).map(|at| (at / 7 % 251) as u8).collect();
        let small: Vec<u8> = (0..4096).map(|at| (at % 13) as u8).collect();
        let smalls = DEPTH as usize * 3;
        for _ in 0..2 {
            let (one, two) = big.split_at(12_345);
            ring.write(file.as_raw_fd(), 0, &[one, &[], two]).unwrap();
            for at in 0..smalls {
                ring.write(file.as_raw_fd(), (big.len() + at * small.len()) as u64, &[&small]).unwrap();
            }
            ring.finish().unwrap();
        }
        let mut found = Vec::new();
        file.read_to_end(&mut found).unwrap();
        assert!(found == [big, small.repeat(smalls)].concat());
        assert_eq!((ring.in_flight, ring.free.len(), ring.memory.len()), (0, DEPTH as usize, BYTES_AT_MOST));
    }

    #[test]
    fn an_error_of_one_write_is_told_and_the_ring_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, [0; 8192]).unwrap();
        let (good, bad) =
            (std::fs::File::options().write(true).open(&path).unwrap(), std::fs::File::open(&path).unwrap());
        let mut ring = Ring::new(Interrupt::default()).unwrap();
        for fd in [good.as_raw_fd(), bad.as_raw_fd(), good.as_raw_fd()] {
            ring.write(fd, 0, &[&[1; 4096]]).unwrap();
        }
        assert_eq!(Errno::from_io_error(&ring.finish().unwrap_err()), Some(Errno::BADF));
        assert_eq!(ring.in_flight, 0);
        ring.write(good.as_raw_fd(), 4096, &[&[2; 4096]]).unwrap();
        ring.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [[1; 4096], [2; 4096]].concat());
    }

    /// A pipe that nobody reads stands for a disk that hangs.
    #[test]
    fn waiting_for_what_never_ends_can_be_ended() {
        let (_reader, writer) = std::io::pipe().unwrap();
        let interrupt = Interrupt::default();
        let mut ring = Ring::new(interrupt.clone()).unwrap();
        ring.write(writer.as_raw_fd(), 0, &[&vec![0; 1 << 20]]).unwrap();
        let start = Instant::now();
        let stopper = std::thread::spawn(move || {
            std::thread::park_timeout(Duration::from_millis(50));
            interrupt.set();
        });
        assert_eq!(ring.finish().unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() < Duration::from_secs(3));
        let again = ring.write(writer.as_raw_fd(), 0, &[&[0; 4096]]).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::TimedOut);
        stopper.join().unwrap();
    }
}
