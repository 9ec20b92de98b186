//! Apache Kafka (KRaft, one node) in a folder of its own.

mod sender;

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

pub use self::sender::Sender;
use crate::certificates::Certificate;
use crate::gate::Gate;
use crate::{bound_command, free_port, root, wait_for};

const START: Duration = Duration::from_secs(90);
const REQUEST: Duration = Duration::from_secs(30);

pub struct Kafka {
    folder: tempfile::TempDir,
    child: Option<Child>,
    controller: u16,
    pub brokers: String,
}

/// What a broker has beside the usual.
#[derive(Default)]
struct Shape<'a> {
    /// Lines that win over the usual ones.
    settings: &'a str,
    /// One more listener.
    door: Option<&'a str>,
    /// Arguments of the tool that formats the folder.
    format: &'a [&'a str],
    /// Listeners behind a door each: where it listens, and the door that it advertises.
    behind: &'a [(u16, String)],
}

/// Where `make kafka` puts Kafka's jars.
pub fn jars() -> PathBuf {
    root().join("target/kafka")
}

/// Doors, and for each where it leads and the address that clients are told.
fn behind(doors: usize) -> (Vec<Gate>, Vec<(u16, String)>) {
    let door = |_| {
        let port = free_port();
        let gate = Gate::opened(&format!("127.0.0.1:{port}"));
        let advertised = gate.address();
        (gate, (port, advertised))
    };
    (0..doors).map(door).unzip()
}

impl Kafka {
    /// Formats a folder and starts a broker in it.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// The same with settings that win over the usual ones.
    pub fn start_with(settings: &str) -> Self {
        let controller = free_port();
        Self::node(1, "broker,controller", controller, &Shape { settings, ..Shape::default() })
    }

    /// A broker with a listener behind each of so many doors, which are its clients' only way.
    pub fn start_behind(doors: usize) -> (Self, Vec<Gate>) {
        let (gates, behind) = behind(doors);
        let shape = Shape { behind: &behind, ..Shape::default() };
        (Self::node(1, "broker,controller", free_port(), &shape), gates)
    }

    /// Two brokers, and the door by which the first one fetches from the second.
    pub fn start_pair(settings: &str) -> (Self, Self, Gate) {
        let settings = format!("inter.broker.listener.name=DOOR0\n{settings}");
        let ((_gates, first), (mut doors, second)) = (behind(1), behind(1));
        let shape = |behind| Shape { settings: &settings, behind, ..Shape::default() };
        let one = Self::node(1, "broker,controller", free_port(), &shape(first.as_slice()));
        let two = Self::node(2, "broker", one.controller, &shape(second.as_slice()));
        wait_for("two brokers", START, || (one.broker_count() == 2).then_some(()));
        (one, two, doors.remove(0))
    }

    /// A broker with a second door: TLS by this certificate, and SCRAM-SHA-512 for one user.
    pub fn start_secured(certificate: &Certificate, user: &str, password: &str) -> (Self, String) {
        let port = free_port();
        let one_line = |pem: &str| pem.trim().replace('\n', "\\n");
        let settings = format!(
            "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL\n\
             sasl.enabled.mechanisms=SCRAM-SHA-512\n\
             listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=\
             org.apache.kafka.common.security.scram.ScramLoginModule required;\n\
             ssl.keystore.type=PEM\nssl.keystore.certificate.chain={}\nssl.keystore.key={}\n",
            one_line(&certificate.chain),
            one_line(&certificate.key)
        );
        let door = format!("SASL_SSL://localhost:{port}");
        let scram = format!("SCRAM-SHA-512=[name={user},password={password}]");
        let shape = Shape { settings: &settings, door: Some(&door), format: &["--add-scram", &scram], behind: &[] };
        (Self::node(1, "broker,controller", free_port(), &shape), format!("localhost:{port}"))
    }

    /// A broker that asks its authorizer, with a second door for these users (SCRAM-SHA-512, no TLS).
    /// They may do what [`Kafka::allow`] allows; who comes by the first door may do everything.
    pub fn start_guarded(users: &[&str], password: &str) -> (Self, String) {
        let door = format!("127.0.0.1:{}", free_port());
        let settings = "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,\
                        SASL_PLAINTEXT:SASL_PLAINTEXT\n\
                        sasl.enabled.mechanisms=SCRAM-SHA-512\n\
                        listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config=\
                        org.apache.kafka.common.security.scram.ScramLoginModule required;\n\
                        authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
                        super.users=User:ANONYMOUS\n";
        let scram = users.iter().map(|user| format!("SCRAM-SHA-512=[name={user},password={password}]"));
        let format: Vec<String> = scram.flat_map(|scram| ["--add-scram".to_owned(), scram]).collect();
        let format: Vec<&str> = format.iter().map(String::as_str).collect();
        let shape = Shape { settings, door: Some(&format!("SASL_PLAINTEXT://{door}")), format: &format, behind: &[] };
        (Self::node(1, "broker,controller", free_port(), &shape), door)
    }

