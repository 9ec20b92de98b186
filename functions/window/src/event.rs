//! A record's bytes to an [`Event`], or the reason why not.

use std::borrow::Cow;

use crate::fields::{BesideKey, Field, FieldNames, Fields, Places, Scalar};
use crate::json;
use crate::path;
use crate::reject::Reject;
use crate::scan::number;
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
    /// Of those, what does not stand at the top level under its name.
    pub places: Places,
    /// The setting `numbers_in_text`: whether a value, or a time that is a number, may stand in quotes.
    pub numbers_in_text: bool,
    /// From the settings `time_format` and `time_zone`; it decides whether the time is a string or a number.
    pub time_format: TimeFormat,
    /// How far an event may be ahead of the clock.
    pub max_future_seconds: i64,
}

/// A record as far as it is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Record<'a> {
    /// None is a tombstone.
    pub value: Option<&'a [u8]>,
    /// None is a null key.
    pub key: Option<&'a [u8]>,
    /// Unix milliseconds; none where the record has no timestamp.
    pub timestamp: Option<i64>,
    /// From 0 on.
    pub partition: i32,
}

impl<'a> From<&'a [u8]> for Record<'a> {
    /// A record without a key and a timestamp.
    fn from(value: &'a [u8]) -> Self {
        Self { value: Some(value), ..Self::default() }
    }
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
    #[inline]
    pub fn read<'a>(&mut self, record: Record<'a>, now: EventTime) -> Result<Event<'a>, Reject> {
        let mut fields = self.fields(record.value.ok_or(Reject::Tombstone)?)?;
        if self.schema.places.is_beside() {
            self.schema.places.take(&mut fields, record);
        }
        self.schema.event(fields, now)
    }

    fn fields<'a>(&mut self, bytes: &'a [u8]) -> Result<Fields<'a>, Reject> {
        if let Some(fields) = self.shape.as_ref().and_then(|shape| shape.fields(bytes)) {
            return Ok(fields);
        }
        if !self.schema.places.paths.is_empty() {
            return path::parse(&self.schema.places.paths, bytes);
        }
        if let Some((shape, fields)) = Shape::learn(&self.schema.names, bytes) {
            self.shape = Some(shape);
            return Ok(fields);
        }
        json::parse(&self.schema.names, bytes)
    }
}

impl Places {
    /// Takes what stands beside the value.
    fn take<'a>(&self, fields: &mut Fields<'a>, record: Record<'a>) {
        match self.key {
            None => {}
            Some(BesideKey::Key) => {
                fields.key = record.key.map_or(Scalar::Null, |key| Scalar::Text(Cow::Borrowed(key)));
            }
            Some(BesideKey::Partition) => fields.key = Scalar::Integer(record.partition.into()),
        }
        if self.time {
            fields.time = record.timestamp.map_or(Scalar::Missing, Scalar::Integer);
        }
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
            value: self.read_value(fields.value)?,
            time: self.read_time(&fields.time)?,
        };
        let latest = now.0.saturating_add(self.max_future_seconds.saturating_mul(MICROS_PER_SECOND));
        if event.time.0 > latest {
            return Err(Reject::Future);
        }
        Ok(event)
    }

    fn read_time(&self, scalar: &Scalar<'_>) -> Result<EventTime, Reject> {
        // Kafka's own are milliseconds.
        let format = if self.places.time { &TimeFormat::UnixMillis } else { &self.time_format };
        let time = match scalar {
            Scalar::Missing => return Err(Reject::Missing(Field::Time)),
            Scalar::Null => return Err(Reject::Null(Field::Time)),
            Scalar::Text(text) => match self.number_in(text).filter(|_| format.reads_numbers()) {
                Some(Scalar::Integer(number)) => format.parse_integer(number),
                Some(Scalar::Float(number)) => format.parse_float(number),
                _ if format.reads_texts() => format.parse_text(text),
                _ => return Err(Reject::WrongType(Field::Time)),
            },
            Scalar::Integer(number) if format.reads_numbers() => format.parse_integer(*number),
            Scalar::Float(number) if format.reads_numbers() => format.parse_float(*number),
            Scalar::Unsigned(_) if format.reads_numbers() => Err(TimeError::OutOfRange),
            _ => return Err(Reject::WrongType(Field::Time)),
        };
        time.map_err(|error| match error {
            TimeError::Unreadable => Reject::TimeUnreadable,
            TimeError::OutOfRange => Reject::TimeOutOfRange,
        })
    }
}

