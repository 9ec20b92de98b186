//! Compressed record batches, unpacked within bounds that hold before memory is taken.
//!
//! librdkafka unpacks a whole batch into one buffer, however large it becomes: a hundred KiB of gzip can
//! be a hundred MiB of spaces. The program puts this module in its place (`host/exagg/src/sys.rs`, which only the
//! binary has). A batch within the limits comes out byte for byte as it went in; a record beyond them is
//! cut to its head and says so by a header that no producer can forge, so that it keeps its place and
//! becomes a reject; its neighbours are untouched. Of a batch with more records than any client sends, one
//! cut record stands for all that is behind it, and the log says so. The same bytes always come to the same
//! cuts.
//!
//! # Layout
//! - [`marker`]: how a cut record says that it is one.
//! - [`record`]: one record that is cut while it streams by.
//! - [`rewrite`]: a stream of records, of which some are cut.
//! - [`snappy`]: a decoder of snappy that does not hold its output.
#![warn(missing_docs)]

pub mod marker;
pub mod record;
pub mod rewrite;
pub mod snappy;
#[cfg(test)]
mod tests;

use std::io::{ErrorKind, Read};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use exagg_common::memory;
pub use marker::{Cut, CutBecause, Marker, read_marker};
use rewrite::Rewriter;

/// Bytes of a cut record's value that are kept, and of its key.
pub const CUT_VALUE_BYTES: usize = 64 * 1024;
/// Bytes of a cut record's key that are kept; a shorter key is kept whole.
pub const CUT_KEY_BYTES: usize = 1024;
/// The same of a record that is cut because its batch is too large.
pub const CUT_IN_BATCH_VALUE_BYTES: usize = 1024;
/// Bytes that are kept of the key of a record that is cut because its batch is too large.
pub const CUT_IN_BATCH_KEY_BYTES: usize = 256;

/// What a record may have unless the app says otherwise: 1 MiB, Kafka's own default, and some slack.
pub const RECORD_BYTES_MAX: usize = 1024 * 1024 + 64 * 1024;
/// The least that a batch may come to.
const BATCH_BYTES_MAX: usize = 64 * 1024 * 1024;
/// About a second's work; what a broker's thread does for one batch delays all its partitions.
const WORK_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Every record costs librdkafka half a KiB, however small it is: these are 128 MiB.
const BATCH_RECORDS_MAX: usize = 256 * 1024;
/// What is unpacked at a time.
const CHUNK_BYTES: usize = 32 * 1024;
/// Log 2 of zstd's window, which the producer chooses: what brokers take, by the reference decoder's default.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// The window of zstd's own levels up to 19.
const ZSTD_WINDOW_LOG_USUAL: u32 = 23;

static RECORD_LIMIT: AtomicUsize = AtomicUsize::new(RECORD_BYTES_MAX);
static HAS_CUT: AtomicBool = AtomicBool::new(false);

/// Raises what a record may have for the whole process: stages share the limit, and each applies its own to
/// what it reads. To be called before anything is read.
pub fn raise_record_limit(record_bytes_max: usize) {
    RECORD_LIMIT.fetch_max(record_bytes_max, Ordering::Relaxed);
}

/// The limits of this process.
pub fn limits() -> Limits {
    Limits::of_records(RECORD_LIMIT.load(Ordering::Relaxed))
}

/// Whether any record was cut in this process: until then nobody needs to look for the sign of it.
pub fn has_cut() -> bool {
    HAS_CUT.load(Ordering::Relaxed)
}

/// How large things may be when they are unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of one record with everything in it.
    pub record_bytes_max: usize,
    /// Of all records of a batch, as they are after cuts.
    pub batch_bytes_max: usize,
    /// How many records are taken of a batch: the one behind them is cut and stands for the rest.
    pub batch_records_max: usize,
    /// What is unpacked of a batch at the most, kept or not: it takes time, also where it takes no memory.
    pub work_bytes_max: u64,
}

impl Limits {
    /// A batch has room for some of the largest records.
    pub fn of_records(record_bytes_max: usize) -> Self {
        let batch_bytes_max = BATCH_BYTES_MAX.max(record_bytes_max.saturating_mul(2));
        Self { record_bytes_max, batch_bytes_max, batch_records_max: BATCH_RECORDS_MAX, work_bytes_max: WORK_BYTES_MAX }
    }
}

/// The compressions that are unpacked here in every case. Snappy's, see [`snappy`], only beyond the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// The format of RFC 1952, or zlib (RFC 1950) where the first two bytes are not those of gzip.
    Gzip,
    /// The frame format, one frame: bytes behind its end are an error.
    Lz4,
    /// RFC 8878, with windows up to 128 MiB; of batches with one above 8 MiB there is one at a time.
    Zstd,
}

