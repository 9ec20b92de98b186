//! Where a partition goes on: by the function's progress, the group's offset and the policy; and what the log lost.

use std::sync::Arc;

use exagg_clients::kafka::{Offset, OffsetRange};

use super::{Interrupted, PartitionTask};
use crate::batch::empty;
use crate::bindings::exagg::kafka::types::{Batch, LostRange};
use crate::config::OnGap;
use crate::dispatch::{Dispatched, Function};
use crate::log::{Committed, Log, ReadTo};
use crate::status::PartitionState;
use crate::turns::Turn;

impl<L: Log, F: Function> PartitionTask<L, F> {
    /// Sets the position of a partition that was just assigned, and gives what the group committed.
    ///
    /// A function that keeps progress of its own is asked at the start that the policy names, so that the group's
    /// offset alone never has it skip anything: it answers with its progress, or begins there. For any other function
    /// the group's offset is the progress.
    pub(super) async fn begin(&mut self, bounds: OffsetRange) -> Result<Option<Offset>, Interrupted> {
        let (log, source) = (Arc::clone(&self.stage.log), self.source.clone());
        let committed = self.until("cannot ask for the group's offsets", || log.committed(&source)).await?;
        self.first_partition_count = committed.first_partition_count.unwrap_or(source.partition_count);
        let start = self.start(bounds).await?;
        let Committed { next_offset: Some(committed), leader_epoch, .. } = committed else {
            self.position = start;
            return Ok(None);
        };
        self.read_to = leader_epoch.map(|leader_epoch| ReadTo { next_offset: committed, leader_epoch });
        // What the group did not read is not skipped either, whatever the policy says.
        self.position = start.min(committed);
        if self.position < committed {
            let probe = empty(&source, self.position, bounds.next);
            match self.stage.dispatcher.dispatch(probe, &self.cancel, &|waiting| self.note_waiting(waiting)).await {
                Dispatched::Applied => self.position = committed,
                Dispatched::ResumeAt(offset) => self.position = offset,
                Dispatched::Stopped(reason) => return Err(Interrupted::Stopped(reason)),
                Dispatched::Cancelled => return Err(Interrupted::Cancelled),
            }
        }
        Ok(Some(committed))
    }

    /// Where the policy begins; the log's start for a partition that was added after the topic was first seen.
    async fn start(&self, bounds: OffsetRange) -> Result<Offset, Interrupted> {
        let (log, source) = (Arc::clone(&self.stage.log), &self.source);
        if source.partition.partition.0 >= self.first_partition_count {
            return Ok(bounds.from);
        }
        let start = self.stage.subscription.start;
        self.until("cannot find the start", || log.offset_of(&source.partition, start, bounds)).await
    }

    /// Says that the function does not know of records that the group had applied.
    pub(super) fn reads_again(&self, committed: Offset) {
        let Self { position, source, .. } = self;
        tracing::error!(
            stage = %self.stage.subscription.trigger_id, partition = %source.partition,
            "the group {} had applied everything below offset {committed}, and the function goes on at {position}: its \
             database was emptied or restored, its stream was renamed, or the group's offset was moved; what lies \
             between is read again", source.group
        );
        self.note(PartitionState::Reading);
        self.stage.state.reads_again(&source.partition, OffsetRange { from: *position, next: committed });
    }

    /// The log must hold the position: what was deleted unread is a gap, and a position behind
    /// the end means that the log lost what was applied.
    pub(super) async fn validate_position(&mut self) -> Result<(), Interrupted> {
        loop {
            // Asked after the function has spoken: what it knows may be younger than an older answer.
            let bounds = self.bounds().await?;
            if self.position > bounds.next {
                return Err(Interrupted::Stopped(format!(
                    "the next offset is {}, but the log ends at {}: it lost records that were applied",
                    self.position, bounds.next
                )));
            }
            if self.position >= bounds.from {
                return Ok(());
            }
            self.report_gap(bounds).await?;
        }
    }

    /// Tells the function of offsets that were deleted unread, and goes on behind them where that is accepted.
    async fn report_gap(&mut self, bounds: OffsetRange) -> Result<(), Interrupted> {
        let accepted = self.stage.subscription.on_gap == OnGap::Continue;
        tracing::error!(
            stage = %self.stage.subscription.trigger_id, partition = %self.source.partition,
            "offsets {} to {} were deleted before they were read", self.position, bounds.from.0 - 1
        );
        let mut batch = empty(&self.source, bounds.from, bounds.next);
        batch.lost = Some(LostRange { from_offset: self.position.0, next_offset: bounds.from.0, accepted });
        if !accepted {
            return Err(self.stop_at_gap(batch).await);
        }
        self.position = bounds.from;
        self.dispatch(batch, &Turn::default()).await
    }

    /// The log lost records that were applied, and has others in their place, which were never read.
    pub(super) async fn report_lost_tail(&mut self, end: Offset) -> Result<(), Interrupted> {
        let accepted = self.stage.subscription.on_gap == OnGap::Continue;
        tracing::error!(
            stage = %self.stage.subscription.trigger_id, partition = %self.source.partition,
            "the log lost its tail: of what was applied up to offset {} it ends at {end}, and other records have these \
             offsets, which were not read", self.position
        );
        let mut batch = empty(&self.source, self.position, self.position);
        batch.lost = Some(LostRange { from_offset: end.0, next_offset: self.position.0, accepted });
        if !accepted {
            // Another start finds it again: the group's commit has the epoch.
            return Err(self.stop_at_gap(batch).await);
        }
        self.dispatch(batch, &Turn::default()).await
    }

    /// Tells the function of the gap and stops: nothing is applied or committed past it.
    async fn stop_at_gap(&mut self, batch: Batch) -> Interrupted {
        match self.stage.dispatcher.dispatch(batch, &self.cancel, &|_| {}).await {
            Dispatched::Cancelled => Interrupted::Cancelled,
            Dispatched::Stopped(reason) => Interrupted::Stopped(reason),
            Dispatched::ResumeAt(offset) => Interrupted::Reposition(offset),
            Dispatched::Applied => {
                Interrupted::Stopped("records were deleted before they were read (on_gap = \"stop\")".to_owned())
            }
        }
    }
}
