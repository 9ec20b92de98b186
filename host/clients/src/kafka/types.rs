//! What a log's places are called.

use std::fmt;

use serde::Serialize;

/// A record's place in its partition, or a place where one could be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Offset(pub i64);

impl Offset {
    /// The place behind a record at this offset: what is committed for it.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A partition's number, from 0 on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Partition(pub i32);

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Kafka's own id of a topic, in base 64: a topic that is deleted and created again has another one.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct TopicId(pub String);

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic's name: one that is deleted and created again may have the same.
    pub topic: String,
    /// From 0 on, within that topic.
    pub partition: Partition,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// Offsets from one on, up to another that is not among them: `[from, next)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OffsetRange {
    /// The first offset that is in it.
    pub from: Offset,
    /// The first offset that is not in it any more.
    pub next: Offset,
}

impl OffsetRange {
    /// How many offsets are in it; none where it ends before it begins.
    pub fn len(self) -> u64 {
        u64::try_from(self.next.0 - self.from.0).unwrap_or_default()
    }

    /// True also where it ends before it begins.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// What a topic is: its id, and how many partitions it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDescription {
    /// By it a topic is told from an earlier one of the same name.
    pub id: TopicId,
    /// How many there are, numbered from 0 on, at the time of asking.
    pub partitions: i32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_half_open() {
        let range = |from, next| OffsetRange { from: Offset(from), next: Offset(next) };
        assert_eq!((range(3, 5).len(), range(5, 5).len(), range(7, 5).len()), (2, 0, 0));
        assert!(range(5, 5).is_empty() && !range(4, 5).is_empty());
        assert_eq!(Offset(4).next(), Offset(5));
    }
}
