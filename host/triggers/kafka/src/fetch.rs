//! How much is fetched ahead: enough to be busy, within the stage's share of the host's memory budget.

/// librdkafka's names: of a partition's queue of fetched records, and of what one answer holds of a partition.
pub const QUEUE: &str = "queued.max.messages.kbytes";
const PIECE: &str = "fetch.message.max.bytes";
/// … and how many records it fetches ahead. By bytes alone it counts values, and not what keys take.
const RECORDS: &str = "queued.min.messages";
/// Records for each KiB of a queue.
const RECORDS_PER_KIB: usize = 16;
/// Least size of a partition's queue: where there is room, and however many share. Half of it is asked for at a time: of
/// less than a producer's batch, 1 MB by usual settings, brokers send the head, which is thrown away.
const QUEUE_KIB_USUAL: usize = 2048;
const QUEUE_KIB_MIN: usize = 64;
/// What one answer of a broker holds of all partitions; a batch that is larger comes alone.
const ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// What is read ahead beside the queues, of a partition and of all partitions of a stage, where there is room for it.
const AHEAD_BYTES: usize = 4 * 1024 * 1024;
const AHEAD_BYTES_OF_ALL: usize = 64 * 1024 * 1024;
/// The largest answer that is taken (librdkafka's own default), and the least that makes sense.
const RESPONSE_BYTES_MAX: usize = 100_000_000;
const RESPONSE_BYTES_MIN: usize = 16 * 1024 * 1024;
/// The parts of the host's budget: for one answer, and for all queues. A batch is what its queue held: all that are not
/// applied yet come to as much again.
const RESPONSE_SHARE: u64 = 4;
const QUEUES_SHARE: u64 = 8;
/// Partitions that a stage has room for before it knows how many it gets.
pub const PARTITIONS: usize = 16;

/// One stage's part of the host's memory.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    queues_kib: usize,
    response_bytes: usize,
}

impl Share {
    /// All stages have the same.
    pub fn new(budget_bytes: u64, stages: usize) -> Self {
        let stages = stages.max(1) as u64;
        let queues_bytes = budget_bytes / QUEUES_SHARE / stages;
        Self {
            queues_kib: usize::try_from(queues_bytes / 1024).unwrap_or(usize::MAX),
            response_bytes: usize::try_from(budget_bytes / RESPONSE_SHARE)
                .unwrap_or(usize::MAX)
                .clamp(RESPONSE_BYTES_MIN, RESPONSE_BYTES_MAX),
        }
    }

    /// What the queue of one of so many partitions may have.
    fn room_kib(self, partitions: usize) -> usize {
        (self.queues_kib / partitions.max(1)).max(QUEUE_KIB_MIN)
    }

    /// What each of so many partitions may have in batches that wait: no more than its queue may have.
    pub fn ahead_bytes(self, partitions: usize) -> usize {
        let usual = (AHEAD_BYTES_OF_ALL / partitions.max(1)).min(AHEAD_BYTES);
        self.room_kib(partitions).saturating_mul(1024).min(usual.max(QUEUE_KIB_USUAL * 1024))
    }
}

/// What a stage would fetch ahead of a partition if there was room.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    queue_kib: usize,
    piece_bytes: Option<usize>,
    records: Option<usize>,
}

impl Wanted {
    /// What the app asks for; else a queue of half a batch.
    pub fn new(batch_bytes_max: usize, asked: impl Fn(&str) -> Option<usize>) -> Self {
        let usual = (batch_bytes_max / 2048).max(QUEUE_KIB_USUAL);
        Self { queue_kib: asked(QUEUE).unwrap_or(usual), piece_bytes: asked(PIECE), records: asked(RECORDS) }
    }
}

/// How much is fetched ahead. librdkafka keeps some 400 bytes more a record than it counts, twice what a small record
/// has itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// Of a partition: in its queue, and in one answer.
    queue_kib: usize,
    piece_bytes: usize,
    records: usize,
    /// The largest answer that is taken.
    response_bytes: usize,
    /// With more partitions than these, the queues would take more than the stage's share.
    pub partitions_max: usize,
}

