//! The functions' view of the database: statements that fail before or after their effect.

use std::collections::BTreeMap;

use aggregator::aggregate::Aggregate;
use aggregator::database::{Database as Applying, Opened, Refused, StoreError as ApplyError};
use aggregator::settings::Settings;
use exagg_sdk::kafka::{Batch, LostRange};
use window::late::Late;
use window::layout::LAYOUT;
use window::time::{EventTime, MICROS_PER_SECOND};
use window::watermark::{NextCandidate, Watermark};
use window_closer::database::{Closed, Database as Closing, StoreError as CloseError, Stream};

use crate::Broken;
use crate::schedule::turn;
use crate::world::World;

/// One in so many statements fails.
const FAULTS: u32 = 25;

/// A connection; `life` is the consumer and its life when it was opened, none for a closer.
pub struct Connection<'a> {
    pub world: &'a World,
    pub life: Option<(usize, u32)>,
}

impl Connection<'_> {
    /// Another's turn, and then the statement; the answer may be lost with the effect done.
    async fn statement<R>(&self, effect: impl FnOnce(&World) -> R) -> Result<R, String> {
        turn().await;
        let dead = || self.life.is_some_and(|(consumer, life)| self.world.lives.borrow()[consumer] != life);
        // A consumer that dies may leave its statement behind: it runs all the same.
        if (dead() && self.world.one_in(2)) || self.world.fault(FAULTS) {
            return Err("the database is away".to_owned());
        }
        let result = effect(self.world);
        if self.world.fault(FAULTS) {
            return Err("the answer is lost".to_owned());
        }
        turn().await;
        if dead() { Err("nobody waits for the answer".to_owned()) } else { Ok(result) }
    }

    async fn applying<R>(&self, effect: impl FnOnce(&World) -> R) -> Result<R, ApplyError> {
        self.statement(effect).await.map_err(ApplyError::Unavailable)
    }
}

fn interval(batch: &Batch, from: i64) -> (i32, i64, i64, i64) {
    (batch.partition, from, batch.next_offset, batch.end_offset)
}

impl Applying for Connection<'_> {
    async fn apply(
        &self,
        settings: &Settings,
        batch: &Batch,
        from: i64,
        aggregate: Aggregate<'_>,
    ) -> Result<bool, ApplyError> {
        let reject_late = settings.late == Late::Reject;
        self.applying(|world| {
            let now_us = world.clock_us.get();
            let future_us = now_us + settings.schema.max_future_seconds * MICROS_PER_SECOND;
            world.database.borrow_mut().apply(interval(batch, from), aggregate, reject_late, (now_us, future_us))
        })
        .await
    }

    async fn apply_empty(&self, _: &Settings, batch: &Batch, from: i64) -> Result<bool, ApplyError> {
        self.applying(|world| world.database.borrow_mut().apply_empty(interval(batch, from), world.clock_us.get()))
            .await
    }

    async fn progress(&self, _: &Settings, batch: &Batch) -> Result<Option<i64>, ApplyError> {
        let partition = batch.partition;
        self.applying(|world| world.database.borrow().progress.get(&partition).map(|progress| progress.next_offset))
            .await
    }

    async fn layout(&self) -> Result<Option<i64>, ApplyError> {
        self.applying(|_| Some(LAYOUT)).await
    }

    async fn now(&self) -> Result<EventTime, ApplyError> {
        self.applying(|world| match (world.plan.broken, self.life) {
            (Broken::HostsClockRejects, Some((consumer, _))) => world.now_of(consumer),
            _ => world.now(),
        })
        .await
    }

    async fn values_kept(&self, _: &Settings) -> Result<BTreeMap<String, usize>, ApplyError> {
        self.applying(|_| BTreeMap::new()).await
    }

    async fn begin_partition(&self, _: &Settings, batch: &Batch) -> Result<Opened, ApplyError> {
        self.applying(|world| {
            let now_us = world.clock_us.get();
            world.database.borrow_mut().begin(batch.partition, batch.from_offset, batch.end_offset, now_us);
            Opened::Begun
        })
        .await
    }

    async fn write_settings(&self, _: &Settings, _: &str) -> Result<Option<Refused>, ApplyError> {
        self.applying(|world| {
            world.database.borrow_mut().write_settings();
            None
        })
        .await
    }

    async fn closed_before(&self, _: &Settings) -> Result<Option<i64>, ApplyError> {
        self.applying(|world| world.database.borrow().closed_before_us).await
    }

    async fn write_gap(&self, _: &Settings, _: &Batch, _: &LostRange) -> Result<(), ApplyError> {
        self.applying(|_| ()).await
    }
}

impl Closing for Connection<'_> {
    async fn raise_watermark(&self, _: &Stream, watermark: &Watermark) -> Result<Option<EventTime>, CloseError> {
        let raised = self
            .statement(|world| {
                let before = world.database.borrow().watermark_us;
                let after = world.database.borrow_mut().raise_watermark(watermark.time.map(|time| time.0));
                world.database.borrow_mut().held_by = Some(watermark.held_by.to_string());
                if let NextCandidate::Set(time) = watermark.candidate {
                    world.database.borrow_mut().candidate_us = Some((time.0, world.clock_us.get()));
                }
                if after < before {
                    world.violations.borrow_mut().push("the watermark fell".to_owned());
                }
                after
            })
            .await;
        raised.map(|time| time.map(EventTime)).map_err(CloseError::Failed)
    }

    async fn raise_closed_before(&self, _: &Stream, closed_before: EventTime) -> Result<(), CloseError> {
        let raised = self.statement(|world| world.database.borrow_mut().raise_closed_before(closed_before.0)).await;
        raised.map_err(CloseError::Failed)
    }

    async fn close_windows(&self, _: &str, closed_before: EventTime, windows_max: i64) -> Result<Closed, CloseError> {
        let windows_max = windows_max as usize;
        turn().await;
        let (windows, snapshot) = self.world.database.borrow().snapshot(closed_before.0, windows_max);
        // Rows change between the snapshot and the delete.
        let folded = self.statement(|world| world.database.borrow_mut().fold(snapshot)).await;
        folded.map(|()| Closed { more: windows == windows_max, packed: false }).map_err(CloseError::Failed)
    }
}
