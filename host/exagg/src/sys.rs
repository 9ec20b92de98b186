//! The functions that the linker puts in the place of librdkafka's own (`build.rs`). Only the binary has
//! this module: what links the library alone keeps librdkafka's.
//!
//! The signatures are those of librdkafka 2.12.1, in `rdgz.h`, `rdkafka_lz4.h`, `rdkafka_zstd.h` and
//! `snappy.h`; `rdkafka_msgset_reader.c` calls them, and releases by `free` what they return.
#![allow(unsafe_code, reason = "librdkafka's C interface; each use says why it is sound")]

use std::cell::RefCell;
use std::ffi::{c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};

use exagg_common::memory;
use exagg_unpack::{Codec, Limits, Marker, Output, UnpackError, limits, snappy, unpack, unpack_snappy};

/// `rd_kafka_resp_err_t`, an enum of C.
const OK: c_int = 0;
const BAD_COMPRESSION: c_int = -198;
const CRITICAL_RESOURCE: c_int = -194;

/// A batch of this size is unpacked whatever the host uses of its memory: it is an ordinary one. A larger one
/// waits until there is room for it.
const ORDINARY_BYTES: usize = 4 * 1024 * 1024;

/// What lz4 makes of a byte at most.
const LZ4_RATIO_MAX: usize = 255;

unsafe extern "C" {
    fn __real_rd_kafka_lz4_decompress(
        broker: *mut c_void,
        proper_hc: c_int,
        offset: i64,
        compressed: *mut c_char,
        compressed_bytes: usize,
        out: *mut *mut c_void,
        out_bytes: *mut usize,
    ) -> c_int;
    fn __real_rd_kafka_snappy_uncompress(compressed: *const c_char, compressed_bytes: usize, out: *mut c_char)
    -> c_int;
    fn __real_rd_kafka_snappy_java_uncompress(
        compressed: *const c_char,
        compressed_bytes: usize,
        out_bytes: *mut usize,
        error: *mut c_char,
        error_bytes: usize,
    ) -> *mut c_char;
}

/// Memory of `malloc`, which grows by doubling.
struct Buffer {
    start: NonNull<u8>,
    length: usize,
    capacity: usize,
}

impl Buffer {
    fn with_capacity(capacity: usize) -> Result<Self, UnpackError> {
        // `malloc(0)` may be a null pointer, which would be an error.
        let capacity = capacity.max(1);
        // SAFETY: malloc takes any size.
        let start = NonNull::new(unsafe { libc::malloc(capacity) }.cast());
        Ok(Self { start: start.ok_or(UnpackError::NoMemory)?, length: 0, capacity })
    }

    fn resize(&mut self, capacity: usize) -> Result<(), UnpackError> {
        let more = capacity.saturating_sub(self.capacity);
        if more > 0 && capacity > ORDINARY_BYTES && !memory::has_room_for(more as u64) {
            return Err(UnpackError::NoMemory);
        }
        // SAFETY: the memory is of malloc and ours; where there is none it stays as it is.
        let start = NonNull::new(unsafe { libc::realloc(self.start.as_ptr().cast(), capacity) }.cast());
        self.start = start.ok_or(UnpackError::NoMemory)?;
        self.capacity = capacity;
        Ok(())
    }

    /// Hands the memory over, and its length.
    fn into_raw(mut self) -> (*mut u8, usize) {
        // Where it cannot shrink it stays larger.
        let _ = self.resize(self.length.max(1));
        let raw = (self.start.as_ptr(), self.length);
        std::mem::forget(self);
        raw
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the memory is of malloc, ours, and not used again.
        unsafe { libc::free(self.start.as_ptr().cast()) };
    }
}

impl Output for Buffer {
    fn bytes(&self) -> &[u8] {
        // SAFETY: so many bytes were written.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }

    fn add(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        let needed = self.length.checked_add(bytes.len()).ok_or(UnpackError::NoMemory)?;
        if needed > self.capacity {
            self.resize(needed.max(self.capacity.saturating_mul(2)))?;
        }
        // SAFETY: there is room for the bytes, and what is borrowed elsewhere is not in memory of ours.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.as_ptr().add(self.length), bytes.len()) };
        self.length = needed;
        Ok(())
    }

    fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }
}

/// The bytes that librdkafka lends for the time of a call.
///
/// # Safety
/// `start` is null or points to so many bytes that nobody writes meanwhile.
unsafe fn lent<'a>(start: *const c_void, length: usize) -> &'a [u8] {
    if start.is_null() || length == 0 {
        return &[];
    }
    // SAFETY: by the caller.
    unsafe { std::slice::from_raw_parts(start.cast(), length) }
}

