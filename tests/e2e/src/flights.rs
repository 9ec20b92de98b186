//! A public series: the flights that left New York's airports in 2013, one record each (`make series`).

use crate::kafka::Sender;
use crate::oracle::{Counted, Oracle};
use crate::{root, utc};

/// One flight.
pub struct Flight {
    pub origin: String,
    pub carrier: String,
    /// Minutes that it left late; none for one that was cancelled.
    delay: Option<f64>,
    /// When it was to leave: by New York's clock, and in Unix seconds, which the series has beside it.
    local: String,
    time: i64,
}

/// All of them in the series' order; none where it was not brought.
pub fn flights() -> Option<Vec<Flight>> {
    let text = std::fs::read_to_string(root().join("target/flights.csv")).ok()?;
    let mut lines = text.lines();
    let names: Vec<_> = lines.next()?.split(',').collect();
    let column = |name: &str| names.iter().position(|there| *there == name).unwrap();
    let [year, month, day, hour, minute] = ["year", "month", "day", "hour", "minute"].map(column);
    let [origin, carrier, delay, time_hour] = ["origin", "carrier", "dep_delay", "time_hour"].map(column);
    let flight = |line: &str| {
        let fields: Vec<_> = line.split(',').collect();
        let number = |index: usize| fields[index].parse::<i64>().unwrap();
        let local = format!(
            "{:04}-{:02}-{:02} {:02}:{:02}:00",
            number(year),
            number(month),
            number(day),
            number(hour),
            number(minute)
        );
        let at_the_hour = chrono::DateTime::parse_from_rfc3339(fields[time_hour]).unwrap().timestamp();
        Flight {
            origin: fields[origin].to_owned(),
            carrier: fields[carrier].to_owned(),
            delay: fields[delay].parse().ok(),
            local,
            time: at_the_hour + 60 * number(minute),
        }
    };
    Some(lines.map(flight).collect())
}

impl Flight {
    /// Sends it as JSON.
    pub fn send(&self, sender: &Sender, topic: &str, partition: i32) {
        let json = serde_json::json!({
            "origin": self.origin, "carrier": self.carrier, "dep_delay": self.delay, "at": self.local,
            "at_utc": utc(self.time),
        });
        sender.send(topic, partition, None, Some(json.to_string().as_bytes()));
    }
}

/// The rows that flights come to, the flight of each number in partition number modulo `partitions`.
pub fn rows(flights: &[Flight], partitions: usize, code: impl Fn(&Flight) -> &str, window_seconds: i64) -> Oracle {
    let mut oracle = Oracle::default();
    for (number, flight) in flights.iter().enumerate() {
        let Some(value) = flight.delay else { continue };
        let partition = i32::try_from(number % partitions).unwrap();
        let offset = i64::try_from(number / partitions).unwrap();
        let time_us = flight.time * 1_000_000;
        oracle.count(
            &Counted { code: code(flight).to_owned(), value, time_us, partition, offset },
            window_seconds,
            window_seconds,
        );
    }
    oracle
}
