//! Records that are small on the wire and large in memory.

use std::time::Duration;

use e2e::wait_for;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::{EXCHANGES, World, exchange, now, topic, wait_for_records};

const MINUTE: Duration = Duration::from_secs(60);
const BOMB_BYTES: usize = 140_000_000;
/// What is kept of a large value.
const KEPT_BYTES: usize = 65_536;
const MEMORY_BYTES_MAX: u64 = 300 * 1024 * 1024;
const CODECS: [&str; 4] = ["gzip", "zstd", "lz4", "snappy"];

/// A good record, the value, a good record: in one batch.
fn send_between_good_ones(world: &World, topic: &str, codec: &str, value: &[u8], time: i64) {
    let producer: BaseProducer = world
        .kafka()
        .config()
        .set("compression.type", codec)
        .set("message.max.bytes", "200000000")
        .set("batch.size", "200000000")
        .set("linger.ms", "2000")
        .set("message.timeout.ms", "120000")
        .create()
        .unwrap();
    let good = exchange("GOOD", 1.0, time);
    for value in [good.as_bytes(), value, good.as_bytes()] {
        let record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).partition(0).payload(value);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(2 * MINUTE).unwrap();
    assert_eq!(producer.in_flight_count(), 0, "{codec}");
}

fn wait_for_progress(database: &e2e::database::Database, next_offset: i64) {
    wait_for(&format!("progress to {next_offset}"), 2 * MINUTE, || {
        let progress = database.number("SELECT coalesce(sum(next_offset), 0)::int8 FROM public.progress");
        (progress == next_offset).then_some(())
    });
}

/// Take out: `rd_gz_decompress` or `rd_kafka_zstd_decompress` from `WRAPPED` in `host/exagg/build.rs`. Then librdkafka
/// unpacks, and the peak of memory shows it.
pub fn a_record_that_unpacks_to_more_than_its_limit_becomes_a_reject(world: &World) {
    let (database, name) = (world.postgres.database(), "bombs");
    let topic = topic(name);
    world.kafka().create_topic(&topic, 1, &[("max.message.bytes", "20000000")]);
    let (bomb, time) = (vec![b' '; BOMB_BYTES], now() - 30);
    for codec in CODECS {
        send_between_good_ones(world, &topic, codec, &bomb, time);
    }
    let mut host = world.setup(&database, name).components(&EXCHANGES).start();
    let batches = i64::try_from(CODECS.len()).unwrap();
    wait_for_progress(&database, 3 * batches);
    wait_for_records(&database, "exchanges", 2 * batches);
    let rows = database
        .client()
        .query(
            "SELECT record_offset, reason, value_bytes, value FROM public.rejected_records ORDER BY record_offset",
            &[],
        )
        .unwrap();
    assert_eq!(rows.len(), CODECS.len());
    for (row, codec) in rows.iter().zip(CODECS) {
        assert_eq!(row.get::<_, i64>(0) % 3, 1, "{codec}");
        assert_eq!(row.get::<_, String>(1), "too_large", "{codec}");
        assert_eq!(row.get::<_, Option<i64>>(2), Some(i64::try_from(BOMB_BYTES).unwrap()), "{codec}");
        assert_eq!(row.get::<_, Option<Vec<u8>>>(3), Some(vec![b' '; KEPT_BYTES]), "{codec}");
    }
    assert!(host.peak_memory() < MEMORY_BYTES_MAX, "{} bytes at the peak", host.peak_memory());
    // A restart reads none of it again, and goes on.
    host.kill();
    host.restart();
    send_between_good_ones(world, &topic, "none", b"nonsense", time);
    wait_for_progress(&database, 3 * batches + 3);
    assert!(host.peak_memory() < MEMORY_BYTES_MAX, "{} bytes at the peak", host.peak_memory());
}

/// Take out: `bury_oversized` in `Dispatcher::dispatch`. Then the function makes a reject of it.
pub fn a_function_that_is_not_given_cut_records_has_them_as_dead_letters(world: &World) {
    let (database, name) = (world.postgres.database(), "bombs-dead");
    let (topic, dead) = (topic(name), format!("{name}.dead"));
    world.kafka().create_topic(&topic, 1, &[("max.message.bytes", "4000000")]);
    world.kafka().create_topic(&dead, 1, &[]);
    let (large, time) = (vec![b'x'; 2_000_000], now() - 30);
    // One is cut while it is unpacked, the other as it is read.
    for codec in ["gzip", "none"] {
        send_between_good_ones(world, &topic, codec, &large, time);
    }
    let settings = format!("on_poison = \"dead-letter\"\ndead_letter_topic = \"{dead}\"");
    let setup = world.setup(&database, name).replace("on_oversized = \"give\"", &settings);
    let _host = setup.components(&EXCHANGES).start();
    wait_for_progress(&database, 6);
    wait_for_records(&database, "exchanges", 4);
    assert_eq!(database.number("SELECT count(*) FROM public.rejected_records"), 0);
    let letters = world.kafka().read_all(&dead, 1);
    assert!(letters.len() >= 2, "{}", letters.len());
    for letter in letters {
        let header = |name: &str| letter.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        assert_eq!(letter.value.as_deref(), Some(&large[..KEPT_BYTES]));
        assert_eq!(header("exagg-value-bytes"), Some("2000000"));
        assert_eq!((header("exagg-key-bytes"), header("exagg-cut")), (None, None));
        assert!(header("exagg-reason").unwrap().contains("record_bytes_max"));
    }
}