/// Why a batch cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The compressed bytes are damaged, or ask for a larger window than is allowed.
    #[error("the compressed batch cannot be unpacked: {0}")]
    Compression(#[from] std::io::Error),
    /// Something has to be cut, and the records are not of Kafka's format 2; it holds what is wrong.
    #[error("the batch is larger than the limit and its records cannot be read: {0}")]
    Malformed(&'static str),
    /// The host's budget or the system has no room now; a later try may succeed.
    #[error("there is no memory for the batch now")]
    NoMemory,
}

/// Where unpacked bytes go.
pub trait Output {
    /// All that it holds so far.
    fn bytes(&self) -> &[u8];
    /// Appends the bytes; [`UnpackError::NoMemory`] where there is no room for them.
    fn add(&mut self, bytes: &[u8]) -> Result<(), UnpackError>;
    /// Keeps the first `length` bytes, or all where it holds fewer.
    fn truncate(&mut self, length: usize);
}

impl Output for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }

    fn add(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        self.try_reserve(bytes.len()).map_err(|_| UnpackError::NoMemory)?;
        self.extend_from_slice(bytes);
        Ok(())
    }

    fn truncate(&mut self, length: usize) {
        self.truncate(length);
    }
}

/// Unpacks one batch. What librdkafka's own functions take is taken: gzip may be zlib as well and ends with its
/// first member, a stream of gzip or lz4 that breaks off gives what there was.
pub fn unpack(
    codec: Codec,
    compressed: &[u8],
    limits: Limits,
    marker: &Marker,
    out: &mut impl Output,
) -> Result<(), UnpackError> {
    let mut rewriter = Rewriter::new(limits, marker, out);
    match codec {
        Codec::Gzip if compressed.starts_with(&[0x1f, 0x8b]) => {
            drain(flate2::bufread::GzDecoder::new(compressed), true, &mut rewriter)?;
        }
        Codec::Gzip => drain(flate2::bufread::ZlibDecoder::new(compressed), true, &mut rewriter)?,
        Codec::Lz4 => {
            let mut decoder = lz4_flex::frame::FrameDecoder::new(compressed);
            drain(&mut decoder, true, &mut rewriter)?;
            if !decoder.get_ref().is_empty() {
                return Err(std::io::Error::new(ErrorKind::InvalidData, "there is more behind the end").into());
            }
        }
        Codec::Zstd => unzstd(compressed, &mut rewriter)?,
    }
    finish(rewriter)
}

/// A window is memory that the producer chooses: an ordinary one is taken as it comes, and of larger ones there is
/// one at a time, while there is room for it.
fn unzstd(compressed: &[u8], rewriter: &mut Rewriter<'_, impl Output>) -> Result<(), UnpackError> {
    static LARGE: Mutex<()> = Mutex::new(());
    let mut decoder = zstd::stream::read::Decoder::with_buffer(compressed)?;
    let is_large = zstd_window_bytes(compressed).is_none_or(|bytes| bytes > 1 << ZSTD_WINDOW_LOG_USUAL);
    if !is_large {
        decoder.window_log_max(ZSTD_WINDOW_LOG_USUAL)?;
        return drain(decoder, false, rewriter);
    }
    let _one = LARGE.lock().unwrap_or_else(PoisonError::into_inner);
    if !memory::has_room_for(1 << ZSTD_WINDOW_LOG_MAX) {
        return Err(UnpackError::NoMemory);
    }
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    drain(decoder, false, rewriter)
}

/// The window that a frame's head asks for (RFC 8878, 3.1.1.1); none where it says nothing that can be read.
fn zstd_window_bytes(frame: &[u8]) -> Option<u64> {
    const SINGLE_SEGMENT: u8 = 0x20;
    let descriptor = *frame.get(4)?;
    if descriptor & SINGLE_SEGMENT == 0 {
        let window = *frame.get(5)?;
        let base = 1_u64 << (10 + (window >> 3));
        return Some(base + base / 8 * u64::from(window & 7));
    }
    // The content is the window; its size comes behind the dictionary's id.
    let at = 5 + [0, 1, 2, 4][usize::from(descriptor & 3)];
    let length = [1, 2, 4, 8][usize::from(descriptor >> 6)];
    let mut size = [0; 8];
    size[..length].copy_from_slice(frame.get(at..at + length)?);
    Some(u64::from_le_bytes(size) + if length == 2 { 256 } else { 0 })
}

/// Unpacks blocks of snappy, one behind the other. An error leaves what was unpacked before it.
pub fn unpack_snappy<'a>(
    blocks: impl Iterator<Item = &'a [u8]>,
    limits: Limits,
    marker: &Marker,
    out: &mut impl Output,
) -> Result<(), UnpackError> {
    let mut rewriter = Rewriter::new(limits, marker, out);
    for block in blocks {
        if rewriter.is_short() {
            break;
        }
        snappy::unpack(block, |bytes| rewriter.push(bytes))?;
    }
    finish(rewriter)
}

fn finish(rewriter: Rewriter<'_, impl Output>) -> Result<(), UnpackError> {
    if rewriter.is_short() {
        tracing::error!(
            "kafka: a compressed batch holds more records than are taken: its first {BATCH_RECORDS_MAX}, or what fits \
             its limit, are read, and one reject stands for the rest"
        );
    }
    if rewriter.finish()? > 0 {
        HAS_CUT.store(true, Ordering::Relaxed);
    }
    Ok(())
}

fn drain(
    mut reader: impl Read,
    may_break_off: bool,
    rewriter: &mut Rewriter<'_, impl Output>,
) -> Result<(), UnpackError> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match reader.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(_) if rewriter.is_short() => return Ok(()),
            Ok(read) => rewriter.push(&chunk[..read])?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof && may_break_off => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
