//! Simulated exchanges and weather: a function of seed, name and time, so that two runs with the
//! same seed publish the same.

use serde_json::{Map, Value, json};

use crate::record::{Record, utc};

const EXCHANGES: [&str; 20] = [
    "BINANCE", "COINBASE", "KRAKEN", "OKX", "BYBIT", "KUCOIN", "BITFINEX", "GATE", "BITSTAMP", "GEMINI", "MEXC", "HTX",
    "BITGET", "UPBIT", "BITHUMB", "POLONIEX", "LBANK", "PROBIT", "COINEX", "WHITEBIT",
];

/// A 64-bit hash of the parts (splitmix64's finalizer over an FNV-1a start): cheap, and good
/// enough for a demonstration.
fn hash(seed: u64, name: &str, what: &str, time: u64) -> u64 {
    let mut state = seed ^ 0xcbf2_9ce4_8422_2325;
    for byte in name.bytes().chain([0]).chain(what.bytes()) {
        state = (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    state = state.wrapping_add(time.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

/// Uniform in `[0, 1)`.
#[expect(clippy::cast_precision_loss, reason = "53 bits fit a double")]
fn unit(hash: u64) -> f64 {
    (hash >> 11) as f64 / (1u64 << 53) as f64
}

fn cents(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// One record a city: temperature 20 to 30 with two decimals, humidity 30 to 70.
pub fn weather(cities: &[String], seed: u64, timestamp: u64) -> Vec<Record> {
    let record = |city: &String| Record {
        key: city.clone(),
        value: object(json!({
            "city": city,
            "temperature": cents(20.0 + 10.0 * unit(hash(seed, city, "temperature", timestamp))),
            "humidity": 30 + hash(seed, city, "humidity", timestamp) % 41,
            "timestamp": utc(timestamp),
        })),
    };
    cities.iter().map(record).collect()
}

/// One record an exchange, in the shape of the API's answer.
pub fn exchanges(limit: usize, seed: u64, timestamp: u64) -> Vec<Record> {
    EXCHANGES.iter().zip(1u64..).take(limit).map(|(code, rank)| exchange(code, rank, seed, timestamp)).collect()
}

#[expect(clippy::cast_precision_loss, reason = "ranks and visitors are small")]
fn exchange(code: &str, rank: u64, seed: u64, timestamp: u64) -> Record {
    let random = |what: &str, time| unit(hash(seed, code, what, time));
    // Ten billion dollars for the first, drifting by a tenth within an hour.
    let base = 1e10 / rank as f64 * (0.5 + random("base", 0));
    let volume =
        cents(base * (0.95 + 0.1 * random("hour", timestamp / 3600)) * (0.99 + 0.02 * random("now", timestamp)));
    let visitors = 1_000_000 / rank + hash(seed, code, "visitors", timestamp) % 10_000;
    Record {
        key: code.to_owned(),
        value: object(json!({
            "code": code,
            "markets": 100 + hash(seed, code, "markets", 0) % 1_000,
            "volume": volume,
            "bidTotal": cents(volume * 0.010 * random("bid", timestamp)),
            "askTotal": cents(volume * 0.010 * random("ask", timestamp)),
            "depth": cents(volume * 0.005),
            "visitors": visitors,
            "volumePerVisitor": cents(volume / visitors as f64),
            "time": utc(timestamp),
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: u64 = 1_700_425_875;

    #[test]
    fn the_same_seed_and_time_give_the_same_records() {
        assert_eq!(exchanges(10, 7, TIME), exchanges(10, 7, TIME));
        assert_ne!(exchanges(10, 7, TIME), exchanges(10, 8, TIME));
        assert_ne!(exchanges(10, 7, TIME), exchanges(10, 7, TIME + 10));
    }

    #[test]
    fn weather_has_the_references_shape() {
        for timestamp in TIME..TIME + 500 {
            let records = weather(&["Tehran".to_owned()], 1, timestamp);
            let value = &records[0].value;
            let temperature = value["temperature"].as_f64().unwrap();
            assert!((20.0..=30.0).contains(&temperature));
            assert!((30..=70).contains(&value["humidity"].as_u64().unwrap()));
        }
        let value = &weather(&["Tehran".to_owned()], 1, TIME)[0].value;
        assert_eq!(value["timestamp"], "2023-11-19 20:31:15");
        assert_eq!(value["city"], "Tehran");
    }

    #[test]
    fn exchanges_have_the_fields_of_the_api() {
        let records = exchanges(10, 1, TIME);
        assert_eq!(records.len(), 10);
        for field in
            ["code", "markets", "volume", "bidTotal", "askTotal", "depth", "visitors", "volumePerVisitor", "time"]
        {
            assert!(records.iter().all(|record| record.value.contains_key(field)), "{field}");
        }
    }
}
