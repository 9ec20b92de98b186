//! Two million records equal an independent computation.

use std::time::Duration;

use e2e::oracle::{Counted, Oracle};
use e2e::wait_for;

use super::{EXCHANGES, World, exchange, now, topic, wait_until_closed};

const RECORDS: usize = 2_000_000;
const PARTITIONS: i32 = 8;
const WINDOWS: i64 = 30;
const CODES: [&str; 10] =
    ["BINANCE", "COINBASE", "KRAKEN", "OKX", "BYBIT", "KUCOIN", "BITFINEX", "GATE", "BITSTAMP", "GEMINI"];
/// The host's own memory over the whole run.
const MEMORY_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Sends seeded records over 30 windows of the past, roughly in order of time, and counts them.
fn send(world: &World, topic: &str, keyed: bool) -> Oracle {
    let sender = world.kafka().producer();
    let mut random = fastrand::Rng::with_seed(7);
    let mut oracle = Oracle::default();
    let mut offsets = [0i64; PARTITIONS as usize];
    let first = (now() / 60 - WINDOWS - 5) * 60;
    for number in 0..RECORDS {
        let index = random.usize(..CODES.len());
        let code = CODES[index];
        let volume = (random.f64() * 1e12).round() / 100.0;
        // A few seconds of disorder.
        let time = first
            + (WINDOWS * 60 - 5) * i64::try_from(number).unwrap() / i64::try_from(RECORDS).unwrap()
            + random.i64(0..5);
        let partition = i32::try_from(if keyed { index } else { number }).unwrap() % PARTITIONS;
        let key = keyed.then_some(code.as_bytes());
        sender.send(topic, partition, key, Some(exchange(code, volume, time).as_bytes()));
        let offset = &mut offsets[usize::try_from(partition).unwrap()];
        let counted =
            Counted { code: code.to_owned(), value: volume, time_us: time * 1_000_000, partition, offset: *offset };
        oracle.count(&counted, 60, 60);
        *offset += 1;
    }
    sender.flush();
    oracle
}

fn assert_exact(world: &World, name: &str, keyed: bool, kill_in_the_middle: bool) {
    let database = world.postgres.database();
    let topic = topic(name);
    world.kafka().create_topic(&topic, PARTITIONS, &[]);
    let oracle = send(world, &topic, keyed);
    let mut host = world.setup(&database, name).components(&EXCHANGES).start();
    let progress = || database.number("SELECT coalesce(sum(next_offset), 0)::int8 FROM public.progress");
    if kill_in_the_middle {
        let middle = i64::try_from(RECORDS / 4).unwrap();
        wait_for("a quarter of the records", Duration::from_secs(120), || (progress() > middle).then_some(()));
        host.kill();
        assert!(progress() < i64::try_from(RECORDS).unwrap(), "killed too late to show anything");
        host.restart();
    }
    wait_for("all records", Duration::from_secs(240), || (progress() == i64::try_from(RECORDS).unwrap()).then_some(()));
    wait_until_closed(&database, "exchanges");
    assert_eq!((oracle.rows(), oracle.records()), (300, i64::try_from(RECORDS).unwrap()));
    oracle.assert_equal(&database, "exchanges");
    assert_eq!(database.number("SELECT count(*) FROM public.rejected_records"), 0);
    let peak = host.peak_memory();
    println!("{name}: the host's peak memory was {} MiB", peak / (1024 * 1024));
    assert!(peak < MEMORY_BYTES_MAX, "the host took {peak} bytes");
}

pub fn two_million_keyed_records(world: &World) {
    assert_exact(world, "equal-keyed", true, false);
}

pub fn two_million_records_without_keys_and_a_kill_in_the_middle(world: &World) {
    assert_exact(world, "equal-plain", false, true);
}