    /// Adds an ACL: this user may do this to the resource of this very name. It holds for all that sees a
    /// topic which is created afterwards: brokers learn both in order.
    pub fn allow(&self, user: &str, operation: Operation, resource: Resource<'_>) {
        let mut stream = TcpStream::connect(&self.brokers).unwrap();
        stream.set_read_timeout(Some(REQUEST)).unwrap();
        stream.write_all(&create_acl(user, operation, resource)).unwrap();
        let mut length = [0; 4];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
        stream.read_exact(&mut answer).unwrap();
        // Behind the request's number, the throttling and how many results there are: the first one's code.
        assert_eq!(answer[12..14], [0, 0], "{user} {operation:?} {resource:?}: {answer:?}");
    }

    /// Another broker of the same cluster.
    #[must_use]
    pub fn join(&self, settings: &str) -> Self {
        Self::node(2, "broker", self.controller, &Shape { settings, ..Shape::default() })
    }

    fn node(id: u32, roles: &str, controller: u16, shape: &Shape<'_>) -> Self {
        let port = free_port();
        let folder = tempfile::tempdir().unwrap();
        let log_dir = folder.path().join("logs");
        let more = shape.settings;
        let door = shape.door.map(|door| format!(",{door}")).unwrap_or_default();
        let mut doors = (String::new(), String::new(), String::new());
        for (number, (port, advertised)) in shape.behind.iter().enumerate() {
            doors.0 += &format!(",DOOR{number}://127.0.0.1:{port}");
            doors.1 += &format!(",DOOR{number}://{advertised}");
            doors.2 += &format!(",DOOR{number}:PLAINTEXT");
        }
        let listens = if id == 1 { format!(",CONTROLLER://127.0.0.1:{controller}") } else { String::new() };
        let settings = format!(
            "process.roles={roles}\nnode.id={id}\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port}{listens}{door}{}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}{door}{}\n\
             controller.listener.names=CONTROLLER\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT{}\n\
             offsets.topic.replication.factor=1\noffsets.topic.num.partitions=4\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
             group.initial.rebalance.delay.ms=0\nauto.create.topics.enable=false\n\
             log.retention.check.interval.ms=1000\nlog.cleaner.backoff.ms=500\nlog.dirs={}\n{more}\n",
            doors.0,
            doors.1,
            doors.2,
            log_dir.display()
        );
        std::fs::write(folder.path().join("server.properties"), settings).unwrap();
        let mut kafka = Self { folder, child: None, controller, brokers: format!("127.0.0.1:{port}") };
        let formatted = kafka
            .java(&["kafka.tools.StorageTool", "format", "-t", "4L6g3nShT-eMCtK--X86sw", "-c"])
            .arg(kafka.folder.path().join("server.properties"))
            .args(shape.format)
            .status()
            .expect("java runs");
        assert!(formatted.success(), "Kafka's folder cannot be formatted");
        kafka.resume();
        kafka
    }

    fn java(&self, arguments: &[&str]) -> std::process::Command {
        let output = File::options().create(true).append(true).open(self.folder.path().join("output.txt")).unwrap();
        let mut command = bound_command("java");
        command
            .args(["-Xmx768m", "-Xms256m", "-cp"])
            .arg(format!("{}/*", jars().display()))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        command
    }

    /// Starts the broker (again) on the same address, with the same logs.
    pub fn resume(&mut self) {
        let mut command = self.java(&["kafka.Kafka"]);
        command.arg(self.folder.path().join("server.properties"));
        self.child = Some(command.spawn().expect("java runs"));
        let consumer: BaseConsumer = self.config().create().unwrap();
        wait_for("Kafka", START, || consumer.fetch_metadata(None, Duration::from_secs(2)).ok());
    }

    /// The file of a partition's first segment.
    pub fn segment(&self, topic: &str, partition: i32) -> PathBuf {
        self.folder.path().join(format!("logs/{topic}-{partition}/{:020}.log", 0))
    }

