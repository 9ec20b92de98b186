//! The usual record, a flat JSON object in ASCII without escapes, read in one pass.
//!
//! It is the hot path: most of the time of a record went into a general parser. What is not
//! usual (nested, escaped, not ASCII, not JSON) is left to that parser, which alone says what is wrong
//! with a record; so nothing is read here that the other would read otherwise.

use crate::event::{Fields, Scalar, Schema};

/// The schema's fields; none where the record is not a usual one.
pub(crate) fn fields<'a>(schema: &Schema, bytes: &'a [u8]) -> Option<Fields<'a>> {
    let mut fields = Fields::default();
    let mut rest = Rest { bytes, at: 0 };
    rest.skip_space();
    rest.expect(b'{')?;
    rest.skip_space();
    if rest.peek() != Some(b'}') {
        loop {
            let name = rest.string()?;
            rest.skip_space();
            rest.expect(b':')?;
            rest.skip_space();
            let value = rest.value()?;
            if name == schema.key_field.as_bytes() {
                fields.key = value.scalar()?;
            } else if name == schema.value_field.as_bytes() {
                fields.value = value.scalar()?;
            } else if name == schema.time_field.as_bytes() {
                fields.time = value.scalar()?;
            }
            rest.skip_space();
            if rest.peek() != Some(b',') {
                break;
            }
            rest.at += 1;
            rest.skip_space();
        }
    }
    rest.expect(b'}')?;
    rest.skip_space();
    (rest.at == bytes.len()).then_some(fields)
}

/// A value whose extent is known, not yet what it says: most are not asked for. Texts and numbers are
/// ASCII.
enum Value<'a> {
    Text(&'a [u8]),
    Number { text: &'a [u8], is_integer: bool },
    Null,
    Other,
}

impl<'a> Value<'a> {
    fn scalar(self) -> Option<Scalar<'a>> {
        Some(match self {
            Self::Text(text) => Scalar::Text(std::str::from_utf8(text).ok()?.into()),
            // Beyond an i64, and the integer -0, which JSON readers take for a double.
            Self::Number { text, is_integer: true } => Scalar::Integer(read(text).filter(|_| text != b"-0")?),
            Self::Number { text, .. } => Scalar::Float(read(text).filter(|number: &f64| number.is_finite())?),
            Self::Null => Scalar::Null,
            Self::Other => Scalar::Other,
        })
    }
}

fn read<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

struct Rest<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Rest<'a> {
    #[inline]
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    #[inline]
    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    #[inline]
    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        self.expect(b'"')?;
        let from = self.at;
        let end = from + special(&self.bytes[from..])?;
        if self.bytes[end] != b'"' {
            return None;
        }
        self.at = end + 1;
        Some(&self.bytes[from..end])
    }

    fn value(&mut self) -> Option<Value<'a>> {
        match self.peek()? {
            b'"' => self.string().map(Value::Text),
            b'-' | b'0'..=b'9' => self.number(),
            b'n' => self.word("null", Value::Null),
            b't' => self.word("true", Value::Other),
            b'f' => self.word("false", Value::Other),
            _ => None,
        }
    }

    fn word(&mut self, word: &str, value: Value<'a>) -> Option<Value<'a>> {
        self.bytes[self.at..].starts_with(word.as_bytes()).then(|| {
            self.at += word.len();
            value
        })
    }

    fn digits(&mut self) -> usize {
        let from = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        self.at - from
    }

    fn number(&mut self) -> Option<Value<'a>> {
        let from = self.at;
        let mut is_integer = true;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let leading_zero = self.peek() == Some(b'0');
        let digits = self.digits();
        if digits == 0 || (leading_zero && digits > 1) {
            return None;
        }
        if self.peek() == Some(b'.') {
            is_integer = false;
            self.at += 1;
            if self.digits() == 0 {
                return None;
            }
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            is_integer = false;
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if self.digits() == 0 {
                return None;
            }
        }
        Some(Value::Number { text: &self.bytes[from..self.at], is_integer })
    }
}

