//! Which fields of some records are the key, the number and the time. Pure.

use std::collections::{BTreeMap, BTreeSet};

use exagg_common::printable::printable;
use serde_json::Value;
use window::time::TimeFormat;

use super::sample::Sampled;

/// How deep is looked, and how many items of an array are.
const DEPTH_MAX: usize = 6;
const ITEMS_MAX: usize = 3;
/// Different values of a field that are counted.
const DISTINCT_MAX: usize = 1_000;
/// Fields that are looked at, and characters of a value that tell it from others.
const LEAVES_MAX: usize = 2_000;
const VALUE_CHARS: usize = 64;
/// The part of the records that a field has to be in.
const MOST: f64 = 0.9;
/// Formats that are tried where `auto` reads nothing.
const PATTERNS: [&str; 4] = ["%d.%m.%Y %H:%M:%S", "%d/%m/%Y %H:%M:%S", "%Y/%m/%d %H:%M:%S", "%a, %d %b %Y %H:%M:%S %z"];
/// Names that speak for what a field is, the most telling first; compared in small letters.
const KEYS: [&str; 18] = [
    "code",
    "symbol",
    "key",
    "device_id",
    "deviceid",
    "device",
    "sensor_id",
    "sensor",
    "station",
    "city",
    "id",
    "user_id",
    "userid",
    "name",
    "host",
    "currency",
    "pair",
    "s",
];
const VALUES: [&str; 20] = [
    "value",
    "price",
    "volume",
    "amount",
    "temperature",
    "temp",
    "reading",
    "mean",
    "avg",
    "measurement",
    "level",
    "rate",
    "size",
    "quantity",
    "qty",
    "p",
    "v",
    "q",
    "total",
    "count",
];
const TIMES: [&str; 14] = [
    "time",
    "timestamp",
    "@timestamp",
    "event_time",
    "eventtime",
    "ts",
    "at",
    "datetime",
    "date",
    "created_at",
    "createdat",
    "when",
    "t",
    "e",
];
/// How much the records' own keys speak for themselves, beside a field's name.
const RECORD_KEY: i64 = 50;
/// Names of numbers that count or name something.
const COUNTERS: [&str; 8] = ["id", "offset", "seq", "sequence", "version", "number", "index", "partition"];

/// Where the fields are, and how they are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guess {
    pub key: Option<String>,
    pub value: Option<String>,
    pub time: Option<String>,
    /// None: as `auto` reads it.
    pub time_format: Option<String>,
    /// Places where numbers stand in quotes.
    pub in_text: BTreeSet<String>,
}

/// What a field was in the records.
#[derive(Clone, Debug, Default)]
struct Leaf {
    depth: usize,
    /// Its last name, in small letters.
    name: String,
    seen: usize,
    texts: usize,
    numbers: usize,
    fractions: usize,
    numbers_in_text: usize,
    /// As `auto` reads them.
    times: usize,
    patterns: [usize; PATTERNS.len()],
    distinct: BTreeSet<String>,
}

/// Looks at records that are JSON objects; none where most are not.
pub fn guess(records: &[Sampled], now_us: i64) -> Option<Guess> {
    let mut leaves: BTreeMap<String, Leaf> = BTreeMap::new();
    let parsed: Vec<Value> = records.iter().filter_map(|record| parse(record.value.as_deref()?)).collect();
    let values = records.iter().filter(|record| record.value.is_some()).count();
    if parsed.is_empty() || is_less(parsed.len(), values) {
        return None;
    }
    let auto = TimeFormat::new("auto", "UTC").ok()?;
    let patterns: Vec<TimeFormat> =
        PATTERNS.iter().filter_map(|pattern| TimeFormat::new(pattern, "UTC").ok()).collect();
    for value in &parsed {
        walk(value, &mut Vec::new(), &mut |path, value| {
            let place = place(path);
            // A name that a terminal would obey, or that a manifest would take for a variable, is nobody's field.
            if printable(&place) != place
                || place.contains("{{")
                || (leaves.len() >= LEAVES_MAX && !leaves.contains_key(&place))
            {
                return;
            }
            let leaf = leaves.entry(place).or_default();
            leaf.depth = path.len();
            leaf.name = path.last().map(|name| name.to_ascii_lowercase()).unwrap_or_default();
            leaf.add(value, &auto, &patterns, now_us);
        });
    }
    let leaves: Vec<(&String, &Leaf)> = leaves.iter().filter(|(_, leaf)| !is_less(leaf.seen, parsed.len())).collect();
    let best = |score: &dyn Fn(&Leaf) -> Option<i64>, not: &[&String]| {
        let scored = leaves.iter().filter(|(place, _)| !not.contains(place));
        let scored = scored.filter_map(|(place, leaf)| Some((score(leaf)?, *place, *leaf)));
        scored.max_by_key(|(score, place, _)| (*score, std::cmp::Reverse(*place)))
    };
    let mut guess = Guess::default();
    let mut taken = Vec::new();
    if let Some((_, place, leaf)) = best(&Leaf::as_time, &taken) {
        taken.push(place);
        guess.time = Some(place.clone());
        let pattern = leaf.patterns.iter().zip(PATTERNS).max_by_key(|(count, _)| **count);
        guess.time_format = pattern.filter(|_| is_less(leaf.times, leaf.seen)).map(|(_, pattern)| pattern.to_owned());
    }
    if let Some((_, place, _)) = best(&Leaf::as_value, &taken) {
        taken.push(place);
        guess.value = Some(place.clone());
    }
    let in_text =
        leaves.iter().filter(|(_, leaf)| leaf.numbers_in_text > 0 && !is_less(leaf.numbers_in_text, leaf.texts));
    guess.in_text = in_text.map(|(place, _)| (*place).clone()).collect();
    let key = best(&Leaf::as_key, &taken).filter(|(score, ..)| *score >= RECORD_KEY || !have_keys(records));
    guess.key = key.map(|(_, place, _)| place.clone());
    Some(guess)
}

