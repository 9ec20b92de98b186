//! Records, one after the other, are read as the general parser reads each of them alone: the same
//! event, or the same reason. The first byte chooses the schema, 0x1e stands between records.
#![allow(clippy::unwrap_used, reason = "the schemas are constants")]

use std::sync::LazyLock;

use jiff::tz::TimeZone;
use serde::de::IgnoredAny;
use serde_json::Value;
use window::event::{CODE_BYTES_MAX, Event, Record, Schema, VALUE_MAX, VALUE_MIN};
use window::fields::{FieldNames, Places};
use window::time::{EventTime, MICROS_PER_SECOND, TimeFormat};

const NOW: EventTime = EventTime(1_700_425_875 * MICROS_PER_SECOND);
const MAX_FUTURE_SECONDS: i64 = 60;
const SEPARATOR: u8 = 0x1e;
const REFERENCE: &str = "%Y-%m-%d %H:%M:%S";

/// The two of `spin.toml`, then other formats of time.
static SCHEMAS: LazyLock<[Schema; 6]> = LazyLock::new(|| {
    let schema = |key: &str, value: &str, time: &str, format, zone| Schema {
        names: FieldNames { key: key.to_owned(), value: value.to_owned(), time: time.to_owned() },
        places: Places::default(),
        numbers_in_text: false,
        time_format: TimeFormat::new(format, zone).unwrap(),
        max_future_seconds: MAX_FUTURE_SECONDS,
    };
    [
        schema("code", "volume", "time", REFERENCE, "UTC"),
        schema("city", "temperature", "time", REFERENCE, "UTC"),
        schema("code", "volume", "time", "unix_seconds", "UTC"),
        schema("code", "volume", "time", "unix_millis", "UTC"),
        schema("code", "volume", "time", "rfc3339", "UTC"),
        schema("code", "volume", "time", REFERENCE, "Europe/Berlin"),
    ]
});

pub fn check(bytes: &[u8]) {
    let (choice, records) = bytes.split_first().unwrap_or((&0, &[]));
    let schema = &SCHEMAS[usize::from(*choice) % SCHEMAS.len()];
    let mut reader = schema.reader();
    for record in records.split(|byte| *byte == SEPARATOR) {
        let event = reader.read(Record::from(record), NOW);
        let general = schema.read_generally(Some(record), NOW);
        let text = || String::from_utf8_lossy(record).into_owned();
        assert_eq!(event, general, "{}", text());
        // To the last bit: -0.0 equals 0.0.
        assert_eq!(bits(event.as_ref().ok()), bits(general.as_ref().ok()), "{}", text());
        if let Ok(event) = &event {
            assert_sound(event);
            assert!(serde_json::from_slice::<IgnoredAny>(record).is_ok(), "{}", text());
        }
        if let Ok(Value::Object(fields)) = serde_json::from_slice(record)
            && let Some(Value::String(time)) = fields.get(&schema.names.time)
        {
            check_time(time);
        }
    }
}

fn bits(event: Option<&Event<'_>>) -> Option<u64> {
    event.map(|event| event.value.to_bits())
}

/// What PostgreSQL and the fold rely on, whatever the record was.
fn assert_sound(event: &Event<'_>) {
    assert!((1..=CODE_BYTES_MAX).contains(&event.code.len()) && !event.code.contains('\0'), "{event:?}");
    let size = event.value.abs();
    assert!(size == 0.0 || (VALUE_MIN..=VALUE_MAX).contains(&size), "{event:?}");
    assert!(event.time.0 <= NOW.0 + MAX_FUTURE_SECONDS * MICROS_PER_SECOND, "{event:?}");
}

/// A time that the short way reads is the one that a general parser reads, in any zone.
fn check_time(text: &str) {
    for zone in ["UTC", "Europe/Berlin"] {
        let short = TimeFormat::new(REFERENCE, zone).unwrap().parse_text(text.as_bytes());
        if short != Err(window::time::TimeError::Unreadable) {
            let general = TimeFormat::Strftime(REFERENCE.to_owned(), TimeZone::get(zone).unwrap());
            assert_eq!(short, general.parse_text(text.as_bytes()), "{text} in {zone}");
        }
    }
}
