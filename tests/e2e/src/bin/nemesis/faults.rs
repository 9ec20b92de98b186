//! What happens to the hosts and the servers, as the seed decides.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use e2e::database::{Database, Server};
use e2e::gate::Gate;
use e2e::host::{Host, function, variant};
use e2e::kafka::Kafka;
use e2e::{outages, topic};

use crate::hosts::{Bounds, Readiness, State, Victim};
use crate::watch::Pause;
use crate::{HOSTS, PARTITIONS, PARTITIONS_ADDED, Shape};

const STOP_MAX: Duration = Duration::from_secs(60);
/// The longest a host is frozen, and the longest that anything else lasts.
const FREEZE_SECONDS: f64 = 60.0;
const FAULT_SECONDS: f64 = 8.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Kill,
    Stop,
    Freeze,
    /// Connections to PostgreSQL, or to Kafka, are cut.
    Cut,
    CutKafka,
    /// Nothing passes to it or back, and nobody says so.
    Hold,
    HoldKafka,
    /// Statements pass, answers do not.
    Deafen,
    /// Answers of PostgreSQL come 300 ms late.
    Slow,
    /// `kill -9` of a PostgreSQL process: the server recovers from its log.
    CrashPostgres,
    /// PostgreSQL stands still, and half of the times a host is told to stop meanwhile.
    FreezePostgres,
    /// Connections are ended one after the other.
    Storm,
    /// No connection is left.
    Exhaust,
    /// PostgreSQL's disk is full.
    FillDisk,
    /// Somebody holds locks on the tables.
    Lock,
    /// `kill -9` of the broker.
    CrashKafka,
    /// The aggregator is swapped: for another version of itself, or for one that traps at each call
    /// and has to go by itself.
    Swap,
    /// While nobody reads, the group's offsets are set to anything, back or forth, or the group is deleted.
    Regroup,
}

/// With how often each is chosen.
const FAULTS: [(Fault, u32); 18] = [
    (Fault::Kill, 6),
    (Fault::Stop, 4),
    (Fault::Freeze, 3),
    (Fault::Cut, 4),
    (Fault::CutKafka, 3),
    (Fault::Hold, 4),
    (Fault::HoldKafka, 3),
    (Fault::Deafen, 4),
    (Fault::Slow, 3),
    (Fault::CrashPostgres, 3),
    (Fault::FreezePostgres, 2),
    (Fault::Storm, 2),
    (Fault::Exhaust, 2),
    (Fault::FillDisk, 2),
    (Fault::Lock, 4),
    (Fault::CrashKafka, 1),
    (Fault::Swap, 4),
    (Fault::Regroup, 2),
];

/// What the hosts need, and the hosts' ways to Kafka.
pub struct Servers<'a> {
    pub postgres: &'a Server,
    pub kafka: &'a mut Kafka,
    pub gates: &'a [Gate],
}

pub struct Nemesis<'a> {
    random: fastrand::Rng,
    name: String,
    postgres: &'a Server,
    database: Database,
    pub kafka: &'a mut Kafka,
    victims: Vec<Victim<'a>>,
    done: BTreeMap<Fault, u32>,
    /// What was done when, and how long it lasts.
    history: Vec<(Instant, Fault, Duration)>,
    pub readiness: Readiness,
}

impl<'a> Nemesis<'a> {
    pub fn new(shape: Shape, name: &str, servers: Servers<'a>, database: &Database) -> Self {
        let Servers { postgres, kafka, gates } = servers;
        let start = |(number, gate)| Victim::start(shape, number, name, database, gate);
        let victims = gates.iter().take(HOSTS).enumerate().map(start).collect();
        Self {
            postgres,
            random: fastrand::Rng::with_seed(shape.seed),
            name: name.to_owned(),
            database: database.clone(),
            kafka,
            victims,
            done: BTreeMap::new(),
            history: Vec::new(),
            readiness: Readiness::default(),
        }
    }

    /// A pause, then the next fault; what has suffered long enough heals.
    pub fn strike(&mut self) {
        std::thread::sleep(Duration::from_millis(self.random.u64(200..2_500)));
        self.readiness.look(&self.victims, self.postgres_is_well());
        self.heal(Instant::now());
        let fault = self.choose();
        let longest = if fault == Fault::Freeze { FREEZE_SECONDS } else { FAULT_SECONDS };
        let time = Duration::from_secs_f64(self.random.f64() * longest);
        let began = Instant::now();
        if self.inflict(fault, time) {
            *self.done.entry(fault).or_default() += 1;
            self.history.push((began, fault, time.max(began.elapsed())));
        }
    }

    /// Whether nothing has befallen PostgreSQL as a whole lately.
    fn postgres_is_well(&self) -> bool {
        let befell = |fault: Fault| {
            matches!(
                fault,
                Fault::CrashPostgres
                    | Fault::FreezePostgres
                    | Fault::Storm
                    | Fault::Exhaust
                    | Fault::FillDisk
                    | Fault::Lock
            )
        };
        let recovers = Duration::from_secs_f64(FAULT_SECONDS);
        !self.history.iter().any(|(began, fault, time)| befell(*fault) && began.elapsed() < *time + recovers)
    }

    fn choose(&mut self) -> Fault {
        let all: u32 = FAULTS.iter().map(|(_, weight)| weight).sum();
        let mut at = self.random.u32(..all);
        for (fault, weight) in FAULTS {
            if at < weight {
                return fault;
            }
            at -= weight;
        }
        Fault::Kill
    }