/// Whether the records have keys of their own that tell them apart.
fn have_keys(records: &[Sampled]) -> bool {
    let keys: Vec<&str> =
        records.iter().filter_map(|record| std::str::from_utf8(record.key.as_deref()?).ok()).collect();
    let distinct: BTreeSet<&&str> = keys.iter().collect();
    !is_less(keys.len(), records.len()) && distinct.len() * 2 <= keys.len()
}

/// Whether so few are not most of them.
#[expect(clippy::cast_precision_loss, reason = "some thousands")]
fn is_less(part: usize, all: usize) -> bool {
    (part as f64) < all as f64 * MOST
}

fn parse(bytes: &[u8]) -> Option<Value> {
    serde_json::from_slice(bytes).ok().filter(Value::is_object)
}

/// Each value that has no others in it, with the steps to it.
fn walk<'v>(value: &'v Value, path: &mut Vec<String>, told: &mut dyn FnMut(&[String], &'v Value)) {
    let mut step = |name: String, value: &'v Value, path: &mut Vec<String>| {
        if path.len() < DEPTH_MAX {
            path.push(name);
            walk(value, path, told);
            path.pop();
        }
    };
    match value {
        Value::Object(members) => members.iter().for_each(|(name, value)| step(name.clone(), value, path)),
        Value::Array(items) => {
            items.iter().take(ITEMS_MAX).enumerate().for_each(|(index, value)| step(index.to_string(), value, path));
        }
        value => told(path, value),
    }
}

/// As the settings write it.
fn place(path: &[String]) -> String {
    match path {
        [name] if !name.is_empty() && !["/", "$.", "kafka:"].iter().any(|begin| name.starts_with(begin)) => {
            name.clone()
        }
        path => path.iter().map(|step| format!("/{}", step.replace('~', "~0").replace('/', "~1"))).collect(),
    }
}

impl Leaf {
    fn add(&mut self, value: &Value, auto: &TimeFormat, patterns: &[TimeFormat], now_us: i64) {
        // From the year 2000 to tomorrow: a number outside is another one.
        let is_time = |time: Result<window::time::EventTime, _>| {
            time.is_ok_and(|time: window::time::EventTime| {
                (946_684_800_000_000..now_us + 86_400_000_000).contains(&time.0)
            })
        };
        let as_number = |number: &serde_json::Number| match number.as_i64() {
            Some(number) => auto.parse_integer(number),
            None => auto.parse_float(number.as_f64().unwrap_or_default()),
        };
        match value {
            Value::String(text) => {
                self.texts += 1;
                let number: Option<serde_json::Number> = serde_json::from_str(text).ok();
                self.numbers_in_text += usize::from(number.is_some());
                self.fractions += usize::from(number.is_some() && text.contains('.'));
                let time = number.as_ref().map_or_else(|| auto.parse_text(text.as_bytes()), as_number);
                self.times += usize::from(is_time(time));
                for (count, pattern) in self.patterns.iter_mut().zip(patterns) {
                    *count += usize::from(is_time(pattern.parse_text(text.as_bytes())));
                }
            }
            Value::Number(number) => {
                self.numbers += 1;
                self.fractions += usize::from(number.as_f64().is_some_and(|number| number.fract() != 0.0));
                self.times += usize::from(is_time(as_number(number)));
            }
            // Neither tells what the field is.
            Value::Null => return,
            _ => {}
        }
        self.seen += 1;
        if self.distinct.len() < DISTINCT_MAX {
            self.distinct.insert(value.to_string().chars().take(VALUE_CHARS).collect());
        }
    }

    /// How much its name speaks for it: its place in the list; the deeper it stands, the less.
    fn named(&self, names: &[&str]) -> i64 {
        let place = names.iter().position(|name| *name == self.name);
        let depth = i64::try_from(self.depth).unwrap_or(i64::MAX);
        place.map_or(0, |place| 100 - i64::try_from(place).unwrap_or(100)) - 5 * depth
    }

    fn as_time(&self) -> Option<i64> {
        let read = self.patterns.iter().copied().max().unwrap_or_default().max(self.times);
        // A number that happens to be like one has to be named as one.
        let is_told = self.texts > self.numbers_in_text || self.named(&TIMES) > 0 || self.name.contains("time");
        (!is_less(read, self.seen) && is_told).then(|| self.named(&TIMES))
    }

