//! Records that nobody has thought of. `PROPTEST_CASES=n` tries more; a case that once failed stays
//! in `proptest-regressions/`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use window::event::{CODE_BYTES_MAX, Event, Record, Schema, VALUE_MAX, VALUE_MIN};
use window::fields::{Field, FieldNames, Places};
use window::reject::Reject;
use window::time::{EventTime, MICROS_PER_SECOND, TimeFormat};

const NOW: EventTime = EventTime(1_700_000_000 * MICROS_PER_SECOND);
const MAX_FUTURE_SECONDS: i64 = 60;

fn schema() -> Schema {
    Schema {
        names: FieldNames { key: "code".into(), value: "volume".into(), time: "time".into() },
        places: Places::default(),
        numbers_in_text: false,
        time_format: TimeFormat::new("unix_seconds", "UTC").unwrap(),
        max_future_seconds: MAX_FUTURE_SECONDS,
    }
}

/// What PostgreSQL and the fold rely on, whatever the record was.
fn assert_sound(event: &Event<'_>) {
    assert!((1..=CODE_BYTES_MAX).contains(&event.code.len()) && !event.code.contains('\0'), "{event:?}");
    let size = event.value.abs();
    assert!(size == 0.0 || (VALUE_MIN..=VALUE_MAX).contains(&size), "{event:?}");
    assert!(event.time.0 <= NOW.0 + MAX_FUTURE_SECONDS * MICROS_PER_SECOND, "{event:?}");
}

/// The same judgement by the general parser: code and value, or the first reason.
fn expected(record: &Map<String, Value>) -> Result<(String, f64), Reject> {
    let code = match record.get("code") {
        None => return Err(Reject::Missing(Field::Key)),
        Some(Value::Null) => return Err(Reject::Null(Field::Key)),
        Some(Value::String(code)) if code.is_empty() => return Err(Reject::CodeEmpty),
        Some(Value::String(code)) if code.len() > CODE_BYTES_MAX => return Err(Reject::CodeTooLong),
        Some(Value::String(code)) if code.contains('\0') => return Err(Reject::CodeHasNul),
        Some(Value::String(code)) => code.clone(),
        Some(Value::Bool(code)) => code.to_string(),
        Some(Value::Number(code)) if !code.is_f64() => code.to_string(),
        Some(Value::Number(code)) => {
            let is_key = |code: &f64| *code == 0.0 || (1e-6..9_007_199_254_740_992.0).contains(&code.abs());
            let code = code.as_f64().filter(is_key);
            (code.ok_or(Reject::WrongType(Field::Key))? + 0.0).to_string()
        }
        Some(_) => return Err(Reject::WrongType(Field::Key)),
    };
    let value = match record.get("volume") {
        None => return Err(Reject::Missing(Field::Value)),
        Some(Value::Null) => return Err(Reject::Null(Field::Value)),
        Some(Value::Number(number)) => number.as_f64().unwrap(),
        Some(_) => return Err(Reject::WrongType(Field::Value)),
    };
    if value.abs() > VALUE_MAX {
        return Err(Reject::ValueTooLarge);
    }
    if value != 0.0 && value.abs() < VALUE_MIN {
        return Err(Reject::ValueTooSmall);
    }
    Ok((code, value))
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        "[a-z\u{0}é\"\\\\]{200,300}".prop_map(Value::from),
        Just(json!([1, {"code": "inner", "volume": 1, "time": 1}])),
    ]
}

fn record() -> impl Strategy<Value = Map<String, Value>> {
    let field = prop_oneof![
        3 => Just("code".to_owned()),
        3 => Just("volume".to_owned()),
        1 => Just("time".to_owned()),
        1 => "[a-z]{0,8}",
    ];
    prop::collection::vec((field, scalar()), 0..6).prop_map(|fields| fields.into_iter().collect())
}

proptest! {
    #[test]
    fn any_bytes_are_an_event_or_a_reason(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(event) = schema().reader().read(Record::from(&bytes[..]), NOW) {
            assert_sound(&event);
        }
    }

    #[test]
    fn the_parser_agrees_with_the_general_one(mut record in record(), time in any::<bool>()) {
        if time {
            record.insert("time".into(), 1_699_999_999.into());
        }
        let text = Value::Object(record.clone()).to_string();
        match (schema().reader().read(Record::from(text.as_bytes()), NOW), expected(&record)) {
            (Ok(event), Ok((code, value))) => {
                assert_sound(&event);
                prop_assert_eq!(event.code.as_ref(), code.as_str());
                // -0.0 and 0.0 are one value.
                prop_assert_eq!(event.value.to_bits(), (value + 0.0).to_bits());
            }
            (Err(found), Err(wanted)) => prop_assert_eq!(found, wanted),
            // The time is judged last.
            (Err(found), Ok(_)) => {
                prop_assert!(!time && (found.reason().starts_with("time") || found == Reject::Future), "{found:?}");
            }
            (Ok(event), Err(wanted)) => prop_assert!(false, "{event:?} should be {wanted:?}"),
        }
    }

    #[test]
    fn what_is_not_json_is_never_counted(usual in any::<bool>(), at in 0..80usize, byte in any::<u8>(), cut in 0..3usize) {
        // Nested and escaped, or of a shape that is read without a general parser.
        let good = if usual {
            br#"{"x":12.5,"y":null,"code":"BINANCE","volume":1.5e3,"time":1699999999,"z":"plain"}"#.as_slice()
        } else {
            br#"{"x":[1,{"y":null}],"code":"BINANCE","volume":1.5e3,"time":1699999999,"z":"\u00e9"}"#
        };
        let mut bytes = good.to_vec();
        bytes[at] = byte;
        bytes.truncate(good.len() - cut);
        let schema = schema();
        let mut reader = schema.reader();
        prop_assert!(reader.read(Record::from(good), NOW).is_ok());
        let event = reader.read(Record::from(&bytes[..]), NOW);
        // What came before changes nothing.
        prop_assert_eq!(&event, &schema.reader().read(Record::from(&bytes[..]), NOW));
        if let Ok(event) = event {
            assert_sound(&event);
            prop_assert!(serde_json::from_slice::<Value>(&bytes).is_ok());
        }
    }
}
