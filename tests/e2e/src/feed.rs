//! Records that are sent and counted at once.

use std::collections::BTreeMap;

use crate::kafka::{Kafka, Sender};
use crate::oracle::{Counted, Oracle};

/// Sends exchanges to one topic and knows what the rows must come to.
pub struct Feed {
    sender: Sender,
    topic: String,
    offsets: Vec<i64>,
    pub oracle: Oracle,
    pub sent: i64,
    /// By partition and offset.
    pub rejects: BTreeMap<(i32, i64), String>,
    window_seconds: i64,
}

impl Feed {
    /// A feed to an empty topic.
    pub fn new(kafka: &Kafka, topic: &str, partitions: i32) -> Self {
        Self {
            sender: kafka.producer(),
            topic: topic.to_owned(),
            offsets: vec![0; usize::try_from(partitions).unwrap()],
            oracle: Oracle::default(),
            sent: 0,
            rejects: BTreeMap::new(),
            window_seconds: 60,
        }
    }

    #[must_use]
    pub fn window_seconds(mut self, seconds: i64) -> Self {
        self.window_seconds = seconds;
        self
    }

    /// The topic has more partitions now.
    pub fn grow(&mut self, kafka: &Kafka, partitions: i32) {
        self.grow_by(kafka.producer(), partitions);
    }

    /// The same, by a producer that knows of them.
    pub fn grow_by(&mut self, sender: Sender, partitions: i32) {
        self.sender.flush();
        self.sender = sender;
        self.offsets.resize(usize::try_from(partitions).unwrap(), 0);
    }

    /// One record that counts. `time` in Unix seconds.
    pub fn send(&mut self, partition: i32, code: &str, value: f64, time: i64) {
        self.put(partition, Some(crate::exchange(code, value, time).as_bytes()));
        let offset = self.offsets[usize::try_from(partition).unwrap()] - 1;
        let counted = Counted { code: code.to_owned(), value, time_us: time * 1_000_000, partition, offset };
        self.oracle.count(&counted, self.window_seconds, self.window_seconds);
        self.sent += 1;
    }

    /// One record that is rejected for this reason.
    pub fn send_bad(&mut self, partition: i32, reason: &'static str, value: &[u8]) {
        self.rejects.insert((partition, self.next_offset(partition)), reason.to_owned());
        self.put(partition, Some(value));
    }

    /// One record that does not count.
    pub fn put(&mut self, partition: i32, value: Option<&[u8]>) {
        self.sender.send(&self.topic, partition, None, value);
        self.offsets[usize::try_from(partition).unwrap()] += 1;
    }

    /// Where the next record of a partition goes.
    pub fn next_offset(&self, partition: i32) -> i64 {
        self.offsets[usize::try_from(partition).unwrap()]
    }

    /// Records in the log, counting ones or not.
    pub fn total(&self) -> i64 {
        self.offsets.iter().sum()
    }

    /// `count` records of three codes over all partitions, one a second from `first` on, in a span
    /// of `seconds`.
    pub fn spread(&mut self, count: i64, first: i64, seconds: i64) {
        let partitions = i64::try_from(self.offsets.len()).unwrap();
        for number in 0..count {
            let code = ["A", "B", "C"][usize::try_from(number % 3).unwrap()];
            let value = f64::from(i32::try_from(self.sent % 1000).unwrap()) / 8.0;
            self.send(i32::try_from(number % partitions).unwrap(), code, value, first + number % seconds);
        }
        self.flush();
    }

    /// Forgets the records that are stored: for a feed that goes on for long.
    pub fn poll(&self) {
        self.sender.poll();
    }

    pub fn flush(&self) {
        self.sender.flush();
    }
}
