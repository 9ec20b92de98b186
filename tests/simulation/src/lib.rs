//! The real protocol (`aggregator::apply`, `window_closer::close`) over a model of Kafka and
//! PostgreSQL, under schedules and faults that a seed decides: thousands of them in seconds.
//!
//! # Layout
//! - [`schedule`]: tasks, polled in an order that the seed decides.
//! - [`world`]: the log, the clock, and how faults strike.
//! - [`database`]: the tables, and each statement as one atomic step.
//! - [`connection`]: the functions' view of it: statements that fail before or after their effect.
//! - [`actors`]: producers, consumers (zombies among them), closers, the clock.
//! - [`verdict`]: what must hold at the end, whatever happened.
//!
//! A statement is atomic here and runs at READ COMMITTED in PostgreSQL: what differs (a delete by
//! an older snapshot) is modelled in two steps where it matters.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "test support: small numbers, and a failure is a panic"
)]

pub mod actors;
pub mod connection;
pub mod database;
pub mod schedule;
pub mod verdict;
pub mod world;

use std::rc::Rc;

use crate::schedule::Tasks;
use crate::world::World;

/// What records the producers send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feed {
    /// Bad, future and very late ones among them.
    Wild,
    /// Disorder stays within the lateness: nothing may come late, whoever dies.
    Punctual,
    /// The same, hours behind the clock: a source falls silent and goes on from its own time.
    Historic,
}

/// One mechanism taken out, to see that the verdict notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    Nothing,
    /// The progress moves without a look at where it is.
    NoCompareAndSet,
    /// The partial aggregates are written although the fence held.
    StateWithoutFence,
    /// What was rejected is written although the fence held, without its key.
    RejectsWithoutFence,
    /// The closer folds what it read before, and deletes what is there now.
    CloserReadsTwice,
    /// A row that is there already is replaced.
    CloserReplaces,
    /// The watermark is set, not raised.
    WatermarkFalls,
    /// In reject mode nobody looks again whether the window is still open.
    NoShareLock,
    /// A host whose clock is behind rejects records of now.
    HostsClockRejects,
    /// A host whose clock is ahead counts records of the future.
    HostsClockPasses,
    /// A partition that lags counts as caught up.
    LagLooksIdle,
    /// A partition without a consumer counts as attended.
    DeadLooksAlive,
    /// Partitions that no consumer has reported yet do not count.
    UnreportedIsIgnored,
    /// Silence moves the watermark further than closing what is pending needs.
    IdleFollowsTheClock,
    /// What others came to counts although an idle partition was not heard of since.
    CandidatesCountAtOnce,
}

/// A run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    pub feed: Feed,
    pub late: window::late::Late,
    pub broken: Broken,
}

/// Runs to the end and says what is wrong: nothing, if all is well.
pub fn run(plan: Plan) -> Vec<String> {
    let world = Rc::new(World::new(plan));
    let mut tasks = Tasks::default();
    actors::spawn_all(&world, &mut tasks);
    let ended = tasks.run(&world.random);
    let mut wrong = verdict::check(&world);
    if !ended {
        wrong.push("the run did not come to its end".to_owned());
    }
    wrong
}
