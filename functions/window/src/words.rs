//! Eight or sixteen bytes at a time, as integers: finds where digits or a plain string end.

/// How many bytes there are before the first that `ends` marks; zeros behind the end are marked.
#[inline]
pub(crate) fn run(bytes: &[u8], ends: impl Fn(u64) -> u64) -> usize {
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
pub(crate) fn ends_string(word: u64) -> u64 {
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