/// Runs work that writes to a buffer; a defect in it is an error of the batch, not the end of the process.
fn fill(
    compressed_bytes: usize,
    work: impl FnOnce(Limits, &Marker, &mut Buffer) -> Result<(), UnpackError>,
) -> Result<Buffer, UnpackError> {
    let limits = limits();
    let guess = compressed_bytes.saturating_mul(4).min(ORDINARY_BYTES);
    let mut buffer = Buffer::with_capacity(guess)?;
    let done = catch_unwind(AssertUnwindSafe(|| work(limits, Marker::of_process(), &mut buffer)));
    match done.unwrap_or(Err(UnpackError::Malformed("unpacking it failed"))) {
        Ok(()) => Ok(buffer),
        Err(error) => {
            tracing::warn!(compressed_bytes, "kafka: {error}");
            Err(error)
        }
    }
}

fn code(error: &UnpackError) -> c_int {
    if matches!(error, UnpackError::NoMemory) { CRITICAL_RESOURCE } else { BAD_COMPRESSION }
}

/// Unpacks for the functions that give an error's code.
///
/// # Safety
/// `compressed` points to so many bytes; `out` and `out_bytes` may be written.
unsafe fn give(
    codec: Codec,
    compressed: *const c_char,
    compressed_bytes: usize,
    out: *mut *mut c_void,
    out_bytes: *mut usize,
) -> c_int {
    // SAFETY: by the caller.
    let compressed = unsafe { lent(compressed.cast(), compressed_bytes) };
    let filled = fill(compressed_bytes, |limits, marker, buffer| unpack(codec, compressed, limits, marker, buffer));
    let (start, length, code) = match filled {
        Ok(buffer) => {
            let (start, length) = buffer.into_raw();
            (start.cast(), length, OK)
        }
        Err(error) => (ptr::null_mut(), 0, code(&error)),
    };
    // SAFETY: by the caller.
    unsafe {
        *out = start;
        *out_bytes = length;
    }
    code
}

/// # Safety
/// As librdkafka calls it: the bytes are there, and the length may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __wrap_rd_gz_decompress(
    compressed: *const c_void,
    compressed_bytes: c_int,
    out_bytes: *mut u64,
) -> *mut c_void {
    let Ok(length) = usize::try_from(compressed_bytes) else { return ptr::null_mut() };
    let (mut start, mut filled) = (ptr::null_mut(), 0);
    // SAFETY: by the caller; the places for the answer are ours.
    unsafe { give(Codec::Gzip, compressed.cast(), length, &raw mut start, &raw mut filled) };
    // SAFETY: by the caller.
    unsafe { *out_bytes = filled as u64 };
    start
}

/// # Safety
/// As librdkafka calls it: the bytes are there, and the answer may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __wrap_rd_kafka_lz4_decompress(
    broker: *mut c_void,
    proper_hc: c_int,
    offset: i64,
    compressed: *mut c_char,
    compressed_bytes: usize,
    out: *mut *mut c_void,
    out_bytes: *mut usize,
) -> c_int {
    if proper_hc != 0 {
        // SAFETY: by the caller.
        return unsafe { give(Codec::Lz4, compressed, compressed_bytes, out, out_bytes) };
    }
    // Records of before Kafka 0.10 have a wrong checksum, which librdkafka mends. They are small enough, or refused.
    if compressed_bytes.saturating_mul(LZ4_RATIO_MAX) > limits().batch_bytes_max {
        tracing::warn!(compressed_bytes, offset, "kafka: a batch of lz4 in format 0 is too large to be unpacked");
        return BAD_COMPRESSION;
    }
    // SAFETY: the arguments are the caller's.
    unsafe { __real_rd_kafka_lz4_decompress(broker, proper_hc, offset, compressed, compressed_bytes, out, out_bytes) }
}

/// # Safety
/// As librdkafka calls it: the bytes are there, and the answer may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __wrap_rd_kafka_zstd_decompress(
    _broker: *mut c_void,
    compressed: *mut c_char,
    compressed_bytes: usize,
    out: *mut *mut c_void,
    out_bytes: *mut usize,
) -> c_int {
    // SAFETY: by the caller.
    unsafe { give(Codec::Zstd, compressed, compressed_bytes, out, out_bytes) }
}

thread_local! {
    /// A batch that was unpacked when librdkafka asked for its length: it makes room for so much and then asks
    /// for the bytes, on the same thread.
    static UNPACKED: RefCell<Option<(*const c_char, Buffer)>> = const { RefCell::new(None) };
}

