//! A record's bytes to an [`Event`], or the reason why not.

use std::borrow::Cow;

use crate::fields::{Field, FieldNames, Fields, Scalar};
use crate::json;
use crate::reject::Reject;
use crate::shape::Shape;
use crate::time::{EventTime, MICROS_PER_SECOND, TimeError, TimeFormat};

/// Longest code in bytes: PostgreSQL's B-tree entries end at 2,704, and a key is not a text.
pub const CODE_BYTES_MAX: usize = 256;
/// Largest absolute value: sums of any number of records stay finite below it.
pub const VALUE_MAX: f64 = 1e200;

/// Smallest absolute value beside 0: PostgreSQL fails a division whose result is too small for a
/// double, and sums of values above this never come near that.
pub const VALUE_MIN: f64 = 1e-200;

/// What is counted of a record.
#[derive(Clone, Debug, PartialEq)]
pub struct Event<'a> {
    /// The key field's text: 1 to [`CODE_BYTES_MAX`] bytes, without NUL.
    pub code: Cow<'a, str>,
    /// Either 0, never -0, or of an absolute value from [`VALUE_MIN`] to [`VALUE_MAX`].
    pub value: f64,
    /// At most [`Schema::max_future_seconds`] ahead of the clock at which the record was read.
    pub time: EventTime,
}

/// Which fields of a record are read, and how.
#[derive(Clone, Debug)]
pub struct Schema {
    /// The settings `key_field`, `value_field` and `time_field`; a record's other fields are ignored.
    pub names: FieldNames,
    /// From the settings `time_format` and `time_zone`; it decides whether the time is a string or a number.
    pub time_format: TimeFormat,
    /// How far an event may be ahead of the clock.
    pub max_future_seconds: i64,
}

/// Reads records, one after the other: those that are written like the one before are read faster.
#[derive(Debug)]
pub struct Reader<'s> {
    schema: &'s Schema,
    /// Of the last usual record.
    shape: Option<Shape>,
}

impl Reader<'_> {
    /// Reads the event of one record; `now` is the clock that "future" is measured by.
    ///
    /// # Errors
    /// With the first reason found: of the record as a whole, then of key, value and time.
    pub fn read<'a>(&mut self, value: Option<&'a [u8]>, now: EventTime) -> Result<Event<'a>, Reject> {
        let fields = self.fields(value.ok_or(Reject::Tombstone)?)?;
        self.schema.event(fields, now)
    }

    fn fields<'a>(&mut self, bytes: &'a [u8]) -> Result<Fields<'a>, Reject> {
        if let Some(fields) = self.shape.as_ref().and_then(|shape| shape.fields(bytes)) {
            return Ok(fields);
        }
        if let Some((shape, fields)) = Shape::learn(&self.schema.names, bytes) {
            self.shape = Some(shape);
            return Ok(fields);
        }
        json::parse(&self.schema.names, bytes)
    }
}

impl Schema {
    /// A reader of records by this schema.
    pub fn reader(&self) -> Reader<'_> {
        Reader { schema: self, shape: None }
    }

    /// Reads one record by the general parser alone: what a [`Reader`] says has to be the same.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub fn read_generally<'a>(&self, value: Option<&'a [u8]>, now: EventTime) -> Result<Event<'a>, Reject> {
        self.event(json::parse(&self.names, value.ok_or(Reject::Tombstone)?)?, now)
    }

    #[inline]
    fn event<'a>(&self, fields: Fields<'a>, now: EventTime) -> Result<Event<'a>, Reject> {
        let event = Event {
            code: read_code(fields.key)?,
            value: read_value(fields.value)?,
            time: self.read_time(&fields.time)?,
        };
        let latest = now.0.saturating_add(self.max_future_seconds.saturating_mul(MICROS_PER_SECOND));
        if event.time.0 > latest {
            return Err(Reject::Future);
        }
        Ok(event)
    }

    fn read_time(&self, scalar: &Scalar<'_>) -> Result<EventTime, Reject> {
        let time = match scalar {
            Scalar::Missing => return Err(Reject::Missing(Field::Time)),
            Scalar::Null => return Err(Reject::Null(Field::Time)),
            Scalar::Text(text) if !self.time_format.is_numeric() => self.time_format.parse_text(text),
            Scalar::Integer(number) if self.time_format.is_numeric() => self.time_format.parse_integer(*number),
            Scalar::Float(number) if self.time_format.is_numeric() => self.time_format.parse_float(*number),
            _ => return Err(Reject::WrongType(Field::Time)),
        };
        time.map_err(|error| match error {
            TimeError::Unreadable => Reject::TimeUnreadable,
            TimeError::OutOfRange => Reject::TimeOutOfRange,
        })
    }
}