    /// Kills the broker.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Of the broker.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the broker runs").id()
    }

    /// Sends the broker a signal: with `STOP` it stands still, as a paused machine does, until `CONT`.
    pub fn signal(&self, name: &str) {
        let child = self.child.as_ref().expect("the broker runs");
        assert!(crate::outages::signal(name, i32::try_from(child.id()).unwrap()), "the broker has ended");
    }

    pub fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers).set("log_level", "0");
        config
    }

    fn admin<R>(&self, work: impl AsyncFnOnce(&AdminClient<DefaultClientContext>, &AdminOptions) -> R) -> R {
        let admin: AdminClient<DefaultClientContext> = self.config().create().unwrap();
        let options = AdminOptions::new().operation_timeout(Some(REQUEST)).request_timeout(Some(REQUEST));
        runtime().block_on(work(&admin, &options))
    }

    pub fn broker_count(&self) -> usize {
        let consumer: BaseConsumer = self.config().create().unwrap();
        consumer.fetch_metadata(None, REQUEST).map_or(0, |metadata| metadata.brokers().len())
    }

    pub fn create_topic(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) {
        self.create_replicated_topic(name, partitions, 1, settings);
    }

    pub fn create_replicated_topic(&self, name: &str, partitions: i32, replicas: i32, settings: &[(&str, &str)]) {
        self.admin(async |admin, options| {
            let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(replicas));
            for (key, value) in settings {
                topic = topic.set(key, value);
            }
            for result in admin.create_topics(&[topic], options).await.unwrap() {
                result.unwrap();
            }
        });
        wait_for("the topic", REQUEST, || {
            let consumer: BaseConsumer = self.config().create().unwrap();
            let metadata = consumer.fetch_metadata(Some(name), REQUEST).ok()?;
            let ready = metadata.topics()[0].partitions().iter().filter(|p| p.leader() >= 0).count();
            (ready == usize::try_from(partitions).unwrap()).then_some(())
        });
    }

    /// A topic of one partition that these brokers have, the first of them as its leader.
    pub fn create_topic_on(&self, name: &str, brokers: &[i32], settings: &[(&str, &str)]) {
        self.admin(async |admin, options| {
            let assignment = [brokers];
            let mut topic = NewTopic::new(name, 1, TopicReplication::Variable(&assignment));
            for (key, value) in settings {
                topic = topic.set(key, value);
            }
            for result in admin.create_topics(&[topic], options).await.unwrap() {
                result.unwrap();
            }
        });
        wait_for("the leader", REQUEST, || (self.first_partition(name)?.0 == brokers[0]).then_some(()));
    }

    /// The leader of a topic's first partition, negative without one, and how many replicas are in sync.
    pub fn first_partition(&self, name: &str) -> Option<(i32, usize)> {
        let consumer: BaseConsumer = self.config().create().unwrap();
        let metadata = consumer.fetch_metadata(Some(name), REQUEST).ok()?;
        let partition = metadata.topics().first()?.partitions().first()?;
        Some((partition.leader(), partition.isr().len()))
    }

    pub fn has_topic(&self, name: &str) -> bool {
        let consumer: BaseConsumer = self.config().create().unwrap();
        let metadata = consumer.fetch_metadata(None, REQUEST).unwrap();
        metadata.topics().iter().any(|topic| topic.name() == name)
    }

    pub fn delete_topic(&self, name: &str) {
        self.admin(async |admin, options| {
            for result in admin.delete_topics(&[name], options).await.unwrap() {
                result.unwrap();
            }
        });
    }

    pub fn add_partitions(&self, name: &str, partitions: usize) {
        self.admin(async |admin, options| {
            for result in admin.create_partitions(&[NewPartitions::new(name, partitions)], options).await.unwrap() {
                result.unwrap();
            }
        });
    }

    /// Deletes the records of a partition below the offset.
    pub fn delete_records(&self, topic: &str, partition: i32, before: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(before)).unwrap();
        self.admin(async |admin, options| {
            admin.delete_records(&list, options).await.unwrap();
        });
    }

    /// Commits offsets of a group that nobody is a member of, as an operator's tool does.
    pub fn set_group_offset(&self, group: &str, topic: &str, partition: i32, offset: i64) {
        self.try_set_group_offset(group, topic, partition, offset).unwrap();
    }

    /// # Errors
    /// While somebody is a member of the group.
    pub fn try_set_group_offset(&self, group: &str, topic: &str, partition: i32, offset: i64) -> KafkaResult<()> {
        let consumer: BaseConsumer = self.config().set("group.id", group).create()?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
        consumer.commit(&list, CommitMode::Sync)
    }

    /// The group's committed offset.
    pub fn group_offset(&self, group: &str, topic: &str, partition: i32) -> Option<i64> {
        let consumer: BaseConsumer = self.config().set("group.id", group).create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition(topic, partition);
        // A coordinator that moves or starts is asked again.
        let answer = wait_for("the group's offset", REQUEST, || consumer.committed_offsets(list.clone(), REQUEST).ok());
        match answer.elements()[0].offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }
    }

    /// Forgets a group and all its offsets, as a broker does when they expire; waits until nobody is in it any more.
    /// The names of all groups.
    pub fn groups(&self) -> Vec<String> {
        let consumer: BaseConsumer = self.config().create().unwrap();
        let list = consumer.fetch_group_list(None, REQUEST).unwrap();
        list.groups().iter().map(|group| group.name().to_owned()).collect()
    }

    pub fn delete_group(&self, group: &str) {
        wait_for("the group's end", Duration::from_secs(60), || self.try_delete_group(group).then_some(()));
    }

    /// The same; false while somebody is a member of the group.
    pub fn try_delete_group(&self, group: &str) -> bool {
        self.admin(async |admin, options| match admin.delete_groups(&[group], options).await {
            Ok(results) => results.iter().all(Result::is_ok),
            Err(_) => false,
        })
    }

    /// A producer whose records come in transactions.
    pub fn transactions(&self, id: &str) -> Sender {
        Sender::transactional(self.config().set("transactional.id", id))
    }

    pub fn producer(&self) -> Sender {
        self.producer_with(&[])
    }

    /// A producer for the brokers at this address.
    pub fn producer_at(brokers: &str) -> Sender {
        Sender::new(ClientConfig::new().set("bootstrap.servers", brokers).set("log_level", "0"), &[])
    }

    pub fn producer_with(&self, settings: &[(&str, &str)]) -> Sender {
        Sender::new(&mut self.config(), settings)
    }

    /// All records of a topic, by partition: key, value, headers.
    pub fn read_all(&self, topic: &str, partitions: i32) -> Vec<Stored> {
        let consumer: BaseConsumer = self
            .config()
            .set("group.id", "reader")
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .create()
            .unwrap();
        let mut stored = Vec::new();
        for partition in 0..partitions {
            let (_, end) = consumer.fetch_watermarks(topic, partition, REQUEST).unwrap();
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
            consumer.assign(&list).unwrap();
            let mut next = 0;
            while next < end {
                let message = consumer.poll(REQUEST).expect("a record in time").unwrap();
                next = message.offset() + 1;
                let mut headers = Vec::new();
                if let Some(found) = rdkafka::message::BorrowedMessage::headers(&message) {
                    use rdkafka::message::Headers;
                    headers.extend(found.iter().map(|header| {
                        (header.key.to_owned(), String::from_utf8_lossy(header.value.unwrap_or_default()).into_owned())
                    }));
                }
                stored.push(Stored {
                    partition: message.partition(),
                    offset: message.offset(),
                    timestamp: message.timestamp().to_millis().unwrap_or(-1),
                    key: message.key().map(<[u8]>::to_vec),
                    value: message.payload().map(<[u8]>::to_vec),
                    headers,
                });
            }
        }
        stored
    }
}