    fn as_value(&self) -> Option<i64> {
        if is_less(self.numbers + self.numbers_in_text, self.seen) {
            return None;
        }
        let mut score = self.named(&VALUES);
        score += if self.fractions > 0 { 30 } else { 0 };
        score -= if COUNTERS.iter().any(|name| self.name == *name || self.name.ends_with(&format!("_{name}"))) {
            90
        } else {
            0
        };
        score -= if is_less(self.times, self.seen) { 0 } else { 60 };
        score -= if self.distinct.len() <= 1 && self.seen > 10 { 40 } else { 0 };
        Some(score)
    }

    fn as_key(&self) -> Option<i64> {
        let is_text = self.texts > self.numbers_in_text;
        let is_whole = self.numbers > 0 && self.fractions == 0;
        let repeats = (2..=self.seen / 2).contains(&self.distinct.len()) || self.seen < 4;
        let named = self.named(&KEYS);
        // A name alone does not make a key of a field that is another one each time.
        ((is_text || (is_whole && named > 0)) && repeats).then_some(named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_US: i64 = 1_800_000_000_000_000;

    fn sample(record: impl Fn(i64) -> String) -> Vec<Sampled> {
        let one =
            |number| Sampled { partition: 0, timestamp: None, key: None, value: Some(record(number).into_bytes()) };
        (0..50).map(one).collect()
    }

    fn guessed(record: impl Fn(i64) -> String) -> Guess {
        guess(&sample(record), NOW_US).unwrap()
    }

    fn wanted(key: &str, value: &str, time: &str, numbers_in_text: bool) -> Guess {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let in_text = if numbers_in_text { ["p", "q"].map(str::to_owned).into() } else { BTreeSet::new() };
        Guess { key: some(key), value: some(value), time: some(time), time_format: None, in_text }
    }

    #[test]
    fn what_users_have_is_guessed_right() {
        let exchange = |n: i64| {
            format!(
                r#"{{"name":"An {n}","code":"C{}","markets":{n},"volume":{n}.5,"visitors":9,"time":"2023-11-14 22:13:{:02}"}}"#,
                n % 5,
                n % 60
            )
        };
        assert_eq!(guessed(exchange), wanted("code", "volume", "time", false));
        let trade = |n: i64| {
            let at = 1_700_000_000_000 + n;
            format!(
                r#"{{"e":"trade","E":{at},"s":"S{}","t":{n},"p":"630{n}.5","q":"0.01{n}","T":{at},"m":true}}"#,
                n % 3
            )
        };
        assert_eq!(guessed(trade), wanted("s", "p", "T", true));
        let nested = |n: i64| {
            format!(
                r#"{{"device":{{"id":{}}},"stats":[{{"mean":{n}.25}}],"meta":{{"at":{}}}}}"#,
                n % 4,
                1_700_000_000 + n
            )
        };
        assert_eq!(guessed(nested), wanted("/device/id", "/stats/0/mean", "/meta/at", false));
        let bare = |n: i64| format!(r#"{{"value":{n}.5,"unit":"K"}}"#);
        assert_eq!(guessed(bare).value.as_deref(), Some("value"));
        assert_eq!((guessed(bare).key, guessed(bare).time), (None, None));
        let mut keyed = sample(|n| format!(r#"{{"value":{n}.5,"kind":"k{}"}}"#, n % 2));
        assert_eq!(guess(&keyed, NOW_US).unwrap().key.as_deref(), Some("kind"));
        for (number, record) in (0..).zip(&mut keyed) {
            record.key = Some(format!("sensor {}", number % 5).into_bytes());
        }
        assert_eq!(guess(&keyed, NOW_US).unwrap().key, None, "the record's own");
        let german = |n: i64| format!(r#"{{"city":"A{}","temp":{n},"when":"14.11.2023 22:13:{:02}"}}"#, n % 2, n % 60);
        assert_eq!(guessed(german).time_format.as_deref(), Some("%d.%m.%Y %H:%M:%S"));
    }

    #[test]
    fn what_is_no_json_is_not_guessed_at() {
        assert_eq!(guess(&sample(|_| "a,b,c".to_owned()), NOW_US), None);
        assert_eq!(guess(&sample(|_| "[1]".to_owned()), NOW_US), None);
        assert_eq!(guess(&[], NOW_US), None);
    }

    #[test]
    fn a_name_that_reads_as_a_path_is_written_as_one() {
        assert_eq!(place(&["/a~".to_owned()]), "/~1a~0");
        assert_eq!(place(&["a.b".to_owned()]), "a.b");
        assert_eq!(place(&[String::new()]), "/");
    }

    #[test]
    fn a_name_that_would_do_something_is_nobodys_field() {
        let hostile = |n: i64| format!(r#"{{"{{{{ postgres_url }}}}":{n}.5,"price\u001b[2J":{n}.5,"plain":{n}.5}}"#);
        assert_eq!(guessed(hostile).value.as_deref(), Some("plain"));
    }
}
