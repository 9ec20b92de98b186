//! What PostgreSQL and Kafka suffer, one fault at a time.

use std::time::{Duration, Instant};

use e2e::database::Database;
use e2e::gate::Gate;
use e2e::kafka::Kafka;
use e2e::outages;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    PostgresCut,
    /// Nothing passes, and nobody says so.
    PostgresHeld,
    /// Statements pass, answers do not.
    PostgresDeaf,
    PostgresFrozen,
    /// Again and again for as long as it lasts; each time the server recovers from its log.
    PostgresKilled,
    KafkaCut,
    KafkaHeld,
    KafkaFrozen,
    KafkaKilled,
}

pub const FAULTS: [Fault; 9] = [
    Fault::PostgresCut,
    Fault::PostgresHeld,
    Fault::PostgresDeaf,
    Fault::PostgresFrozen,
    Fault::PostgresKilled,
    Fault::KafkaCut,
    Fault::KafkaHeld,
    Fault::KafkaFrozen,
    Fault::KafkaKilled,
];

impl Fault {
    /// Whether the log's ends can be asked for meanwhile.
    pub fn leaves_kafka_alone(self) -> bool {
        self < Self::KafkaCut
    }
}

/// The servers, and the host's only ways to them.
pub struct Servers<'a> {
    pub postgres: &'a Gate,
    pub database: &'a Database,
    pub kafka: Kafka,
    pub brokers: &'a Gate,
}

impl Servers<'_> {
    /// The fault begins, lasts so long, and ends.
    pub fn suffer(&mut self, fault: Fault, time: Duration) {
        let wait = || std::thread::sleep(time);
        match fault {
            Fault::PostgresCut => self.postgres.close(),
            Fault::PostgresHeld => self.postgres.hold(),
            Fault::PostgresDeaf => self.postgres.hold_answers(),
            Fault::KafkaCut => self.brokers.close(),
            Fault::KafkaHeld => self.brokers.hold(),
            Fault::PostgresFrozen => {
                let frozen = outages::freeze(self.database);
                wait();
                return drop(frozen);
            }
            Fault::PostgresKilled => {
                let ends = Instant::now() + time;
                while Instant::now() < ends {
                    outages::crash(self.database);
                    std::thread::sleep(Duration::from_millis(200));
                }
                return;
            }
            Fault::KafkaFrozen => {
                self.kafka.signal("STOP");
                wait();
                return self.kafka.signal("CONT");
            }
            Fault::KafkaKilled => {
                self.kafka.kill();
                wait();
                return self.kafka.resume();
            }
        }
        wait();
        self.postgres.open();
        self.brokers.open();
    }
}