    /// False when there is nobody to inflict it on.
    fn inflict(&mut self, fault: Fault, time: Duration) -> bool {
        match fault {
            Fault::CrashPostgres => return outages::crash(&self.database),
            Fault::FreezePostgres => return self.freeze_postgres(time),
            Fault::Storm => outages::storm(&self.database, time),
            Fault::Exhaust => outages::exhaust(&self.database, time),
            Fault::FillDisk => return self.fill_disk(time),
            Fault::Lock => outages::lock(&self.database, self.random.usize(..), time),
            Fault::CrashKafka => {
                self.kafka.kill();
                self.kafka.resume();
            }
            Fault::Regroup => self.regroup(),
            _ => return self.inflict_on_a_host(fault, time),
        }
        true
    }

    fn inflict_on_a_host(&mut self, fault: Fault, time: Duration) -> bool {
        let well: Vec<usize> = (0..HOSTS).filter(|index| self.victims[*index].state == State::Well).collect();
        let Some(index) = self.random.choice(well) else { return false };
        let victim = &mut self.victims[index];
        let state = match fault {
            Fault::Swap => return swap(&mut self.random, &victim.host),
            Fault::Kill => {
                victim.host.kill();
                State::Down
            }
            Fault::Stop => {
                victim.host.signal("TERM");
                victim.host.wait(STOP_MAX);
                State::Down
            }
            Fault::Freeze => {
                victim.host.signal("STOP");
                State::Frozen
            }
            Fault::Cut => {
                victim.postgres.close();
                State::WithoutPostgres
            }
            Fault::Hold => {
                victim.postgres.hold();
                State::WithoutPostgres
            }
            Fault::Slow => {
                victim.postgres.slow_answers();
                State::Slow
            }
            Fault::CutKafka => {
                victim.kafka.close();
                State::WithoutKafka
            }
            Fault::HoldKafka => {
                victim.kafka.hold();
                State::WithoutKafka
            }
            _ => {
                victim.postgres.hold_answers();
                State::WithoutPostgres
            }
        };
        victim.suffers(state, time);
        true
    }

    /// Beside other faults.
    fn fill_disk(&self, time: Duration) -> bool {
        let Some(ballast) = self.postgres.fill_disk() else { return false };
        std::thread::spawn(move || {
            std::thread::sleep(time);
            drop(ballast);
        });
        true
    }

    fn freeze_postgres(&mut self, time: Duration) -> bool {
        let Some(frozen) = outages::freeze(&self.database) else { return false };
        let ends = Instant::now() + time;
        if self.random.bool()
            && let Some(victim) = self.victims.iter_mut().find(|victim| victim.state == State::Well)
        {
            victim.host.signal("TERM");
            // It has its deadline, whatever the database does.
            victim.host.wait(STOP_MAX);
            victim.suffers(State::Down, Duration::ZERO);
        }
        std::thread::sleep(ends.saturating_duration_since(Instant::now()));
        drop(frozen);
        true
    }

    fn regroup(&mut self) {
        self.heal_everything();
        self.victims.iter().for_each(|victim| victim.host.signal("TERM"));
        for victim in &mut self.victims {
            victim.host.wait(STOP_MAX);
        }
        let (group, topic) = (format!("{}-exchanges", self.name), topic(&self.name));
        if self.random.u32(..3) == 0 {
            // A member that died is waited for; then this fault is left out.
            self.kafka.try_delete_group(&group);
        } else {
            for partition in 0..PARTITIONS + PARTITIONS_ADDED {
                if let Some(offset) = self.kafka.group_offset(&group, &topic, partition) {
                    let anywhere = self.random.i64(0..=offset + 1_000);
                    let _ = self.kafka.try_set_group_offset(&group, &topic, partition, anywhere);
                }
            }
        }
        for victim in &mut self.victims {
            victim.host.restart();
            victim.since = Instant::now();
        }
    }

    fn heal(&mut self, until: Instant) {
        self.victims.iter_mut().filter(|victim| victim.heals_at <= until).for_each(Victim::heal);
    }

    pub fn heal_everything(&mut self) {
        self.heal(Instant::now() + Duration::from_secs(3600));
    }

    /// How often each fault struck.
    pub fn summary(&self) -> String {
        self.done.iter().map(|(fault, times)| format!("{fault:?} {times}")).collect::<Vec<_>>().join(", ")
    }

    /// The faults that were there in a pause, each with how long it lasted.
    pub fn during(&self, pause: &Pause) -> String {
        let overlaps =
            |(began, _, time): &&(Instant, Fault, Duration)| *began < pause.until && *began + *time > pause.from;
        let told = self.history.iter().filter(overlaps);
        told.map(|(_, fault, time)| format!("{fault:?} {:.0} s", time.as_secs_f64())).collect::<Vec<_>>().join(", ")
    }

    /// What the hosts took, who all run by now, beside so many connections.
    pub fn bounds(&self, connections: i64) -> Bounds {
        Bounds::of(&self.victims, connections)
    }
}

fn swap(random: &mut fastrand::Rng, host: &Host) -> bool {
    let code = if random.u32(..3) == 0 {
        function("guest")
    } else {
        variant(&function("aggregator"), random.usize(..100), host.setup.folder())
    };
    // A host that has just started may not listen yet; then this fault is left out.
    host.command("swap", &["aggregator-exchanges", code.to_str().unwrap()]).status.success()
}