/// # Safety
/// As librdkafka calls it: the bytes are there, and the length may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __wrap_rd_kafka_snappy_uncompressed_length(
    compressed: *const c_char,
    compressed_bytes: usize,
    out_bytes: *mut usize,
) -> bool {
    // SAFETY: by the caller.
    let block = unsafe { lent(compressed.cast(), compressed_bytes) };
    drop(UNPACKED.take());
    let Some(mut length) = snappy::unpacked_bytes(block) else { return false };
    if length > limits().batch_bytes_max {
        let once = std::iter::once(block);
        let filled = fill(0, |limits, marker, buffer| unpack_snappy(once, limits, marker, buffer));
        let Ok(buffer) = filled else { return false };
        length = buffer.length;
        UNPACKED.set(Some((compressed, buffer)));
    }
    // SAFETY: by the caller.
    unsafe { *out_bytes = length };
    true
}

/// # Safety
/// As librdkafka calls it: the bytes are there, and so much room as their length was said to be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __wrap_rd_kafka_snappy_uncompress(
    compressed: *const c_char,
    compressed_bytes: usize,
    out: *mut c_char,
) -> c_int {
    match UNPACKED.take() {
        Some((of, buffer)) if of == compressed => {
            // SAFETY: the room is as large as what `uncompressed_length` said last, which is this buffer's.
            unsafe { ptr::copy_nonoverlapping(buffer.start.as_ptr(), out.cast(), buffer.length) };
            OK
        }
        // SAFETY: the arguments are the caller's.
        _ => unsafe { __real_rd_kafka_snappy_uncompress(compressed, compressed_bytes, out) },
    }
}

/// # Safety
/// As librdkafka calls it: the bytes are there, and the length and the error's text may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __wrap_rd_kafka_snappy_java_uncompress(
    compressed: *const c_char,
    compressed_bytes: usize,
    out_bytes: *mut usize,
    error: *mut c_char,
    error_bytes: usize,
) -> *mut c_char {
    // SAFETY: by the caller.
    let framed = unsafe { lent(compressed.cast(), compressed_bytes) };
    let total =
        snappy::java_blocks(framed).try_fold(0_usize, |total, block| total.checked_add(snappy::unpacked_bytes(block)?));
    if total.is_some_and(|total| total <= limits().batch_bytes_max) {
        // SAFETY: the arguments are the caller's.
        return unsafe {
            __real_rd_kafka_snappy_java_uncompress(compressed, compressed_bytes, out_bytes, error, error_bytes)
        };
    }
    let blocks = snappy::java_blocks(framed);
    match fill(0, |limits, marker, buffer| unpack_snappy(blocks, limits, marker, buffer)) {
        Ok(buffer) => {
            let (start, length) = buffer.into_raw();
            // SAFETY: by the caller.
            unsafe { *out_bytes = length };
            start.cast()
        }
        Err(said) => {
            let text = said.to_string();
            let length = text.len().min(error_bytes.saturating_sub(1));
            if error_bytes > 0 {
                // SAFETY: there is room for the text's head and a NUL, by the caller.
                unsafe {
                    ptr::copy_nonoverlapping(text.as_ptr(), error.cast(), length);
                    *error.add(length) = 0;
                }
            }
            ptr::null_mut()
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::io::Write;

    use super::*;

    unsafe extern "C" {
        /// librdkafka's, by its own name.
        fn rd_gz_decompress(compressed: *const c_void, compressed_bytes: c_int, out_bytes: *mut u64) -> *mut c_void;
    }

    /// Take out: `rd_gz_decompress` from `WRAPPED` in `host/build.rs`.
    #[test]
    fn who_calls_librdkafkas_function_comes_here() {
        const VALUE_BYTES: u64 = 10_000_000;
        let mut record = vec![0, 0, 0, 1];
        exagg_unpack::record::write_varint(&mut record, VALUE_BYTES.cast_signed());
        record.resize(record.len() + usize::try_from(VALUE_BYTES).unwrap(), b' ');
        record.push(0);
        let mut bytes = Vec::new();
        exagg_unpack::record::write_varint(&mut bytes, i64::try_from(record.len()).unwrap());
        bytes.append(&mut record);
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&bytes).unwrap();
        let compressed = encoder.finish().unwrap();
        let mut length = 0;
        // SAFETY: the bytes and the place for the length are ours.
        let start = unsafe {
            rd_gz_decompress(compressed.as_ptr().cast(), c_int::try_from(compressed.len()).unwrap(), &raw mut length)
        };
        assert!(!start.is_null());
        // SAFETY: it is released as librdkafka does it.
        unsafe { libc::free(start) };
        assert!((65_536..70_000).contains(&length), "{length}");
    }
}
