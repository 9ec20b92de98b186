//! Records of one shape: the same fields in the same order, written the same way, as one program writes
//! them.
//!
//! What stands between the values of such records is the same in each, so it is compared, sixteen bytes at
//! a time, and not read: that is most of a record's bytes.

use crate::fields::{Field, FieldNames, Fields};
use crate::scan::{byte, scalar, short_number, space, text, value};
use crate::words::two_words;

/// Bytes that are compared at a time.
const WIDTH: usize = 16;
/// A shape is some 50 bytes a step, and a call's memory has an end: records with more steps are left to
/// the general parser.
const STEPS_MAX: usize = 1_024;

/// The shape of one usual record (see `scan`): what to do with another, step by step.
#[derive(Debug, Default)]
pub(crate) struct Shape(Vec<Step>);

/// At most sixteen bytes that stand in each record, and what comes behind them.
#[derive(Debug)]
struct Step {
    bits: u128,
    /// Which bits of sixteen bytes are compared.
    mask: u128,
    bytes: usize,
    then: Then,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// More of what is compared, or the end.
    Next,
    /// A value that is not asked for.
    Pass,
    Take(Field),
}

impl Shape {
    /// The fields of a record of this shape; none where it is of another.
    // By itself, like what it calls: the larger a function, the more of it is kept in memory and not in
    // registers when compiled code can be interrupted at each turn of a loop.
    #[inline(never)]
    pub(crate) fn fields<'a>(&self, record: &'a [u8]) -> Option<Fields<'a>> {
        let mut fields = Fields::default();
        let mut rest = record;
        for step in &self.0 {
            // Zeros stand behind the end, and in no step.
            if two_words(rest) & step.mask != step.bits {
                return None;
            }
            rest = rest.get(step.bytes..)?;
            if step.then == Then::Next {
                continue;
            }
            let length = short_number(rest).or_else(|| value(rest))?;
            if let Then::Take(field) = step.then {
                *fields.of(field) = scalar(rest.get(..length)?)?;
            }
            rest = rest.get(length..)?;
        }
        rest.is_empty().then_some(fields)
    }

    /// Reads a usual record of any shape: its fields, and the shape by which others like it are read.
    #[inline(never)]
    pub(crate) fn learn<'a>(names: &FieldNames, record: &'a [u8]) -> Option<(Self, Fields<'a>)> {
        let (mut shape, mut fields) = (Self::default(), Fields::default());
        // Where what stands before the next value begins.
        let mut before = record;
        let mut rest = space(byte(space(record), b'{')?);
        while rest.first() != Some(&b'}') || !shape.0.is_empty() {
            let (name, behind) = rest.split_at_checked(text(rest)?)?;
            rest = space(byte(space(behind), b':')?);
            let (value, behind) = rest.split_at_checked(value(rest)?)?;
            let then = match names.field(&name[1..name.len() - 1]) {
                None => Then::Pass,
                // Named twice: the last one counts, and a wrong one before it still is wrong.
                Some(field) if shape.0.iter().any(|step| step.then == Then::Take(field)) => return None,
                Some(field) => {
                    *fields.of(field) = scalar(value)?;
                    Then::Take(field)
                }
            };
            shape.push(&before[..before.len() - rest.len()], then);
            if shape.0.len() > STEPS_MAX {
                return None;
            }
            before = behind;
            rest = space(behind);
            match byte(rest, b',') {
                Some(behind) => rest = space(behind),
                None => break,
            }
        }
        space(byte(rest, b'}')?).is_empty().then(|| {
            shape.push(before, Then::Next);
            (shape, fields)
        })
    }

    fn push(&mut self, bytes: &[u8], then: Then) {
        self.0.extend(bytes.chunks(WIDTH).map(|chunk| Step {
            bits: two_words(chunk),
            mask: u128::MAX >> (8 * (WIDTH - chunk.len())),
            bytes: chunk.len(),
            then: Then::Next,
        }));
        if let Some(last) = self.0.last_mut() {
            last.then = then;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::names;
    use crate::json;
    use proptest::prelude::*;

    /// What the general parser says must be what is read here, or nothing is read here.
    fn agrees(text: &str) -> Result<bool, TestCaseError> {
        let Some((shape, fields)) = Shape::learn(&names(), text.as_bytes()) else { return Ok(false) };
        let general = json::parse(&names(), text.as_bytes()).map(|fields| format!("{fields:?}"));
        prop_assert_eq!(Ok(format!("{fields:?}")), general, "{}", text);
        let again = shape.fields(text.as_bytes());
        prop_assert_eq!(Some(format!("{fields:?}")), again.map(|fields| format!("{fields:?}")), "{}", text);
        Ok(true)
    }

    #[test]
    fn usual_records_are_read_here() {
        for usual in [
            r#"{"code":"a","volume":1.5e3,"time":"2023-11-14 22:13:10","other":-0.25,"more":[]}"#.replace("[]", "true"),
            r#" { "volume" : -7 , "other" : 9007199254740993, "code" : "12345678901234567" } "#.to_owned(),
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
            "{\"volume\":1,\"volume\":2}",
        ] {
            assert!(!agrees(unusual).unwrap(), "{unusual}");
        }
        let many = format!("{{{}\"code\":1}}", "\"\":1,".repeat(2_000));
        assert!(!agrees(&many).unwrap());
    }

    #[test]
    fn another_shape_is_not_read_as_the_one_that_is_known() {
        let known = r#"{"code":"a","volume":1,"time":"x"}"#;
        let (shape, _) = Shape::learn(&names(), known.as_bytes()).unwrap();
        for other in [
            r#"{"code":"a","volume":1,"time":"x"} "#,
            r#"{"code":"a","volume":1,"time":"x"}}"#,
            r#"{"code":"a","volume":1,"time":"x""#,
            r#"{"code":"a","volume":1,"tim2":"x"}"#,
            r#"{"code":"a","volume": 1,"time":"x"}"#,
            r#"{"code":"a","volume":1"#,
            r#"{"code":"a","volume":1x,"time":"x"}"#,
            "",
        ] {
            assert!(shape.fields(other.as_bytes()).is_none(), "{other}");
        }
        let like_it = r#"{"code":"another, longer","volume":-1.5e3,"time":null}"#;
        let fields = shape.fields(like_it.as_bytes()).map(|fields| format!("{fields:?}"));
        assert_eq!(fields, json::parse(&names(), like_it.as_bytes()).ok().map(|fields| format!("{fields:?}")));
    }

    #[test]
    fn numbers_of_hundreds_of_digits_are_the_general_parsers() {
        for number in [
            format!("0.{}1e655999", "0".repeat(65_599)),
            format!("1{}e-655999", "0".repeat(65_600)),
            format!("9007199254740993{}e-800", "0".repeat(800)),
        ] {
            let text = format!("{{\"volume\":{number}}}");
            agrees(&text).unwrap();
        }
    }

    /// Parts of which records are made that are sometimes usual.
    fn part() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            " ",
            "\t",
            "\"",
            "\\",
            "\"code\"",
            "\"volume\"",
            "\"time\"",
            "\"x\"",
            "null",
            "true",
            "1",
            "-0",
            "0",
            "12.5",
            "1e5",
            "E+3",
            "-7.25e-3",
            "ü",
            "\u{1}",
            "a",
            ".",
            "-",
            "\"some longer text\"",
            "9223372036854775808",
            "1e400",
            "\"2023-11-14 22:13:10\"",
        ])
    }

    fn space() -> impl Strategy<Value = String> {
        "[ \t\r\n]{0,2}"
    }

    /// Usual records, most of them alike.
    fn usual() -> impl Strategy<Value = String> {
        let name = prop::sample::select(vec!["code", "volume", "time", "x", "a longer name"]);
        let value = prop::sample::select(vec![
            "null",
            "true",
            "1",
            "-0",
            "12.5",
            "-7e3",
            "\"\"",
            "\"a\"",
            "\"longer, longer\"",
            "1e400",
        ]);
        prop::collection::vec((name, value), 0..5).prop_map(|members| {
            let members: Vec<_> = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
            format!("{{{}}}", members.join(","))
        })
    }

    proptest! {
        #[test]
        fn nothing_is_read_otherwise(pieces in prop::collection::vec(part(), 0..24)) {
            agrees(&pieces.concat())?;
        }

        #[test]
        fn a_known_shape_changes_nothing(known in usual(), like in usual(), spaces in space(), at in 0..40usize, part in part()) {
            let Some((shape, _)) = Shape::learn(&names(), known.as_bytes()) else { return Ok(()) };
            // Broken at some place, most of them; the known one too.
            for mut text in [known.clone(), like] {
                if text.is_char_boundary(at) {
                    text.insert_str(at, &spaces);
                    text.insert_str(at, part);
                }
                if let Some(fields) = shape.fields(text.as_bytes()) {
                    let general = json::parse(&names(), text.as_bytes()).map(|fields| format!("{fields:?}"));
                    prop_assert_eq!(Ok(format!("{fields:?}")), general, "{} as {}", text, known);
                }
            }
        }

        #[test]
        fn numbers_are_the_same_to_the_last_bit(number in any::<f64>(), integer in any::<i64>()) {
            prop_assert_eq!(agrees(&format!("{{\"volume\":{number:e},\"code\":\"c\"}}"))?, number.is_finite());
            agrees(&format!("{{\"volume\":{number},\"time\":{integer}}}"))?;
        }
    }
}
