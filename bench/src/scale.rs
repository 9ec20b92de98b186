//! The same topic read by more and more hosts, each a process with its share of the partitions: what a record costs them, the
//! broker and PostgreSQL. All of them share this machine, so that this says nothing of how much faster they are together.

use std::time::{Duration, Instant};

use e2e::database::{Database, Server};
use e2e::host::{Host, Setup};
use e2e::kafka::Kafka;
use e2e::{topic, wait_for};
use serde_json::{Value, json};

use crate::cases::Case;
use crate::cost::{cpu, postgres_cpu};
use crate::load;
use crate::look::number;

const HOSTS: [usize; 4] = [1, 2, 4, 8];
const NAME: &str = "scale";
/// A topic of as many partitions, and no records: what hosts cost that start is not counted.
const EMPTY: &str = "scale-empty";
const TIME_MAX: Duration = Duration::from_secs(300);

const WAL: &str = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::int8";

/// Of everything, for one number of hosts, in microseconds a record.
struct Measured {
    hosts: f64,
    postgres: f64,
    kafka: f64,
    /// Bytes of PostgreSQL's write-ahead log a record.
    wal_bytes: f64,
    records_per_second: f64,
}

/// Measures it, prints it, and gives it as JSON.
pub fn run(kafka: &Kafka, postgres: &Server, case: &Case, records: usize) -> Value {
    load::fill(kafka, &topic(NAME), case, records);
    kafka.create_topic(&topic(EMPTY), case.partitions, &[]);
    println!(
        "\n| hosts | CPU µs a record: hosts | PostgreSQL | Kafka | WAL bytes a record | records/s |\n|---|---|---|---|---|---|"
    );
    let measured = HOSTS.map(|hosts| {
        let measured = measure(kafka, postgres, hosts, records);
        let Measured { hosts: own, postgres, kafka, wal_bytes, records_per_second } = measured;
        println!("| {hosts} | {own:.2} | {postgres:.2} | {kafka:.2} | {wal_bytes:.2} | {records_per_second:.0} |");
        json!({ "hosts": hosts, "hosts_us": own, "postgres_us": postgres, "kafka_us": kafka, "wal_bytes": wal_bytes,
                "records_per_second": records_per_second })
    });
    json!(measured)
}

fn measure(kafka: &Kafka, postgres: &Server, hosts: usize, records: usize) -> Measured {
    let start = |name: &str, database: &Database| -> Vec<Host> {
        let setup = || {
            let group = format!("{name}-{hosts}");
            Setup::against(&kafka.brokers, database, name)
                .replace(&format!("{name}-exchanges"), &group)
                .components(&["aggregator-exchanges"])
        };
        (0..hosts).map(|_| setup().start()).collect()
    };
    let used = |running: &[Host]| running.iter().map(|host| cpu(host.pid())).sum::<Duration>();
    let database = postgres.database();
    let idle = start(EMPTY, &database);
    idle.iter().for_each(Host::wait_until_ready);
    let starting = used(&idle);
    drop(idle);

    let database = postgres.database();
    // The migrations are not counted.
    start(EMPTY, &database).iter().for_each(Host::wait_until_ready);
    let mut look = database.client();
    let wal_before = number(&mut look, WAL);
    let (postgres_before, kafka_before) = (postgres_cpu(&database), cpu(kafka.pid()));
    let began = Instant::now();
    let running = start(NAME, &database);
    let total = i64::try_from(records).unwrap();
    wait_for("the end of the run", TIME_MAX, || {
        let applied = "SELECT coalesce(sum(next_offset), 0)::int8 FROM public.progress";
        (number(&mut look, applied) >= total).then_some(())
    });
    let wall = began.elapsed();
    let of_a_record = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(u32::try_from(records).unwrap());
    Measured {
        hosts: of_a_record(used(&running).saturating_sub(starting)),
        postgres: of_a_record(postgres_cpu(&database).saturating_sub(postgres_before)),
        kafka: of_a_record(cpu(kafka.pid()).saturating_sub(kafka_before)),
        wal_bytes: f64::from(u32::try_from(number(&mut look, WAL) - wal_before).unwrap_or(u32::MAX))
            / f64::from(u32::try_from(records).unwrap()),
        records_per_second: f64::from(u32::try_from(records).unwrap()) / wall.as_secs_f64(),
    }
}