impl Fetch {
    /// What is wanted, bounded by an equal part of the share for each of so many partitions.
    pub fn new(wanted: Wanted, share: Share, partitions: usize) -> Self {
        let most_kib = share.room_kib(partitions);
        let queue_kib = wanted.queue_kib.clamp(1, most_kib);
        let fit = if queue_kib <= QUEUE_KIB_MIN { usize::MAX } else { share.queues_kib / queue_kib };
        Self {
            queue_kib,
            piece_bytes: wanted.piece_bytes.unwrap_or(queue_kib * 512).min(most_kib.saturating_mul(1024)),
            records: wanted.records.unwrap_or(usize::MAX).min(queue_kib.saturating_mul(RECORDS_PER_KIB)),
            response_bytes: share.response_bytes,
            partitions_max: fit.max(partitions),
        }
    }

    /// As librdkafka calls them.
    pub fn properties(&self) -> [(&'static str, usize); 5] {
        [
            (QUEUE, self.queue_kib),
            (PIECE, self.piece_bytes),
            (RECORDS, self.records),
            ("fetch.max.bytes", ANSWER_BYTES),
            ("receive.message.max.bytes", self.response_bytes),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;
    const BATCH: usize = 2 * 1024 * 1024;

    fn usual(batch_bytes_max: usize, share: Share, partitions: usize) -> Fetch {
        Fetch::new(Wanted::new(batch_bytes_max, |_| None), share, partitions)
    }

    #[test]
    fn what_is_fetched_ahead_is_within_the_hosts_budget() {
        let large = Share::new(u64::MAX, 3);
        let fetch = usual(BATCH, large, PARTITIONS);
        assert_eq!((fetch.queue_kib, fetch.piece_bytes, fetch.records), (2048, 1024 * 1024, 32 * 1024));
        assert_eq!(fetch.response_bytes, RESPONSE_BYTES_MAX);
        assert_eq!(usual(32 * BATCH, large, PARTITIONS).queue_kib, 32 * 1024);
        assert_eq!(usual(1024, large, PARTITIONS).queue_kib, 2048);
        let small = Share::new(384 * MIB, 1);
        assert_eq!(usual(32 * BATCH, small, PARTITIONS).queue_kib, 3 * 1024);
        assert_eq!(Share::new(1, 1).response_bytes, RESPONSE_BYTES_MIN);
    }

    #[test]
    fn an_app_gets_what_it_asks_for_as_far_as_there_is_room() {
        let share = Share::new(384 * MIB, 1);
        let asked = |queue: usize, piece: usize| {
            let wanted = Wanted::new(BATCH, |name| match name {
                QUEUE => Some(queue),
                PIECE => Some(piece),
                _ => None,
            });
            let fetch = Fetch::new(wanted, share, PARTITIONS);
            (fetch.queue_kib, fetch.piece_bytes, fetch.partitions_max)
        };
        assert_eq!(asked(65_536, 64 << 20), (3 * 1024, 3 << 20, 16));
        assert_eq!(asked(512, 1000), (512, 1000, 96));
    }

    #[test]
    fn stages_and_partitions_share() {
        let (alone, shared) = (Share::new(384 * MIB, 1), Share::new(384 * MIB, 4));
        for (share, partitions, kib) in [(alone, 48, 1024), (alone, 500, 98), (alone, 5_000, 64), (shared, 48, 256)] {
            assert_eq!(usual(BATCH, share, partitions).queue_kib, kib, "{partitions}");
        }
        let most = |share, partitions| usual(BATCH, share, partitions).partitions_max;
        assert_eq!((most(alone, PARTITIONS), most(alone, 64), most(alone, 5_000)), (24, 64, usize::MAX));
        assert!(most(Share::new(u64::MAX, 4), PARTITIONS) > 1_000_000);
    }

    #[test]
    fn batches_that_wait_are_bounded_as_the_queues_are() {
        let large = Share::new(u64::MAX, 1);
        assert_eq!([1, 16, 32, 500].map(|partitions| large.ahead_bytes(partitions) / 1024), [4096, 4096, 2048, 2048]);
        let small = Share::new(384 * MIB, 1);
        assert_eq!([1, 16, 64, 5_000].map(|partitions| small.ahead_bytes(partitions) / 1024), [4096, 3072, 768, 64]);
    }
}
