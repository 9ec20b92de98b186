//! Producers, consumers (zombies among them), closers, the clock.

use std::rc::Rc;

use aggregator::apply;
use exagg_sdk::kafka::{Batch, Outcome};
use window::time::{EventTime, MICROS_PER_SECOND};
use window_closer::close::Closing;
use window_closer::database::Stream;

use crate::Feed;
use crate::connection::Connection;
use crate::schedule::{Tasks, turn};
use crate::world::{
    CLOSERS, CONSUMERS, FEED_SECONDS, IDLE_SECONDS, Kind, LATENESS_SECONDS, PARTITIONS, Record, STREAM, World,
};

/// The clock's step: far below the lateness, so that nobody is outrun by chance.
const TICK_US: i64 = 100_000;
/// How often a quiet partition says where it stands.
const HEARTBEAT_US: i64 = 2 * MICROS_PER_SECOND;
/// After which a silent consumer's partitions go to others.
const SESSION_US: i64 = 9 * MICROS_PER_SECOND;
const BATCH_MAX: usize = 20;
/// How far the times of a historic feed are behind the clock.
const HISTORY_SECONDS: i64 = 7_200;

pub fn spawn_all(world: &Rc<World>, tasks: &mut Tasks) {
    for partition in 0..PARTITIONS {
        tasks.spawn(produce(Rc::clone(world), partition));
        for consumer in 0..CONSUMERS {
            tasks.spawn(consume(Rc::clone(world), consumer, partition));
        }
    }
    for _ in 0..CLOSERS {
        tasks.spawn(close(Rc::clone(world)));
    }
    tasks.spawn(clock(Rc::clone(world)));
    tasks.spawn(faults(Rc::clone(world)));
}

/// Sends a record now and then, falls silent for a while, and goes on.
async fn produce(world: Rc<World>, partition: i32) {
    let mut next_us = world.clock_us.get();
    while world.seconds() < FEED_SECONDS {
        turn().await;
        if world.clock_us.get() < next_us {
            continue;
        }
        let pause = if world.one_in(40) { world.random.borrow_mut().i64(10..30) * MICROS_PER_SECOND } else { 0 };
        next_us = world.clock_us.get() + pause + world.random.borrow_mut().i64(1..8) * TICK_US;
        let records = world.random.borrow_mut().usize(1..4);
        for _ in 0..records {
            let record = record(&world);
            world.log.borrow_mut()[partition as usize].push(record);
        }
    }
    world.fed.set(world.fed.get() + 1);
}

