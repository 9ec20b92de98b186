//! Bad records.

use std::collections::BTreeMap;

use super::{EXCHANGES, World, exchange, now, topic, wait_for_records, wait_until_closed};

/// Reason and value of records that must not count.
fn bad_records(time: i64) -> Vec<(&'static str, Option<Vec<u8>>)> {
    let with = |code: &str, volume: &str, time: &str| {
        format!(r#"{{"code":{code},"volume":{volume},"time":{time}}}"#).into_bytes()
    };
    let good_time = format!("\"{}\"", super::utc(time));
    let long_code = format!("\"{}\"", "x".repeat(3000));
    vec![
        ("tombstone", None),
        ("not_json", Some(b"nonsense".to_vec())),
        ("not_json", Some(Vec::new())),
        ("not_json", Some(vec![b'x'; 1_000_000])),
        ("not_utf8", Some(vec![0xff, 0xfe])),
        ("not_an_object", Some(b"[1]".to_vec())),
        ("key_missing", Some(format!(r#"{{"volume":1,"time":{good_time}}}"#).into_bytes())),
        ("key_null", Some(with("null", "1", &good_time))),
        ("key_wrong_type", Some(with("[5]", "1", &good_time))),
        ("key_empty", Some(with("\"\"", "1", &good_time))),
        ("key_has_nul", Some(with("\"a\\u0000b\"", "1", &good_time))),
        ("key_too_long", Some(with(&long_code, "1", &good_time))),
        ("value_missing", Some(format!(r#"{{"code":"A","time":{good_time}}}"#).into_bytes())),
        ("value_null", Some(with("\"A\"", "null", &good_time))),
        ("value_wrong_type", Some(with("\"A\"", "\"1\"", &good_time))),
        ("not_json", Some(with("\"A\"", "NaN", &good_time))),
        ("value_not_finite", Some(with("\"A\"", "1e999", &good_time))),
        ("value_too_small", Some(with("\"A\"", "5e-324", &good_time))),
        ("value_too_large", Some(with("\"A\"", "1e308", &good_time))),
        ("time_missing", Some(br#"{"code":"A","volume":1}"#.to_vec())),
        ("time_unreadable", Some(with("\"A\"", "1", "\"soon\""))),
        ("time_unreadable", Some(with("\"A\"", "1", "\"99999-01-01 00:00:00\""))),
        ("future", Some(with("\"A\"", "1", &format!("\"{}\"", super::utc(now() + 86_400))))),
    ]
}

pub fn each_bad_record_is_rejected_once_and_its_neighbours_count(world: &World) {
    let database = world.postgres.database();
    let topic = topic("bad-records");
    world.kafka().create_topic(&topic, 1, &[("max.message.bytes", "4000000")]);
    let time = now() / 60 * 60 - 300;
    let bad = bad_records(time);
    let sender = world.kafka().producer();
    for (number, (_, value)) in bad.iter().enumerate() {
        let volume = f64::from(u32::try_from(number).unwrap());
        sender.send(&topic, 0, Some(b""), Some(exchange("GOOD", volume, time).as_bytes()));
        sender.send(&topic, 0, None, value.as_deref());
    }
    // A large record is not a bad one.
    let padding = "x".repeat(1_000_000);
    let large_good = format!(r#"{{"png64":"{padding}","code":"GOOD","volume":7,"time":"{}"}}"#, super::utc(time));
    sender.send(&topic, 0, None, Some(large_good.as_bytes()));
    sender.flush();
    let _host = world.setup(&database, "bad-records").components(&EXCHANGES).start();
    wait_for_records(&database, "exchanges", i64::try_from(bad.len()).unwrap() + 1);
    wait_until_closed(&database, "exchanges");

    let mut expected: BTreeMap<&str, usize> = BTreeMap::new();
    for (reason, _) in &bad {
        *expected.entry(reason).or_default() += 1;
    }
    let mut client = database.client();
    let rows = client
        .query(
            "SELECT reason, record_offset, value_bytes, value, window_start IS NULL FROM public.rejected_records",
            &[],
        )
        .unwrap();
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    for row in &rows {
        let (reason, offset): (String, i64) = (row.get(0), row.get(1));
        let (wanted, value) = &bad[usize::try_from(offset / 2).unwrap()];
        assert_eq!(&reason, wanted, "offset {offset}");
        assert!(row.get::<_, bool>(4));
        let kept: Option<Vec<u8>> = row.get(3);
        match value {
            None => assert_eq!((kept, row.get::<_, Option<i64>>(2)), (None, None)),
            Some(value) => {
                assert_eq!(row.get::<_, Option<i64>>(2), Some(i64::try_from(value.len()).unwrap()));
                assert_eq!(kept.as_deref(), Some(&value[..value.len().min(65_536)]));
            }
        }
        *found.entry(reason).or_default() += 1;
    }
    let found: BTreeMap<&str, usize> = found.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
    assert_eq!(found, expected);
    assert_eq!(database.texts("SELECT DISTINCT code::text FROM public.aggregates"), ["GOOD"]);
}
