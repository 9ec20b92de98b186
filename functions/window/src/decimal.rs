//! Short decimal numbers to doubles, eight digits at a time.
//!
//! Where the digits without their point are an integer that a double holds, and so is the power of ten, one
//! division rounds once: the result is the nearest double, as general readers have it (Clinger's fast path).

use crate::words::{at, ends_digits, word};

const POWERS_OF_TEN: [u64; 17] = {
    let mut powers = [1; 17];
    let mut exponent = 1;
    while exponent < powers.len() {
        powers[exponent] = powers[exponent - 1] * 10;
        exponent += 1;
    }
    powers
};

/// Integers up to here are doubles.
const INTEGER_MAX: u64 = 1 << f64::MANTISSA_DIGITS;

/// A number without exponent and with at most sixteen digits before its point, and as many behind it; none
/// where it is of another kind, or one division would not be enough.
pub(crate) fn read(number: &[u8]) -> Option<f64> {
    let (is_negative, unsigned) = match number.split_first()? {
        (b'-', unsigned) => (true, unsigned),
        _ => (false, number),
    };
    let (whole, _, rest) = digits(unsigned)?;
    let (fraction, count, rest) = match rest.split_first() {
        Some((b'.', rest)) => digits(rest)?,
        _ => (0, 0, rest),
    };
    let integer = whole.checked_mul(POWERS_OF_TEN[count])?.checked_add(fraction).filter(|it| *it <= INTEGER_MAX)?;
    #[expect(clippy::cast_precision_loss, reason = "neither is above what a double holds")]
    let value = integer as f64 / POWERS_OF_TEN[count] as f64;
    rest.is_empty().then_some(if is_negative { -value } else { value })
}

/// The value of at most sixteen digits, how many they are, and what is left behind them.
#[inline]
fn digits(bytes: &[u8]) -> Option<(u64, usize, &[u8])> {
    let (first, first_count) = eight_digits(bytes);
    let rest = bytes.get(first_count..)?;
    if first_count < 8 {
        return (first_count > 0).then_some((first, first_count, rest));
    }
    let (second, second_count) = eight_digits(rest);
    Some((first * POWERS_OF_TEN[second_count] + second, 8 + second_count, rest.get(second_count..)?))
}

/// The value of at most eight digits, and how many they are.
#[inline]
fn eight_digits(bytes: &[u8]) -> (u64, usize) {
    let word = word(bytes);
    let count = at(ends_digits(word));
    if count == 0 {
        return (0, 0);
    }
    // As if zeros stood before them; then neighbours are put together: digits, pairs, fours.
    let digits = (word & (u64::MAX / 255 * 0x0f)) << (64 - 8 * count);
    let pairs = (digits.wrapping_mul((10 << 8) + 1) >> 8) & (u64::MAX / 0xffff * 0xff);
    let fours = (pairs.wrapping_mul((100 << 16) + 1) >> 16) & (u64::MAX / 0xffff_ffff * 0xffff);
    (fours.wrapping_mul((10_000 << 32) + 1) >> 32, count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_the_nearest_double(text in "-?(0|[1-9][0-9]{0,17})(\\.[0-9]{1,17})?") {
            let expected: f64 = text.parse().unwrap();
            let digits = text.bytes().filter(u8::is_ascii_digit).count();
            let number = read(text.as_bytes());
            prop_assert!(number.is_some() || digits > 15, "{}", text);
            if let Some(number) = number {
                prop_assert_eq!(number.to_bits(), expected.to_bits(), "{}", text);
            }
        }
    }

    #[test]
    fn other_numbers_are_left_to_a_general_reader() {
        for other in ["", "-", "1e5", "1.5E-3", "12345678901234567", "9007199254740993", "0.12345678901234567", "1x"] {
            assert_eq!(read(other.as_bytes()), None, "{other}");
        }
        assert_eq!(read(b"9007199254740992"), Some(9_007_199_254_740_992.0));
        assert_eq!(read(b"-0.0").map(f64::to_bits), Some((-0.0_f64).to_bits()));
    }
}
