//! The log, the clock, and how faults strike.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use aggregator::settings::{MadeWith, OnSettingsChange, Settings};
use exagg_sdk::postgres::Address;
use window::event::Schema;
use window::fields::{FieldNames, Places};
use window::time::{EventTime, MICROS_PER_SECOND, TimeFormat};
use window::windows::Windows;

use crate::Plan;
use crate::database::Database;

pub const PARTITIONS: i32 = 3;
/// By how much the consumers' clocks are wrong.
const CLOCKS_AHEAD_SECONDS: [i64; 3] = [0, -90, 86_400 + 600];
pub const CONSUMERS: usize = 3;
pub const CLOSERS: usize = 2;
pub const STREAM: &str = "s";
pub const WINDOW_SECONDS: i64 = 10;
pub const LATENESS_SECONDS: i64 = 3;
pub const IDLE_SECONDS: i64 = 8;
pub const MAX_FUTURE_SECONDS: i64 = 60;
/// How long the producers send.
pub const FEED_SECONDS: i64 = 90;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A transaction's marker, or compacted away: an offset without a record.
    Hole,
    Good {
        code: char,
        value: i64,
        time_us: i64,
    },
    Bad,
    Future,
}

#[derive(Clone, Debug)]
pub struct Record {
    pub kind: Kind,
    pub value: Vec<u8>,
}

pub struct World {
    pub plan: Plan,
    pub settings: Settings,
    pub random: RefCell<fastrand::Rng>,
    pub clock_us: Cell<i64>,
    pub began_us: i64,
    pub log: RefCell<Vec<Vec<Record>>>,
    /// The group's offsets, which may be anything: the operator's hand is among the faults.
    pub committed: RefCell<Vec<usize>>,
    /// When each partition is first given to a consumer.
    pub assigned_us: Vec<i64>,
    /// Which consumer has each partition.
    pub owners: RefCell<Vec<usize>>,
    /// Until when a consumer goes on with a partition that it has lost, by (consumer, partition).
    pub zombie_until_us: RefCell<BTreeMap<(usize, i32), i64>>,
    /// Until when nothing is fetched of a partition, though its consumers live.
    pub stalled_until_us: RefCell<Vec<i64>>,
    /// How often each consumer has died: work begun in an earlier life ends.
    pub lives: RefCell<Vec<u32>>,
    pub alive: RefCell<Vec<bool>>,
    pub died_us: RefCell<Vec<i64>>,
    pub database: RefCell<Database>,
    /// Producers have sent everything.
    pub fed: Cell<usize>,
    /// No more faults: what is left is worked off.
    pub calm: Cell<bool>,
    pub finished: Cell<bool>,
    /// What an actor saw that must not be.
    pub violations: RefCell<Vec<String>>,
}

impl World {
    pub fn new(plan: Plan) -> Self {
        let windows = Windows::new(WINDOW_SECONDS, WINDOW_SECONDS).unwrap();
        let schema = Schema {
            names: FieldNames { key: "code".into(), value: "volume".into(), time: "time".into() },
            places: Places::default(),
            numbers_in_text: false,
            time_format: TimeFormat::new("unix_millis", "UTC").unwrap(),
            max_future_seconds: MAX_FUTURE_SECONDS,
        };
        let settings = Settings {
            stream: STREAM.into(),
            schema,
            windows,
            allowed_lateness_seconds: LATENESS_SECONDS,
            idle_timeout_seconds: IDLE_SECONDS,
            late: plan.late,
            on_settings_change: OnSettingsChange::Replay,
            made_with: MadeWith::default(),
            address: Address::new(String::new(), "").unwrap(),
        };
        let began_us = 1_700_000_000 * MICROS_PER_SECOND;
        let partitions = PARTITIONS as usize;
        let mut random = fastrand::Rng::with_seed(plan.seed);
        let assigned = |_| began_us + random.i64(0..20) * MICROS_PER_SECOND;
        Self {
            plan,
            settings,
            assigned_us: (0..partitions).map(assigned).collect(),
            owners: RefCell::new((0..partitions).map(|partition| partition % CONSUMERS).collect()),
            zombie_until_us: RefCell::default(),
            stalled_until_us: RefCell::new(vec![began_us; partitions]),
            random: RefCell::new(random),
            clock_us: Cell::new(began_us),
            began_us,
            log: RefCell::new(vec![Vec::new(); partitions]),
            committed: RefCell::new(vec![0; partitions]),
            lives: RefCell::new(vec![0; CONSUMERS]),
            alive: RefCell::new(vec![true; CONSUMERS]),
            died_us: RefCell::new(vec![0; CONSUMERS]),
            database: RefCell::new(Database::new(plan.broken)),
            fed: Cell::new(0),
            calm: Cell::new(false),
            finished: Cell::new(false),
            violations: RefCell::default(),
        }
    }

    pub fn now(&self) -> EventTime {
        EventTime(self.clock_us.get())
    }

    /// The time by a consumer's own clock, which may be behind, or ahead by more than a record of the future is.
    pub fn now_of(&self, consumer: usize) -> EventTime {
        EventTime(self.clock_us.get() + CLOCKS_AHEAD_SECONDS[consumer % CLOCKS_AHEAD_SECONDS.len()] * MICROS_PER_SECOND)
    }

    pub fn seconds(&self) -> i64 {
        (self.clock_us.get() - self.began_us) / MICROS_PER_SECOND
    }

    /// Whether a consumer reads a partition: as its own, or because it does not know better yet.
    pub fn reads(&self, consumer: usize, partition: i32) -> bool {
        let now_us = self.clock_us.get();
        let zombie = || self.zombie_until_us.borrow().get(&(consumer, partition)).is_some_and(|until| now_us < *until);
        now_us >= self.assigned_us[partition as usize]
            && (self.owners.borrow()[partition as usize] == consumer || zombie())
    }

    /// True once in so many times.
    pub fn one_in(&self, times: u32) -> bool {
        self.random.borrow_mut().u32(..times) == 0
    }

    pub fn fault(&self, times: u32) -> bool {
        !self.calm.get() && self.one_in(times)
    }

    pub fn end(&self, partition: i32) -> usize {
        self.log.borrow()[partition as usize].len()
    }
}