/// Above it a double does not tell one whole number from the next.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
/// Below it, but for 0, a number is no key: its text would have hundreds of digits.
const FRACTION_MIN: f64 = 1e-6;

fn read_code(scalar: Scalar<'_>) -> Result<Cow<'_, str>, Reject> {
    match scalar {
        Scalar::Missing => Err(Reject::Missing(Field::Key)),
        Scalar::Null => Err(Reject::Null(Field::Key)),
        Scalar::Text(code) if code.is_empty() => Err(Reject::CodeEmpty),
        Scalar::Text(code) if code.len() > CODE_BYTES_MAX => Err(Reject::CodeTooLong),
        Scalar::Text(code) if code.contains(&0) => Err(Reject::CodeHasNul),
        Scalar::Text(Cow::Borrowed(code)) => std::str::from_utf8(code).map(Cow::Borrowed).map_err(|_| Reject::NotUtf8),
        Scalar::Text(Cow::Owned(code)) => String::from_utf8(code).map(Cow::Owned).map_err(|_| Reject::NotUtf8),
        other => written(&other).map(Cow::Owned).ok_or(Reject::WrongType(Field::Key)),
    }
}

/// A key that is no text, in the one way that it is written here: 7, 7.0 and 7e0 are one key.
#[cold]
fn written(scalar: &Scalar<'_>) -> Option<String> {
    match scalar {
        Scalar::Integer(number) => Some(number.to_string()),
        Scalar::Unsigned(number) => Some(number.to_string()),
        // 0 has no sign.
        Scalar::Float(number) if *number == 0.0 => Some("0".to_owned()),
        Scalar::Float(number) if (FRACTION_MIN..WHOLE_MAX).contains(&number.abs()) => Some(number.to_string()),
        Scalar::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}

impl Schema {
    #[expect(
        clippy::cast_precision_loss,
        reason = "values are doubles; an integer above 2^53 is rounded as JSON readers do"
    )]
    fn read_value(&self, scalar: Scalar<'_>) -> Result<f64, Reject> {
        let value = match scalar {
            Scalar::Missing => return Err(Reject::Missing(Field::Value)),
            Scalar::Null => return Err(Reject::Null(Field::Value)),
            Scalar::Integer(number) => number as f64,
            Scalar::Unsigned(number) => number as f64,
            Scalar::Float(number) => number,
            Scalar::Text(text) => match self.number_in(&text) {
                Some(Scalar::Integer(number)) => number as f64,
                Some(Scalar::Float(number)) => number,
                _ => return Err(Reject::WrongType(Field::Value)),
            },
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

    /// The number that a text is, as JSON writes numbers; none where texts are no numbers.
    fn number_in(&self, text: &[u8]) -> Option<Scalar<'static>> {
        if !self.numbers_in_text || number(text) != Some(text.len()) {
            return None;
        }
        let whole = std::str::from_utf8(text).ok()?;
        // A number beyond a double is infinite, and refused as that.
        whole.parse().map(Scalar::Integer).or_else(|_| whole.parse().map(Scalar::Float)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::names;

    fn schema() -> Schema {
        Schema {
            names: names(),
            places: Places::default(),
            numbers_in_text: false,
            time_format: TimeFormat::new("%Y-%m-%d %H:%M:%S", "UTC").unwrap(),
            max_future_seconds: 60,
        }
    }

    const NOW: EventTime = EventTime(1_700_425_875_000_000);

    fn read(json: &str) -> Result<Event<'_>, Reject> {
        schema().reader().read(Record::from(json.as_bytes()), NOW)
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
            (r#"{"code":[7],"volume":1,"time":"2023-11-19 20:31:15"}"#, "key_wrong_type"),
            (r#"{"code":1e300,"volume":1,"time":"2023-11-19 20:31:15"}"#, "key_wrong_type"),
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
        assert_eq!(schema().reader().read(Record::default(), NOW), Err(Reject::Tombstone));
        assert_eq!(schema().reader().read(Record::from(&b"\xff"[..]), NOW), Err(Reject::NotUtf8));
    }

    #[test]
    fn an_event_may_be_ahead_of_the_clock_by_the_limit_but_not_more() {
        assert!(read(r#"{"code":"a","volume":1,"time":"2023-11-19 20:32:15"}"#).is_ok());
    }

    #[test]
    fn numeric_formats_want_numbers() {
        let schema = Schema { time_format: TimeFormat::UnixMillis, ..schema() };
        let read =
            |json: &'static str| schema.reader().read(Record::from(json.as_bytes()), NOW).map(|event| event.time);
        assert_eq!(read(r#"{"code":"a","volume":1,"time":1700425875000}"#), Ok(NOW));
        assert_eq!(read(r#"{"code":"a","volume":1,"time":"1700425875000"}"#), Err(Reject::WrongType(Field::Time)));
        assert_eq!(read(r#"{"code":"a","volume":1,"time":1e300}"#), Err(Reject::TimeOutOfRange));
    }

    #[test]
    fn a_key_that_is_a_number_or_a_boolean_is_one_text() {
        let code = |key: &str| {
            let json = format!(r#"{{"code":{key},"volume":1,"time":"2023-11-19 20:31:15"}}"#);
            read(&json).map(|event| event.code.into_owned())
        };
        for (key, text) in [
            ("7", "7"),
            ("7.0", "7"),
            ("7e0", "7"),
            ("-0", "0"),
            ("-1.5", "-1.5"),
            ("18446744073709551615", "18446744073709551615"),
            ("9223372036854775807", "9223372036854775807"),
            ("true", "true"),
        ] {
            assert_eq!(code(key).as_deref(), Ok(text), "{key}");
        }
        // Two of them would be one.
        assert_eq!(code("18446744073709551616"), Err(Reject::WrongType(Field::Key)));
    }

    #[test]
    fn numbers_in_quotes_are_numbers_where_that_is_asked_for() {
        let schema = Schema { numbers_in_text: true, time_format: TimeFormat::Unix, ..schema() };
        let read = |value: &str, time: &str| {
            let json = format!(r#"{{"code":"a","volume":{value},"time":{time}}}"#);
            schema.reader().read(Record::from(json.as_bytes()), NOW).map(|event| (event.value, event.time))
        };
        let time = r#""1700425875000""#;
        assert_eq!(read(r#""0.00123400""#, time), Ok((0.001_234, NOW)));
        assert_eq!(read("-2", "1700425875"), Ok((-2.0, NOW)));
        for text in ["", " 1", "1 ", "0x1", "1_000", "NaN", "inf", "+1", ".5", "01", "1,5"] {
            assert_eq!(read(&format!("{text:?}"), time), Err(Reject::WrongType(Field::Value)), "{text:?}");
        }
        assert_eq!(read(r#""1e999""#, time), Err(Reject::ValueNotFinite));
        assert_eq!(read("1", r#""soon""#), Err(Reject::WrongType(Field::Time)));
    }

    #[test]
    fn key_and_time_may_be_kafkas_own() {
        let (names, places) = Places::parse("kafka:key", "/v/0", "kafka:timestamp").unwrap();
        let schema = Schema { names, places, ..schema() };
        let record =
            Record { value: Some(br#"{"v":[3]}"#), key: Some(b"K"), timestamp: Some(1_700_425_875_000), partition: 4 };
        let read = |record| schema.reader().read(record, NOW);
        assert_eq!(read(record), Ok(Event { code: "K".into(), value: 3.0, time: NOW }));
        assert_eq!(read(Record { key: None, ..record }), Err(Reject::Null(Field::Key)));
        assert_eq!(read(Record { key: Some(b"\xff"), ..record }), Err(Reject::NotUtf8));
        assert_eq!(read(Record { timestamp: None, ..record }), Err(Reject::Missing(Field::Time)));
        assert_eq!(read(Record { value: None, ..record }), Err(Reject::Tombstone));
        let (names, places) = Places::parse("kafka:partition", "volume", "kafka:timestamp").unwrap();
        let schema = Schema { names, places, ..schema };
        let flat = Record { value: Some(br#"{"volume":3}"#), ..record };
        let mut reader = schema.reader();
        for _ in 0..2 {
            assert_eq!(reader.read(flat, NOW).map(|event| event.code), Ok("4".into()));
        }
    }
}
