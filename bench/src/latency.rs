//! How long a record takes to be seen, and a host to start, under a steady 1,000 records a second.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::database::Server;
use e2e::host::Setup;
use e2e::kafka::{Kafka, Sender};
use e2e::{exchange, now, topic, wait_for};

const NAME: &str = "latency";
const RECORDS_PER_SECOND: u64 = 1_000;
const PROBES: usize = 300;
const SECOND: Duration = Duration::from_secs(1);

pub fn run(kafka: &Kafka, postgres: &Server) {
    let database = postgres.database();
    kafka.create_topic(&topic(NAME), 4, &[]);
    let sender = kafka.producer();
    let send = |sender: &Sender, code: &str| {
        sender.send(
            &topic(NAME),
            i32::try_from(fastrand::usize(..4)).unwrap(),
            None,
            Some(exchange(code, 1.0, now()).as_bytes()),
        );
    };
    let setup =
        || Setup::against(&kafka.brokers, &database, NAME).components(&["aggregator-exchanges", "window-closer"]);
    // The first start fills the cache of compiled code, makes the tables, and is not counted.
    let mut host = setup().start();
    host.wait_until_ready();
    host.stop();
    send(&sender, "EX");
    sender.flush();
    let began = Instant::now();
    let _host = setup().start();
    let applied = "SELECT coalesce(sum(records), 0)::int8 FROM public.live_aggregates";
    wait_for("the first applied batch", SECOND * 60, || (database.number(applied) > 0).then_some(()));
    println!("start: {} ms to the first applied batch, warm", began.elapsed().as_millis());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let sender = kafka.producer();
            while !stop.load(Ordering::Relaxed) {
                for number in 0..RECORDS_PER_SECOND / 100 {
                    send(&sender, &format!("EX{number}"));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let mut client = database.client();
        let seen =
            client.prepare("SELECT count(*) FROM public.live_aggregates WHERE stream = 'exchanges' AND code = $1");
        let seen = seen.unwrap();
        let mut times: Vec<Duration> = (0..PROBES)
            .map(|number| {
                let code = format!("PROBE{number}");
                let produced = Instant::now();
                send(&sender, &code);
                while client.query_one(&seen, &[&code]).unwrap().get::<_, i64>(0) == 0 {
                    std::thread::sleep(Duration::from_micros(500));
                }
                produced.elapsed()
            })
            .collect();
        stop.store(true, Ordering::Relaxed);
        times.sort_unstable();
        let at = |percent: usize| times[PROBES * percent / 100].as_millis();
        println!(
            "latency at {RECORDS_PER_SECOND} records/s: p50 {} ms, p99 {} ms from produce to live_aggregates",
            at(50),
            at(99)
        );
    });
}
