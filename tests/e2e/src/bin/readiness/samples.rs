//! What the host says, asked four times a second, and how true it was.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use e2e::http;

use crate::faults::Fault;
use crate::truth::Known;

const EVERY: Duration = Duration::from_millis(250);
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// How long after the last record was applied a host may still say that it is ready: docs/settings.md promises it.
const NOTICES_WITHIN: Duration = Duration::from_secs(5);
/// How long it may say that it is not ready although everything is applied.
const RECOVERS_WITHIN: Duration = Duration::from_secs(2);
/// How long after it says that it is ready the first record may be applied, when its way has become free: fetchers have
/// pauses of their own.
const RESUMES_WITHIN: Duration = Duration::from_secs(3);
/// The lag is asked of the broker every other second, and metrics have a time of their own.
const LAG_KNOWN_WITHIN: Duration = Duration::from_secs(5);

/// What the host said, beside what was so.
#[derive(Default)]
pub struct Said {
    looks: u32,
    unanswered: u32,
    faults: BTreeMap<Fault, u32>,
    wrongly_ready: u32,
    /// How long after the last record was applied it still said that it is ready, at the most.
    noticed_after: Duration,
    /// The longest time that it said that it is not ready although everything was applied.
    recovered_after: Duration,
    untrue_lags: u32,
    examples: Vec<String>,
}

impl Said {
    pub fn is_true(&self) -> bool {
        self.wrongly_ready == 0
            && self.recovered_after < RECOVERS_WITHIN
            && self.untrue_lags == 0
            && self.unanswered == 0
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: Vec<_> = self.faults.iter().map(|(fault, times)| format!("{fault:?} {times}")).collect();
        writeln!(f, "{}", faults.join(", "))?;
        for example in &self.examples {
            writeln!(f, "  {example}")?;
        }
        write!(
            f,
            "  of {} looks wrongly ready {}, unanswered {}, untrue lags {}; ready at most {:.1} s after the last record, \
             not ready at most {:.1} s although everything was applied",
            self.looks,
            self.wrongly_ready,
            self.unanswered,
            self.untrue_lags,
            self.noticed_after.as_secs_f64(),
            self.recovered_after.as_secs_f64(),
        )
    }
}

pub struct Samples {
    stop: Arc<AtomicBool>,
    fault: Arc<Mutex<Option<Fault>>>,
    thread: JoinHandle<Said>,
}

impl Samples {
    pub fn start(admin: u16, known: impl Fn() -> Known + Send + 'static) -> Self {
        let (stop, fault) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None)));
        let mut look = Look { admin, fault: Arc::clone(&fault), ..Look::default() };
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                look.once(&known);
                std::thread::sleep(EVERY);
            }
            look.said
        });
        Self { stop, fault, thread }
    }

    /// Which fault begins now, or that it ends.
    pub fn during(&self, fault: Option<Fault>) {
        *self.fault.lock().unwrap() = fault;
    }

    pub fn stop(self) -> Said {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

#[derive(Default)]
struct Look {
    admin: u16,
    fault: Arc<Mutex<Option<Fault>>>,
    before: Option<Fault>,
    /// The one that was there last.
    last: Option<Fault>,
    /// Since when Kafka was left alone.
    kafka_is_well_since: Option<Instant>,
    /// What was known in the last seconds.
    history: VecDeque<Known>,
    /// When it said that it is ready and nothing had been applied for too long, as long as nothing is.
    ready_in_silence: Vec<Known>,
    /// Since when it says that it is not ready although everything is applied.
    wrong_since: Option<Instant>,
    said: Said,
}

impl Look {
    fn once(&mut self, known: impl Fn() -> Known) {
        let fault = *self.fault.lock().unwrap();
        if fault != self.before
            && let Some(fault) = fault
        {
            *self.said.faults.entry(fault).or_default() += 1;
            self.last = Some(fault);
        }
        self.before = fault;
        self.said.looks += 1;
        let Some(answer) = http::try_get_within(self.admin, "/readyz", ANSWER_MAX) else {
            self.said.unanswered += 1;
            return;
        };
        let now = known();
        let silent = now.at - now.moved_at;
        if answer.status == 200 {
            self.wrong_since = None;
            if silent > NOTICES_WITHIN {
                self.ready_in_silence.push(now);
            } else {
                self.said.noticed_after = self.said.noticed_after.max(silent);
            }
        } else if fault.is_none() && now.works() {
            let since = *self.wrong_since.get_or_insert(now.at);
            let time = now.at - since;
            self.said.recovered_after = self.said.recovered_after.max(time);
            if time >= RECOVERS_WITHIN {
                self.tell(format!("everything is applied for {:.1} s: {}", time.as_secs_f64(), answer.body.trim()));
            }
        } else {
            self.wrong_since = None;
        }
        self.settle_silence(now);
        self.lag(now, known);
    }

    /// A host that says that it is ready as its way is free again has some time to apply the first record.
    fn settle_silence(&mut self, now: Known) {
        for ready in std::mem::take(&mut self.ready_in_silence) {
            let resumed = now.moved_at > ready.at;
            if !resumed && now.at - ready.at < RESUMES_WITHIN {
                self.ready_in_silence.push(ready);
            } else if !resumed {
                let silent = ready.at - ready.moved_at;
                self.said.wrongly_ready += 1;
                self.said.noticed_after = self.said.noticed_after.max(silent);
                self.tell(format!("ready {:.1} s after the last record was applied", silent.as_secs_f64()));
            }
        }
    }

    /// While Kafka is well, the lag lies between what was so a while ago and what is so now.
    fn lag(&mut self, now: Known, known: impl Fn() -> Known) {
        self.history.push_back(now);
        while self.history.get(1).is_some_and(|second| now.at - second.at > LAG_KNOWN_WITHIN) {
            self.history.pop_front();
        }
        let is_well = self.before.map_or_else(|| now.works(), Fault::leaves_kafka_alone);
        if !is_well {
            self.kafka_is_well_since = None;
            return;
        }
        let since = *self.kafka_is_well_since.get_or_insert(now.at);
        let Some(then) = self.history.front().filter(|then| then.at >= since && now.at - then.at >= LAG_KNOWN_WITHIN)
        else {
            return;
        };
        let Some(page) = http::try_get_within(self.admin, "/metrics", ANSWER_MAX * 5) else { return };
        let told: f64 = page
            .body
            .lines()
            .filter(|line| line.starts_with("exagg_kafka_lag_records{"))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum();
        #[expect(clippy::cast_possible_truncation, reason = "a number of records")]
        let told = told as i64;
        // Both go on while the answer is made.
        let after = known();
        let (least, most) = (then.sent - after.applied, after.sent - then.applied);
        if told < least || told > most {
            self.said.untrue_lags += 1;
            self.tell(format!("a lag of {told} records is told, and it is between {least} and {most}"));
        }
    }

    fn tell(&mut self, what: String) {
        if self.said.examples.len() < 20 {
            let when = if self.before.is_some() { "during" } else { "after" };
            let fault = self.last.map_or_else(String::new, |fault| format!("{when} {fault:?}: "));
            self.said.examples.push(format!("{}: {fault}{what}", chrono::Utc::now().format("%H:%M:%S%.3f")));
        }
    }
}
