//! Parts of usual JSON (flat, ASCII, without escapes) at the beginning of some bytes; none where there is no
//! such part.
//!
//! It is the hot path. What is not usual (nested, escaped, not ASCII, not JSON) is left to a general parser,
//! which alone says what is wrong with a record; so nothing is read here that the other would read otherwise.
//! In the sandbox a loop costs more than what it saves while it is short: each turn looks at the clock.

use std::borrow::Cow;

use crate::decimal;
use crate::fields::Scalar;
use crate::words::{at, ends_digits, ends_string, run, word};

/// What a value says: one whose length [`value`] found. None for a number that only a general parser reads.
pub(crate) fn scalar(value: &[u8]) -> Option<Scalar<'_>> {
    Some(match value {
        [b'"', text @ .., b'"'] => Scalar::Text(Cow::Borrowed(text)),
        b"null" => Scalar::Null,
        b"true" => Scalar::Bool(true),
        b"false" => Scalar::Bool(false),
        // The integer -0, which JSON readers take for a double.
        b"-0" => return None,
        number if run(unsigned(number), ends_digits) == unsigned(number).len() => {
            Scalar::Integer(std::str::from_utf8(number).ok()?.parse().ok()?)
        }
        // The rest by the general parser's own reading: it and Rust's differ where there are hundreds of digits.
        number => Scalar::Float(decimal::read(number).or_else(|| serde_json::from_slice(number).ok())?),
    })
}

/// What is left behind a byte.
#[inline]
pub(crate) fn byte(bytes: &[u8], wanted: u8) -> Option<&[u8]> {
    bytes.split_first().and_then(|(first, rest)| (*first == wanted).then_some(rest))
}

/// What is left behind spaces.
#[inline]
pub(crate) fn space(mut bytes: &[u8]) -> &[u8] {
    while let Some((b' ' | b'\t' | b'\n' | b'\r', rest)) = bytes.split_first() {
        bytes = rest;
    }
    bytes
}

/// The length of a text, its quotes included.
#[inline]
pub(crate) fn text(bytes: &[u8]) -> Option<usize> {
    let inside = byte(bytes, b'"')?;
    let length = run(inside, ends_string);
    (inside.get(length) == Some(&b'"')).then_some(length + 2)
}

/// The length of a value, which is not read: most are not asked for.
#[inline(never)]
pub(crate) fn value(bytes: &[u8]) -> Option<usize> {
    let first = *bytes.first()?;
    if first == b'"' {
        text(bytes)
    } else if first.is_ascii_digit() || first == b'-' {
        number(bytes)
    } else {
        [&b"null"[..], b"true", b"false"].iter().find(|word| bytes.starts_with(word)).map(|word| word.len())
    }
}

/// The same for a number without sign and exponent that ends within eight bytes, by one look at them. None
/// says nothing.
#[inline]
pub(crate) fn short_number(bytes: &[u8]) -> Option<usize> {
    let word = word(bytes);
    let byte = |at: usize| word >> (8 * at) & 0xff;
    let marks = ends_digits(word);
    let mut length = at(marks);
    if length == 0 || length == 8 || (length > 1 && byte(0) == u64::from(b'0')) {
        return None;
    }
    if byte(length) == u64::from(b'.') {
        // All before it is ASCII, so the next mark is right as well.
        let end = at(marks & (marks - 1));
        if end == length + 1 || end == 8 {
            return None;
        }
        length = end;
    }
    (byte(length) | 0x20 != u64::from(b'e')).then_some(length)
}

#[inline]
pub(crate) fn number(bytes: &[u8]) -> Option<usize> {
    let unsigned = unsigned(bytes);
    let mut rest = digits(unsigned)?;
    if unsigned.first() == Some(&b'0') && unsigned.len() - rest.len() > 1 {
        return None;
    }
    if let Some(fraction) = byte(rest, b'.') {
        rest = digits(fraction)?;
    }
    if let Some((b'e' | b'E', exponent)) = rest.split_first() {
        rest = digits(byte(exponent, b'+').or_else(|| byte(exponent, b'-')).unwrap_or(exponent))?;
    }
    Some(bytes.len() - rest.len())
}

/// What is left behind a sign, if there is one.
#[inline]
fn unsigned(number: &[u8]) -> &[u8] {
    byte(number, b'-').unwrap_or(number)
}

/// What is left behind at least one digit.
#[inline]
fn digits(bytes: &[u8]) -> Option<&[u8]> {
    bytes.get(run(bytes, ends_digits)..).filter(|rest| rest.len() < bytes.len())
}