fn record(world: &World) -> Record {
    let now_us = world.clock_us.get();
    let random = &mut *world.random.borrow_mut();
    let value = random.i64(-1_000..1_000);
    let code = random.choice(['a', 'b', 'c']).unwrap();
    let behind_us = if world.plan.feed == Feed::Historic { HISTORY_SECONDS * MICROS_PER_SECOND } else { 0 };
    let good = |time_us: i64| Kind::Good { code, value, time_us: (time_us - behind_us) / 1_000 * 1_000 };
    let kind = match (random.u32(..40), world.plan.feed) {
        (0, _) => Kind::Hole,
        (1, Feed::Wild) => Kind::Bad,
        (2, Feed::Wild) => Kind::Future,
        (3..6, Feed::Wild) => good(now_us - random.i64(0..60 * MICROS_PER_SECOND)),
        // Disorder below the lateness, less a second for the way to the database.
        _ => good(now_us - random.i64(0..(LATENESS_SECONDS - 1) * MICROS_PER_SECOND)),
    };
    let json = |time_us: i64| format!(r#"{{"code":"{code}","volume":{value},"time":{}}}"#, time_us / 1_000);
    let value = match kind {
        Kind::Hole => Vec::new(),
        Kind::Bad => b"{".to_vec(),
        Kind::Future => json(now_us + 86_400 * MICROS_PER_SECOND).into_bytes(),
        Kind::Good { time_us, .. } => json(time_us).into_bytes(),
    };
    Record { kind, value }
}

/// One consumer's task of one partition, with its own idea of where it stands.
async fn consume(world: Rc<World>, consumer: usize, partition: i32) {
    while !world.finished.get() {
        turn().await;
        if world.alive.borrow()[consumer] && world.reads(consumer, partition) {
            let life = world.lives.borrow()[consumer];
            live(&world, consumer, life, partition).await;
        }
    }
}

async fn live(world: &World, consumer: usize, life: u32, partition: i32) {
    let mut position = start(world, partition);
    let store = Connection { world, life: Some((consumer, life)) };
    let alive = || world.lives.borrow()[consumer] == life && !world.finished.get();
    let mut heard_us = None;
    while alive() && world.reads(consumer, partition) {
        turn().await;
        let stalled = world.clock_us.get() < world.stalled_until_us.borrow()[partition as usize];
        let quiet = stalled || position >= world.end(partition);
        if quiet && heard_us.is_some_and(|heard_us| world.clock_us.get() - heard_us < HEARTBEAT_US) {
            continue;
        }
        // The first call is empty: the function's own progress decides where to go on.
        let records = if stalled || heard_us.is_none() { 0 } else { world.random.borrow_mut().usize(1..BATCH_MAX) };
        let batch = batch(world, partition, position, records);
        heard_us = Some(world.clock_us.get());
        match apply::run(&batch, &world.settings, &store, world.now_of(consumer)).await {
            Ok(Outcome::Applied) => {
                position = batch.next_offset as usize;
                if alive() {
                    world.committed.borrow_mut()[partition as usize] = position;
                }
            }
            Ok(Outcome::ResumeAt(offset)) => position = offset as usize,
            Ok(Outcome::RetryLater(_)) | Err(_) => {}
            Ok(other) => world.violations.borrow_mut().push(format!("{other:?}")),
        }
    }
}

/// The group's offset, or wherever somebody has set it.
fn start(world: &World, partition: i32) -> usize {
    // The first start is written down before anything is read: nobody may begin further on.
    let begun = world.database.borrow().progress.contains_key(&partition);
    if begun && world.fault(3) {
        return world.random.borrow_mut().usize(..=world.end(partition));
    }
    world.committed.borrow()[partition as usize]
}

fn batch(world: &World, partition: i32, position: usize, records_max: usize) -> Batch {
    let log = world.log.borrow();
    let log = &log[partition as usize];
    let next = log.len().min(position + records_max).max(position);
    let taken: Vec<_> =
        (position..next).map(|offset| (offset, &log[offset])).filter(|(_, r)| r.kind != Kind::Hole).collect();
    Batch {
        topic: "t".into(),
        topic_id: "id".into(),
        partition,
        partition_count: PARTITIONS,
        group: "g".into(),
        from_offset: position as i64,
        next_offset: next as i64,
        end_offset: log.len() as i64,
        lost: None,
        offsets: taken.iter().map(|(offset, _)| *offset as i64).collect(),
        timestamps: vec![-1; taken.len()],
        keys: Vec::new(),
        key_lengths: vec![-1; taken.len()],
        values: taken.iter().flat_map(|(_, record)| record.value.clone()).collect(),
        value_lengths: taken.iter().map(|(_, record)| record.value.len() as i32).collect(),
        headers: Vec::new(),
    }
}

/// One closer of several.
async fn close(world: Rc<World>) {
    while !world.finished.get() {
        turn().await;
        let now = EventTime(world.clock_us.get());
        let Some(partitions) = world.database.borrow().partitions(now.0) else { continue };
        let pending_us = world.database.borrow().pending_us(now.0);
        let candidate = world.database.borrow().candidate(now.0);
        let (watermark_us, closed_before_us, held_by) = {
            let database = world.database.borrow();
            (database.watermark_us, database.closed_before_us, database.held_by.clone())
        };
        let stream = Stream {
            stream: STREAM.to_owned(),
            settings_revision: 0,
            allowed_lateness_seconds: LATENESS_SECONDS,
            idle_timeout_seconds: IDLE_SECONDS,
            late: world.settings.late,
            watermark_us,
            held_by,
            closed_before_us,
            pending_us,
            candidate,
            partitions,
        };
        let store = Connection { world: &world, life: None };
        if let Ok(Some(mut closing)) = Closing::begin(&store, &stream, now).await {
            while let Ok(true) = closing.step(&store).await {}
        }
    }
}

/// Time passes; when everything is sent the faults end, and when everything is closed the run does.
async fn clock(world: Rc<World>) {
    while !world.finished.get() {
        turn().await;
        world.clock_us.set(world.clock_us.get() + TICK_US);
        if world.fed.get() == PARTITIONS as usize && !world.calm.get() {
            world.calm.set(true);
            world.stalled_until_us.borrow_mut().fill(0);
            world.alive.borrow_mut().fill(true);
        }
        let read = |database: &crate::database::Database| {
            (0..PARTITIONS).all(|partition| {
                database.progress.get(&partition).is_some_and(|p| p.next_offset as usize == world.end(partition))
            })
        };
        let database = world.database.borrow();
        world.finished.set(world.calm.get() && read(&database) && database.state.is_empty());
    }
}

/// `kill -9` and a new start some time later, rebalances that leave zombies, a broker that gives
/// nothing for a while.
async fn faults(world: Rc<World>) {
    while !world.finished.get() {
        turn().await;
        adopt_orphans(&world);
        if world.fault(300) {
            let partition = world.random.borrow_mut().usize(..PARTITIONS as usize);
            world.stalled_until_us.borrow_mut()[partition] = soon(&world, 5..25);
        }
        let consumer = world.random.borrow_mut().usize(..CONSUMERS);
        if world.fault(200) {
            let partition = world.random.borrow_mut().i32(0..PARTITIONS);
            give(&world, partition, consumer);
        }
        if world.alive.borrow()[consumer] {
            if world.fault(80) {
                world.alive.borrow_mut()[consumer] = false;
                world.lives.borrow_mut()[consumer] += 1;
                world.died_us.borrow_mut()[consumer] = world.clock_us.get();
            }
        } else if world.one_in(40) {
            world.alive.borrow_mut()[consumer] = true;
        }
    }
}

fn soon(world: &World, seconds: std::ops::Range<i64>) -> i64 {
    world.clock_us.get() + world.random.borrow_mut().i64(seconds) * MICROS_PER_SECOND
}

/// Gives a partition to a consumer; who had it may go on for a while.
fn give(world: &World, partition: i32, consumer: usize) {
    let before = std::mem::replace(&mut world.owners.borrow_mut()[partition as usize], consumer);
    let until_us = soon(world, 0..10);
    world.zombie_until_us.borrow_mut().insert((before, partition), until_us);
}

/// What a dead consumer had goes to another when its session has ended.
fn adopt_orphans(world: &World) {
    for partition in 0..PARTITIONS {
        let owner = world.owners.borrow()[partition as usize];
        let ended = world.clock_us.get() - world.died_us.borrow()[owner] > SESSION_US;
        let heir = world.alive.borrow().iter().position(|alive| *alive);
        if let Some(heir) = heir
            && ended
            && !world.alive.borrow()[owner]
        {
            give(world, partition, heir);
        }
    }
}
