//! What happens to the hosts and the servers, as the seed decides.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use e2e::database::Database;
use e2e::gate::Gate;
use e2e::host::{Host, Setup, function, variant};
use e2e::kafka::Kafka;
use e2e::topic;

use crate::{PARTITIONS, WINDOW_SECONDS};

const HOSTS: usize = 3;
const STOP_MAX: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Kill,
    Stop,
    Freeze,
    /// Connections to PostgreSQL are cut.
    Cut,
    /// Nothing passes to PostgreSQL or back, and nobody says so.
    Hold,
    /// Statements pass, answers do not.
    Deafen,
    /// `kill -9` of a PostgreSQL process: the server recovers from its log.
    CrashPostgres,
    /// `kill -9` of the broker.
    CrashKafka,
    /// The aggregator is swapped: for another version of itself, or for one that traps at each call
    /// and has to go by itself.
    Swap,
    /// The group's offsets are set to anything while nobody reads.
    Redeliver,
}

/// With how often each is chosen.
const FAULTS: [(Fault, u32); 10] = [
    (Fault::Kill, 6),
    (Fault::Stop, 4),
    (Fault::Freeze, 5),
    (Fault::Cut, 4),
    (Fault::Hold, 4),
    (Fault::Deafen, 4),
    (Fault::CrashPostgres, 3),
    (Fault::CrashKafka, 1),
    (Fault::Swap, 4),
    (Fault::Redeliver, 2),
];

/// What a host suffers from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Well,
    Down,
    Frozen,
    CutOff,
}

struct Victim {
    host: Host,
    gate: Gate,
    state: State,
    heals_at: Instant,
}

pub struct Nemesis<'a> {
    random: fastrand::Rng,
    name: String,
    database: Database,
    kafka: &'a mut Kafka,
    victims: Vec<Victim>,
    done: BTreeMap<Fault, u32>,
}

impl<'a> Nemesis<'a> {
    pub fn new(seed: u64, name: &str, database: &Database, kafka: &'a mut Kafka) -> Self {
        let victims = (0..HOSTS)
            .map(|_| {
                let gate = Gate::opened(&database.host);
                let url = database.url.replace(&database.host, &gate.address());
                let aggregator = "[component.aggregator-exchanges]\n";
                let setup = Setup::against(&kafka.brokers, database, name)
                    // Only the bad version minds it.
                    .replace(aggregator, &format!("{aggregator}environment = {{ TRAP_ALWAYS = \"1\" }}\n"))
                    .variable("postgres_url", &url)
                    .variable("postgres_host", &gate.address())
                    .variable("window_seconds", &WINDOW_SECONDS.to_string())
                    .variable("allowed_lateness_seconds", "2")
                    .components(&["aggregator-exchanges", "window-closer"]);
                Victim { host: setup.start(), gate, state: State::Well, heals_at: Instant::now() }
            })
            .collect();
        let name = name.to_owned();
        let random = fastrand::Rng::with_seed(seed);
        Self { random, name, database: database.clone(), kafka, victims, done: BTreeMap::new() }
    }

    /// A pause, then the next fault; what has suffered long enough heals.
    pub fn strike(&mut self) {
        std::thread::sleep(Duration::from_millis(self.random.u64(200..2_500)));
        self.heal(Instant::now());
        let fault = self.choose();
        if self.inflict(fault) {
            *self.done.entry(fault).or_default() += 1;
        }
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
    fn inflict(&mut self, fault: Fault) -> bool {
        match fault {
            Fault::CrashPostgres => return self.crash_postgres(),
            Fault::CrashKafka => {
                self.kafka.kill();
                self.kafka.resume();
                return true;
            }
            Fault::Redeliver => {
                self.redeliver();
                return true;
            }
            _ => {}
        }
        let well: Vec<usize> = (0..HOSTS).filter(|index| self.victims[*index].state == State::Well).collect();
        let Some(index) = self.random.choice(well) else { return false };
        let seconds = self.random.f64() * 8.0;
        let victim = &mut self.victims[index];
        victim.state = match fault {
            Fault::Swap => {
                return swap(&mut self.random, &victim.host);
            }
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
                victim.gate.close();
                State::CutOff
            }
            Fault::Hold => {
                victim.gate.hold();
                State::CutOff
            }
            _ => {
                victim.gate.hold_answers();
                State::CutOff
            }
        };
        victim.heals_at = Instant::now() + Duration::from_secs_f64(seconds);
        true
    }

    fn crash_postgres(&mut self) -> bool {
        let Ok(mut client) = postgres::Client::connect(&self.database.url, postgres::NoTls) else { return false };
        let statement = "SELECT pid FROM pg_stat_activity WHERE application_name = 'exagg'
                         ORDER BY state = 'active' DESC, random() LIMIT 1";
        let Ok(Some(row)) = client.query_opt(statement, &[]) else { return false };
        let pid: i32 = row.get(0);
        Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success()
    }

    fn redeliver(&mut self) {
        self.heal_everything();
        for victim in &mut self.victims {
            victim.host.signal("TERM");
        }
        for victim in &mut self.victims {
            victim.host.wait(STOP_MAX);
        }
        let (group, topic) = (format!("{}-exchanges", self.name), topic(&self.name));
        for partition in 0..PARTITIONS {
            if let Some(offset) = self.kafka.group_offset(&group, &topic, partition) {
                let anywhere = self.random.i64(0..=offset);
                // A member that died is waited for; then this fault is left out.
                let _ = self.kafka.try_set_group_offset(&group, &topic, partition, anywhere);
            }
        }
        for victim in &mut self.victims {
            victim.host.restart();
        }
    }

    fn heal(&mut self, until: Instant) {
        for victim in self.victims.iter_mut().filter(|victim| victim.heals_at <= until) {
            match std::mem::replace(&mut victim.state, State::Well) {
                State::Well => {}
                State::Down => victim.host.restart(),
                State::Frozen => victim.host.signal("CONT"),
                State::CutOff => victim.gate.open(),
            }
        }
    }

    pub fn heal_everything(&mut self) {
        self.heal(Instant::now() + Duration::from_secs(3600));
    }

    /// How often each fault struck.
    pub fn summary(&self) -> String {
        self.done.iter().map(|(fault, times)| format!("{fault:?} {times}")).collect::<Vec<_>>().join(", ")
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
