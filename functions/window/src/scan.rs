//! Parts of usual JSON (flat, ASCII, without escapes) at the beginning of some bytes; none where there is no
//! such part.
//!
//! It is the hot path. What is not usual (nested, escaped, not ASCII, not JSON) is left to a general parser,
//! which alone says what is wrong with a record; so nothing is read here that the other would read otherwise.
//! In the sandbox a loop costs more than what it saves while it is short: each turn looks at the clock.

use std::borrow::Cow;

use crate::decimal;
use crate::event::Scalar;

/// What a value says: one whose length [`value`] found. None for a number that only a general parser reads.
pub(crate) fn scalar(value: &[u8]) -> Option<Scalar<'_>> {
    Some(match value {
        [b'"', text @ .., b'"'] => Scalar::Text(Cow::Borrowed(text)),
        b"null" => Scalar::Null,
        b"true" | b"false" => Scalar::Other,
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
fn number(bytes: &[u8]) -> Option<usize> {
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

/// How many bytes there are before the first that `ends` marks; zeros behind the end are marked.
#[inline]
fn run(bytes: &[u8], ends: impl Fn(u64) -> u64) -> usize {
    let marks = ends(word(bytes));
    if marks == 0 { 8 + long_run(bytes.get(8..).unwrap_or_default(), ends) } else { at(marks) }
}

#[inline(never)]
fn long_run(bytes: &[u8], ends: impl Fn(u64) -> u64) -> usize {
    let mut rest = bytes;
    loop {
        let marks = ends(word(rest));
        if marks != 0 {
            return bytes.len() - rest.len() + at(marks);
        }
        rest = rest.get(8..).unwrap_or_default();
    }
}

/// The first eight bytes, the first of them lowest; zeros stand behind the end.
#[inline]
pub(crate) fn word(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or_else(|| last_word(bytes), |chunk| u64::from_le_bytes(*chunk))
}

/// The first sixteen bytes, as in [`word`].
#[inline]
pub(crate) fn two_words(bytes: &[u8]) -> u128 {
    bytes.first_chunk().map_or_else(|| last_words(bytes), |chunk| u128::from_le_bytes(*chunk))
}

#[cold]
fn last_words(bytes: &[u8]) -> u128 {
    u128::from(word(bytes)) | u128::from(word(bytes.get(8..).unwrap_or_default())) << 64
}

#[cold]
fn last_word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// Which byte the lowest mark marks; 8 without one.
#[inline]
pub(crate) fn at(marks: u64) -> usize {
    (marks.trailing_zeros() / 8) as usize
}

// Eight bytes are looked at together: the highest bit of a byte marks it. Only the lowest mark counts:
// what a byte carries or borrows may mark those above it.
const ONES: u64 = u64::MAX / 255;
const HIGHEST: u64 = ONES * 0x80;

/// Marks what ends a plain string: a quote, or what makes it an unusual one (an escape, a control
/// character, anything that is not ASCII).
#[inline]
fn ends_string(word: u64) -> u64 {
    let quote = (word ^ (ONES * u64::from(b'"'))).wrapping_sub(ONES);
    let escape = (word ^ (ONES * u64::from(b'\\'))).wrapping_sub(ONES);
    let control = word.wrapping_sub(ONES * 0x20);
    (quote | escape | control | word) & HIGHEST
}

/// Marks what is no digit.
#[inline]
pub(crate) fn ends_digits(word: u64) -> u64 {
    let digits = word ^ (ONES * u64::from(b'0'));
    (digits.wrapping_add(ONES * 0x76) | digits) & HIGHEST
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_end_of_a_string_is_found_at_any_place(before in "[ -!#-\\[\\]-~]{0,40}", end in "[\"\\\\\u{1}\u{1f}ü\u{80}]") {
            let text = format!("{before}{end}");
            prop_assert_eq!(run(text.as_bytes(), ends_string), before.len());
            prop_assert_eq!(run(before.as_bytes(), ends_string), before.len());
        }

        #[test]
        fn the_end_of_digits_is_found_at_any_place(before in "[0-9]{0,40}", end in any::<u8>()) {
            let mut text = before.clone().into_bytes();
            text.push(end);
            prop_assert_eq!(run(&text, ends_digits), before.len() + usize::from(end.is_ascii_digit()));
        }
    }
}
