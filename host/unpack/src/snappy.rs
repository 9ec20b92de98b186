//! Snappy, unpacked without holding the output.
//!
//! The usual batch is left to librdkafka: snappy says in front how much there will be, so that it is bounded
//! before memory is taken. This decoder is for what passes the limits. It keeps the last of its output, which
//! later bytes may refer to; references go back 64 KiB, and some compressors' further.

use std::io::{Error, ErrorKind};

use super::UnpackError;

/// How far back a reference may go.
const WINDOW_BYTES: usize = 16 * 1024 * 1024;
/// What snappy makes of three bytes at most: a copy of 64.
const RATIO_MAX: usize = 22;

fn invalid(what: &'static str) -> UnpackError {
    Error::new(ErrorKind::InvalidData, what).into()
}

/// What a block says that it unpacks to, and where its elements begin. None where it cannot be right.
fn preamble(block: &[u8]) -> Option<(usize, &[u8])> {
    let mut length = 0_u64;
    for (index, byte) in block.iter().enumerate().take(5) {
        length |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            let length = usize::try_from(length).ok()?;
            let elements = &block[index + 1..];
            return (length <= elements.len().saturating_mul(RATIO_MAX)).then_some((length, elements));
        }
    }
    None
}

/// What a block unpacks to, by what it says; none where that cannot be right.
pub fn unpacked_bytes(block: &[u8]) -> Option<usize> {
    preamble(block).map(|(length, _)| length)
}

/// The blocks of snappy-java's framing behind its header: each has its length in front. Ends early where the
/// framing is broken: [`unpack`] finds out.
pub fn java_blocks(mut framed: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        if framed.is_empty() {
            return None;
        }
        let block = framed.split_first_chunk::<4>().and_then(|(length, rest)| {
            let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
            rest.split_at_checked(length)
        });
        let (block, rest) = block.unwrap_or_default();
        framed = rest;
        Some(block)
    })
}

/// The last of the output: what was given on and may be referred to, and what is not given on yet.
struct Window<F> {
    bytes: Vec<u8>,
    given: usize,
    left: usize,
    give: F,
}

impl<F: FnMut(&[u8]) -> Result<(), UnpackError>> Window<F> {
    /// Makes sure that so much may be added.
    fn claim(&mut self, length: usize) -> Result<(), UnpackError> {
        self.left = self.left.checked_sub(length).ok_or_else(|| invalid("more than it says"))?;
        if self.bytes.len() + length > 2 * WINDOW_BYTES {
            self.flush()?;
            let dropped = self.bytes.len().saturating_sub(WINDOW_BYTES);
            self.bytes.drain(..dropped);
            self.given = self.bytes.len();
        }
        self.bytes.try_reserve(length).map_err(|_| UnpackError::NoMemory)
    }

    fn literal(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        for piece in bytes.chunks(WINDOW_BYTES) {
            self.claim(piece.len())?;
            self.bytes.extend_from_slice(piece);
        }
        Ok(())
    }

    fn copy(&mut self, offset: usize, length: usize) -> Result<(), UnpackError> {
        self.claim(length)?;
        let start = self.bytes.len().checked_sub(offset).filter(|_| offset > 0);
        let start = start.ok_or_else(|| invalid("a reference before what is there"))?;
        if offset >= length {
            self.bytes.extend_from_within(start..start + length);
        } else {
            // It refers to what it writes itself.
            for index in start..start + length {
                self.bytes.push(self.bytes[index]);
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), UnpackError> {
        (self.give)(&self.bytes[self.given..])?;
        self.given = self.bytes.len();
        Ok(())
    }
}

/// A little-endian number of so many bytes, from the front of `bytes`.
fn number(bytes: &mut &[u8], width: usize) -> Result<usize, UnpackError> {
    let (digits, rest) = bytes.split_at_checked(width).ok_or_else(|| invalid("it breaks off"))?;
    *bytes = rest;
    Ok(digits.iter().rev().fold(0, |number, digit| number << 8 | usize::from(*digit)))
}

/// Unpacks one block, which is given on piece by piece.
pub fn unpack(block: &[u8], give: impl FnMut(&[u8]) -> Result<(), UnpackError>) -> Result<(), UnpackError> {
    const GIVE_BYTES: usize = 64 * 1024;
    let (left, mut elements) = preamble(block).ok_or_else(|| invalid("its length cannot be right"))?;
    let mut window = Window { bytes: Vec::new(), given: 0, left, give };
    while let Some((tag, rest)) = elements.split_first() {
        elements = rest;
        let bits = usize::from(*tag >> 2);
        match tag & 3 {
            0 => {
                let length = if bits < 60 { bits } else { number(&mut elements, bits - 59)? } + 1;
                let (literal, rest) = elements.split_at_checked(length).ok_or_else(|| invalid("it breaks off"))?;
                elements = rest;
                window.literal(literal)?;
            }
            1 => {
                let offset = number(&mut elements, 1)? | usize::from(*tag >> 5) << 8;
                window.copy(offset, 4 + (bits & 7))?;
            }
            kind => {
                let offset = number(&mut elements, if kind == 2 { 2 } else { 4 })?;
                window.copy(offset, bits + 1)?;
            }
        }
        if window.bytes.len() - window.given >= GIVE_BYTES {
            window.flush()?;
        }
    }
    window.flush()?;
    if window.left == 0 { Ok(()) } else { Err(invalid("less than it says")) }
}