/// Where the first byte stands that ends a plain string: a quote, or what makes it an unusual one (an
/// escape, a control character, anything that is not ASCII).
#[inline]
fn special(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES * 0x80;
    // The lowest marked byte is right; one above it may be marked by a borrow.
    let is_zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGH;
    let (chunks, tail) = bytes.as_chunks::<8>();
    for (index, chunk) in chunks.iter().enumerate() {
        let word = u64::from_le_bytes(*chunk);
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
        let marked = is_zero(word ^ (ONES * u64::from(b'"')))
            | is_zero(word ^ (ONES * u64::from(b'\\')))
            | control
            | (word & HIGH);
        if marked != 0 {
            return Some(index * 8 + (marked.trailing_zeros() / 8) as usize);
        }
    }
    let in_tail = tail.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20 | 0x80..))?;
    Some(bytes.len() - tail.len() + in_tail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::tests::schema;
    use proptest::prelude::*;

    /// What the general parser says must be what is read here, or nothing is read here.
    fn agrees(text: &str) -> Result<bool, TestCaseError> {
        let Some(fields) = fields(&schema(), text.as_bytes()) else { return Ok(false) };
        let general = schema().parsed(text);
        prop_assert_eq!(Ok(format!("{fields:?}")), general.map(|fields| format!("{fields:?}")), "{}", text);
        Ok(true)
    }

    #[test]
    fn usual_records_are_read_here() {
        for usual in [
            r#"{"code":"a","volume":1.5e3,"time":"2023-11-14 22:13:10","other":-0.25,"more":[]}"#.replace("[]", "true"),
            r#" { "volume" : -7 , "volume" : 9007199254740993, "code" : "12345678901234567" } "#.to_owned(),
            "{}".to_owned(),
            r#"{"code":null,"volume":0,"time":false}"#.to_owned(),
        ] {
            assert!(agrees(&usual).unwrap(), "{usual}");
        }
    }

    #[test]
    fn unusual_ones_are_left_to_the_general_parser() {
        for unusual in [
            "",
            "{",
            "[]",
            "1",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{\"a\":01}",
            "{\"a\":1.}",
            "{\"a\":.5}",
            "{\"a\":1e}",
            "{\"a\":-}",
            "{\"a\":+1}",
            "{\"a\":nul}",
            "{\"a\":1}x",
            "{\"a\":\"\u{1}\"}",
            "{\"a\":\"\\n\"}",
            "{\"a\":\"ü\"}",
            "{\"a\":[1]}",
            "{\"a\":{}}",
            "{\"volume\":1e999}",
            "{\"volume\":18446744073709551615}",
            "{\"volume\":-0}",
        ] {
            assert!(!agrees(unusual).unwrap(), "{unusual}");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_read_otherwise(pieces in prop::collection::vec(prop::sample::select(vec![
            "{", "}", "[", "]", ",", ":", " ", "\t", "\"", "\\", "\"code\"", "\"volume\"", "\"time\"", "\"x\"", "null", "true",
            "1", "-0", "0", "12.5", "1e5", "E+3", "-7.25e-3", "ü", "\u{1}", "a", ".", "-", "\"some longer text\"",
            "9223372036854775808", "1e400", "\"2023-11-14 22:13:10\"",
        ]), 0..24)) {
            agrees(&pieces.concat())?;
        }

        #[test]
        fn numbers_are_the_same_to_the_last_bit(number in any::<f64>(), integer in any::<i64>()) {
            prop_assert_eq!(agrees(&format!("{{\"volume\":{number:e},\"code\":\"c\"}}"))?, number.is_finite());
            agrees(&format!("{{\"volume\":{number},\"time\":{integer}}}"))?;
        }

        #[test]
        fn the_end_of_a_string_is_found_at_any_place(before in "[ -!#-\\[\\]-~]{0,40}", end in "[\"\\\\\u{1}\u{1f}ü\u{7f}\u{80}]") {
            let text = format!("{before}{end}");
            let wanted = text.bytes().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20 | 0x80..));
            prop_assert_eq!(special(text.as_bytes()), wanted);
        }
    }
}