fn read_code(scalar: Scalar<'_>) -> Result<Cow<'_, str>, Reject> {
    match scalar {
        Scalar::Missing => Err(Reject::Missing(Field::Key)),
        Scalar::Null => Err(Reject::Null(Field::Key)),
        Scalar::Text(code) if code.is_empty() => Err(Reject::CodeEmpty),
        Scalar::Text(code) if code.len() > CODE_BYTES_MAX => Err(Reject::CodeTooLong),
        Scalar::Text(code) if code.contains(&0) => Err(Reject::CodeHasNul),
        Scalar::Text(Cow::Borrowed(code)) => std::str::from_utf8(code).map(Cow::Borrowed).map_err(|_| Reject::NotUtf8),
        Scalar::Text(Cow::Owned(code)) => String::from_utf8(code).map(Cow::Owned).map_err(|_| Reject::NotUtf8),
        _ => Err(Reject::WrongType(Field::Key)),
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "values are doubles; an integer above 2^53 is rounded as JSON readers do"
)]
fn read_value(scalar: Scalar<'_>) -> Result<f64, Reject> {
    let value = match scalar {
        Scalar::Missing => return Err(Reject::Missing(Field::Value)),
        Scalar::Null => return Err(Reject::Null(Field::Value)),
        Scalar::Integer(number) => number as f64,
        Scalar::Float(number) => number,
        _ => return Err(Reject::WrongType(Field::Value)),
    };
    match value {
        value if !value.is_finite() => Err(Reject::ValueNotFinite),
        value if value.abs() > VALUE_MAX => Err(Reject::ValueTooLarge),
        value if value != 0.0 && value.abs() < VALUE_MIN => Err(Reject::ValueTooSmall),
        // -0.0 and 0.0 are one value; keep one of them so that minima are the same everywhere.
        value => Ok(value + 0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::names;

    fn schema() -> Schema {
        Schema {
            names: names(),
            time_format: TimeFormat::new("%Y-%m-%d %H:%M:%S", "UTC").unwrap(),
            max_future_seconds: 60,
        }
    }

    const NOW: EventTime = EventTime(1_700_425_875_000_000);

    fn read(json: &str) -> Result<Event<'_>, Reject> {
        schema().reader().read(Some(json.as_bytes()), NOW)
    }

    #[test]
    fn unknown_fields_do_not_matter() {
        let event = read(
            r#"{"name":"Binance","png64":{"a":[1,{"code":"no"}]},"code":"BINANCE","markets":1,"volume":17189543.25,
                "time":"2023-11-19 20:31:15","tags":["volume"]}"#,
        );
        assert_eq!(event, Ok(Event { code: "BINANCE".into(), value: 17_189_543.25, time: NOW }));
    }

    #[test]
    fn numbers_are_read_to_the_last_bit() {
        let value = |number: &str| {
            read(&format!(r#"{{"code":"a","volume":{number},"time":"2023-11-19 20:31:15"}}"#)).map(|event| event.value)
        };
        for number in ["0.1", "1e-7", "123456789012.345678", "17976931348623157e-150", "9007199254740993", "-5"] {
            assert_eq!(value(number), Ok(number.parse().unwrap()), "{number}");
        }
        assert_eq!(value("18446744073709551615"), Ok(18_446_744_073_709_551_615.0));
        assert_eq!(value("-0.0").map(f64::to_bits), Ok(0.0f64.to_bits()));
        assert_eq!(value("1e308"), Err(Reject::ValueTooLarge));
        assert_eq!(value("1e309"), Err(Reject::ValueNotFinite));
        assert_eq!(value("5e-324"), Err(Reject::ValueTooSmall));
        assert_eq!(value("-1e-200"), Ok(-1e-200));
        assert_eq!(value("NaN"), Err(Reject::NotJson));
        assert_eq!(value("Infinity"), Err(Reject::NotJson));
    }

    #[test]
    fn escaped_codes_are_unescaped() {
        let event = read(r#"{"code":"a\"\u00e9","volume":1,"time":"2023-11-19 20:31:15"}"#).unwrap();
        assert_eq!(event.code, "a\"é");
    }

    #[test]
    fn each_fault_has_its_reason() {
        let long = "x".repeat(CODE_BYTES_MAX + 1);
        let long = format!(r#"{{"code":"{long}","volume":1,"time":"2023-11-19 20:31:15"}}"#);
        let cases: Vec<(&str, &str)> = vec![
            ("", "not_json"),
            ("{", "not_json"),
            ("<html>", "not_json"),
            (r#"{"code":"a","volume":1,"time":"2023-11-19 20:31:15"} x"#, "not_json"),
            ("[1]", "not_an_object"),
            ("null", "not_an_object"),
            ("3", "not_an_object"),
            (r#""text""#, "not_an_object"),
            (r#"{"volume":1,"time":"2023-11-19 20:31:15"}"#, "key_missing"),
            (r#"{"code":null,"volume":1,"time":"2023-11-19 20:31:15"}"#, "key_null"),
            (r#"{"code":7,"volume":1,"time":"2023-11-19 20:31:15"}"#, "key_wrong_type"),
            (r#"{"code":"","volume":1,"time":"2023-11-19 20:31:15"}"#, "key_empty"),
            (r#"{"code":"a\u0000","volume":1,"time":"2023-11-19 20:31:15"}"#, "key_has_nul"),
            (&long, "key_too_long"),
            (r#"{"code":"a","time":"2023-11-19 20:31:15"}"#, "value_missing"),
            (r#"{"code":"a","volume":null,"time":"2023-11-19 20:31:15"}"#, "value_null"),
            (r#"{"code":"a","volume":"1","time":"2023-11-19 20:31:15"}"#, "value_wrong_type"),
            (r#"{"code":"a","volume":[1],"time":"2023-11-19 20:31:15"}"#, "value_wrong_type"),
            (r#"{"code":"a","volume":1}"#, "time_missing"),
            (r#"{"code":"a","volume":1,"time":null}"#, "time_null"),
            (r#"{"code":"a","volume":1,"time":{"s":1}}"#, "time_wrong_type"),
            (r#"{"code":"a","volume":1,"time":"yesterday"}"#, "time_unreadable"),
            (r#"{"code":"a","volume":1,"time":"2023-11-19 20:32:16"}"#, "future"),
        ];
        for (json, reason) in cases {
            assert_eq!(read(json).unwrap_err().reason(), reason, "{json}");
        }
        assert_eq!(schema().reader().read(None, NOW), Err(Reject::Tombstone));
        assert_eq!(schema().reader().read(Some(b"\xff"), NOW), Err(Reject::NotUtf8));
    }

    #[test]
    fn an_event_may_be_ahead_of_the_clock_by_the_limit_but_not_more() {
        assert!(read(r#"{"code":"a","volume":1,"time":"2023-11-19 20:32:15"}"#).is_ok());
    }

    #[test]
    fn numeric_formats_want_numbers() {
        let schema = Schema { time_format: TimeFormat::UnixMillis, ..schema() };
        let read = |json: &'static str| schema.reader().read(Some(json.as_bytes()), NOW).map(|event| event.time);
        assert_eq!(read(r#"{"code":"a","volume":1,"time":1700425875000}"#), Ok(NOW));
        assert_eq!(read(r#"{"code":"a","volume":1,"time":"1700425875000"}"#), Err(Reject::WrongType(Field::Time)));
        assert_eq!(read(r#"{"code":"a","volume":1,"time":1e300}"#), Err(Reject::TimeOutOfRange));
    }
}