/// By Kafka's numbers.
#[derive(Clone, Copy, Debug)]
pub enum Operation {
    Read = 3,
    Write = 4,
}

/// What an ACL is about.
#[derive(Clone, Copy, Debug)]
pub enum Resource<'a> {
    Topic(&'a str),
    Group(&'a str),
}

/// The request `CreateAcls`, version 1: the binding has no ACLs, and the tool is not among the jars.
fn create_acl(user: &str, operation: Operation, resource: Resource<'_>) -> Vec<u8> {
    fn text(bytes: &mut Vec<u8>, text: &str) {
        bytes.extend(i16::try_from(text.len()).unwrap().to_be_bytes());
        bytes.extend(text.as_bytes());
    }
    const LITERAL: u8 = 3;
    const ALLOW: u8 = 3;
    let (kind, name) = match resource {
        Resource::Topic(name) => (2, name),
        Resource::Group(name) => (3, name),
    };
    // Key 30, version 1, number 1.
    let mut bytes = vec![0, 30, 0, 1, 0, 0, 0, 1];
    text(&mut bytes, "e2e");
    bytes.extend(1i32.to_be_bytes());
    bytes.push(kind);
    text(&mut bytes, name);
    bytes.push(LITERAL);
    text(&mut bytes, &format!("User:{user}"));
    text(&mut bytes, "*");
    bytes.extend([operation as u8, ALLOW]);
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    [&length[..], &bytes].concat()
}

/// A record as it is stored.
#[derive(Debug)]
pub struct Stored {
    pub partition: i32,
    pub offset: i64,
    /// Unix milliseconds; -1 where there is none.
    pub timestamp: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, String)>,
}

impl Drop for Kafka {
    fn drop(&mut self) {
        self.kill();
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
