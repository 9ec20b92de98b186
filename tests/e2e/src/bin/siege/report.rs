//! The figures, and what they say of each promise.

use std::collections::BTreeMap;

use e2e::oracle::Difference;

use crate::MEMORY_BYTES_MAX;
use crate::attacks::{Counts, of};
use crate::flow::Span;
use crate::group::Cage;
use crate::watch::{Held, Watch};

const THROUGHPUT_MIN: f64 = 0.8;
const P99_MS_MAX: usize = 250;
const REST_BYTES_MAX: u64 = 350 << 20;
/// How much more than at the start may stay open: connections that are kept for the next call.
const DESCRIPTORS_MORE: usize = 48;
const THREADS_MORE: u64 = 16;

/// All that was found out.
pub struct Findings<'a> {
    pub cage: &'a Cage,
    pub watch: &'a Watch<'a>,
    pub pid: u32,
    pub calm: &'a Span,
    pub siege: &'a Span,
    pub counts: &'a Counts,
    /// At rest again.
    pub rest: Held,
    pub is_settled: bool,
    pub records: i64,
    pub rows: usize,
    pub difference: &'a Difference,
    /// By reason: as sent, and as stored.
    pub rejects_sent: BTreeMap<String, i64>,
    pub rejects: BTreeMap<String, i64>,
    pub same_code: bool,
}

/// Whether the host is back to what it held at its start.
pub fn is_at_rest(start: Held, held: Held) -> bool {
    held.bytes < REST_BYTES_MAX
        && held.descriptors <= start.descriptors + DESCRIPTORS_MORE
        && held.threads <= start.threads + THREADS_MORE
}

fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

/// Prints a verdict and gives it.
fn verdict(promise: &str, holds: bool) -> bool {
    println!("  {promise}: {}", if holds { "holds" } else { "DOES NOT HOLD" });
    holds
}

impl Findings<'_> {
    /// Prints all; true when no promise of correctness is broken.
    pub fn print(&self) -> bool {
        self.flow();
        self.host();
        self.attacks();
        self.reasons();
        println!("promises of correctness:");
        let correct = self.correctness();
        println!("promises of speed and size, measured and not asserted:");
        self.measured();
        correct
    }

    fn ratio(&self) -> f64 {
        self.siege.applied_per_second / self.calm.applied_per_second.max(1.0)
    }

    fn flow(&self) {
        let (calm, siege) = (self.calm, self.siege);
        println!(
            "throughput: calm {:.0}/s sent, {:.0}/s applied; under siege {:.0}/s sent, {:.0}/s applied; ratio {:.3}",
            calm.sent_per_second,
            calm.applied_per_second,
            siege.sent_per_second,
            siege.applied_per_second,
            self.ratio()
        );
        let latency = |span: &Span| [50, 99].map(|percent| span.latencies.percentile(percent));
        let ([p50, p99], [siege_p50, siege_p99]) = (latency(calm), latency(siege));
        println!(
            "produced to applied: calm p50 {p50} ms, p99 {p99} ms; under siege p50 {siege_p50} ms, p99 {siege_p99} ms"
        );
        println!(
            "{} records in {} rows: lost {}, doubled {}, wrong {}{}",
            self.records,
            self.rows,
            self.difference.lost,
            self.difference.doubled,
            self.difference.wrong,
            if self.is_settled { "" } else { "; NOT ALL WAS APPLIED AND CLOSED IN TIME" }
        );
        println!("rejects: {:?}, expected {:?}", self.rejects, self.rejects_sent);
    }

    fn host(&self) {
        let watch = self.watch;
        println!(
            "memory: start {} MiB, most {} MiB (with files {} MiB), at rest {} MiB; ended for want of it: {}",
            mib(watch.start.bytes),
            mib(watch.most.bytes),
            mib(self.cage.peak(self.pid)),
            mib(self.rest.bytes),
            self.cage.kills().map_or("nobody counts".to_owned(), |kills| kills.to_string()),
        );
        println!(
            "descriptors: start {}, most {}, at rest {}; threads: start {}, most {}, at rest {}; log {} MiB",
            watch.start.descriptors,
            watch.most.descriptors,
            self.rest.descriptors,
            watch.start.threads,
            watch.most.threads,
            self.rest.threads,
            mib(watch.log_bytes())
        );
        println!(
            "probes: {}, the slowest {} ms, not answered {}; ready {}, not ready {}, untrue reasons {}",
            watch.probes,
            watch.slowest.as_millis(),
            watch.unanswered,
            watch.ready,
            watch.not_ready,
            watch.untrue
        );
    }

    fn attacks(&self) {
        let counts = self.counts;
        println!(
            "dashboard meanwhile: {} pages, {} failed, the slowest {} ms",
            of(&counts.pages),
            of(&counts.pages_failed),
            of(&counts.page_ms_max)
        );
        println!(
            "attacks: {} bombs, {} words, {} traps, {} idle clients, {} requests",
            of(&counts.bombs),
            of(&counts.words),
            of(&counts.traps),
            of(&counts.clients),
            of(&counts.requests)
        );
        println!(
            "swaps: {} refused, {} given up by who asked, {} done",
            of(&counts.swaps_refused),
            of(&counts.swaps_given_up),
            of(&counts.swaps_done)
        );
    }

    fn reasons(&self) {
        println!("reasons not to be ready:");
        for (reason, times) in &self.watch.reasons {
            println!("  {times} times: {reason}");
        }
        for complaint in self.watch.complaints.iter().chain(&self.difference.examples) {
            println!("  COMPLAINT: {complaint}");
        }
    }

    fn correctness(&self) -> bool {
        let (watch, counts) = (self.watch, self.counts);
        let within = match self.cage.kills() {
            Some(kills) => kills == 0,
            None => self.cage.peak(self.pid) <= MEMORY_BYTES_MAX,
        };
        [
            verdict("nothing ended for want of memory", within),
            verdict("the same process all the time", watch.is_alive()),
            verdict("no record lost, doubled or wrong", self.is_settled && self.difference.is_none()),
            verdict("each bad record and bomb is one reject", self.rejects == self.rejects_sent),
            verdict("every probe is answered within 2 s", watch.unanswered == 0),
            verdict("readiness names no stage that works", watch.untrue == 0),
            verdict("no refused code ran", of(&counts.swaps_done) == 0 && self.same_code),
        ]
        .into_iter()
        .all(|holds| holds)
    }

    fn measured(&self) {
        let p99 = self.siege.latencies.percentile(99);
        verdict("throughput within 20 % of the calm", self.ratio() >= THROUGHPUT_MIN);
        verdict("p99 below 250 ms", p99 < P99_MS_MAX);
        verdict("memory, descriptors and threads go back", is_at_rest(self.watch.start, self.rest));
        verdict("the dashboard answers each time", of(&self.counts.pages_failed) == 0);
    }
}
