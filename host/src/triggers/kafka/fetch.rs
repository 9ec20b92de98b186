//! How much is fetched ahead: enough to be busy, within the host's memory budget.

/// librdkafka's name of a partition's queue of fetched records.
pub const QUEUE: &str = "queued.max.messages.kbytes";
/// Least size of a partition's queue of fetched records.
const QUEUE_KIB_MIN: usize = 1024;
/// What one answer of a broker holds of all partitions; a batch that is larger comes alone.
pub const ANSWER_BYTES: usize = 8 * 1024 * 1024;
/// The largest answer that is taken (librdkafka's own default), and the least that makes sense.
const RESPONSE_BYTES_MAX: u64 = 100_000_000;
const RESPONSE_BYTES_MIN: u64 = 16 * 1024 * 1024;
/// The parts of the host's budget that one answer, and the queues of this many partitions, may have.
const RESPONSE_SHARE: u64 = 4;
const QUEUES_SHARE: u64 = 8;
const PARTITIONS: u64 = 16;

/// How much is fetched ahead.
#[derive(Debug, PartialEq, Eq)]
pub struct Fetch {
    /// Of one partition: about a batch. librdkafka keeps some 400 bytes more a record than it counts here, twice
    /// what a small record has itself.
    pub queue_kib: usize,
    /// Of one answer.
    pub response_bytes: u64,
}

impl Fetch {
    /// The most that an app may ask for, by this host's budget.
    pub fn bounded(asked_kib: &str, budget_bytes: u64) -> String {
        let most = room_kib(budget_bytes).max(QUEUE_KIB_MIN);
        asked_kib.parse::<usize>().map_or_else(|_| asked_kib.to_owned(), |asked| asked.min(most).to_string())
    }

    pub fn new(batch_bytes_max: usize, budget_bytes: u64) -> Self {
        Self {
            queue_kib: (batch_bytes_max / 2048).min(room_kib(budget_bytes)).max(QUEUE_KIB_MIN),
            response_bytes: (budget_bytes / RESPONSE_SHARE).clamp(RESPONSE_BYTES_MIN, RESPONSE_BYTES_MAX),
        }
    }
}

/// What the queue of one partition may have.
fn room_kib(budget_bytes: u64) -> usize {
    usize::try_from(budget_bytes / QUEUES_SHARE / PARTITIONS / 1024).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_fetched_ahead_is_within_the_hosts_budget() {
        let usual = Fetch::new(2 * 1024 * 1024, u64::MAX);
        assert_eq!(usual, Fetch { queue_kib: 1024, response_bytes: RESPONSE_BYTES_MAX });
        assert_eq!(Fetch::new(64 * 1024 * 1024, u64::MAX).queue_kib, 32 * 1024);
        let small = Fetch::new(64 * 1024 * 1024, 384 * 1024 * 1024);
        assert_eq!(small, Fetch { queue_kib: 3 * 1024, response_bytes: RESPONSE_BYTES_MAX });
        assert_eq!(Fetch::new(1024, 1).response_bytes, RESPONSE_BYTES_MIN);
        assert_eq!(Fetch::bounded("65536", 384 * 1024 * 1024), "3072");
        assert_eq!(Fetch::bounded("512", 384 * 1024 * 1024), "512");
    }
}
