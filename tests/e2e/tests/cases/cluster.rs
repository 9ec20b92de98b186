//! The stages of `deploy/cluster` as processes: scaled, installed in the worst order, upgraded, and without their
//! registry.

use std::time::Duration;

use e2e::cluster::{Cluster, FETCHER, fetched};
use e2e::feed::Feed;
use e2e::gate::Gate;
use e2e::host::{function, variant};
use e2e::{http, now, topic, wait_for};

use super::{World, wait_for_records, wait_until_closed};

const MINUTE: Duration = Duration::from_secs(60);
const STAGES: [&str; 6] =
    ["dashboard", "window-closer", "aggregator-weather", "fetcher-weather", "aggregator-exchanges", FETCHER];

fn create_topics(world: &World, name: &str) {
    world.kafka().create_topic(&topic(name), 6, &[]);
    world.kafka().create_topic(&format!("{name}.weather"), 2, &[]);
    world.kafka().create_topic(&fetched(name), 1, &[]);
}

/// Records for windows in the near past, a piece at a time.
struct Past {
    feed: Feed,
    at: i64,
}

impl Past {
    fn new(world: &World, name: &str) -> Self {
        let feed = Feed::new(world.kafka(), &topic(name), 6).window_seconds(10);
        Self { feed, at: now() - 600 }
    }

    fn send(&mut self) {
        self.feed.spread(20_000, self.at, 20);
        self.at += 20;
    }

    /// All of them are in the rows, once.
    fn assert_counted(&self, cluster: &Cluster) {
        wait_for_records(&cluster.database, "exchanges", self.feed.sent);
        wait_until_closed(&cluster.database, "exchanges");
        self.feed.oracle.assert_equal(&cluster.database, "exchanges");
    }
}

fn migrate(cluster: &mut Cluster) {
    let output = cluster.run_job();
    assert!(output.status.success(), "{output:?}");
}

fn start_all(cluster: &mut Cluster) {
    for stage in STAGES {
        let wanted = cluster.wanted(stage);
        cluster.scale(stage, wanted);
    }
}

/// A cluster whose stages run, and records on their way; none where kustomize is not there.
fn installed(world: &World, name: &'static str) -> Option<(Cluster, Past)> {
    create_topics(world, name);
    let mut cluster = Cluster::new(&world.kafka().brokers, &world.postgres.database(), name)?;
    cluster.push(|setup| setup);
    migrate(&mut cluster);
    start_all(&mut cluster);
    let mut past = Past::new(world, name);
    past.send();
    Some((cluster, past))
}

/// Every stage a process of its own, started in any order, stopped and replaced alone, the aggregator scaled 1, 3, 1:
/// the rows are right. Take out: the fence, or leases for the fetchers.
pub fn stages_as_processes_scale_alone_and_the_rows_are_right(world: &World) {
    let name = "spinkube";
    create_topics(world, name);
    let Some(mut cluster) = Cluster::new(&world.kafka().brokers, &world.postgres.database(), name) else { return };
    cluster.push(|setup| setup);
    // Before its tables are there a stage waits.
    cluster.start("aggregator-exchanges");
    migrate(&mut cluster);
    start_all(&mut cluster);
    let mut past = Past::new(world, name);
    past.send();
    wait_for_records(&cluster.database, "exchanges", past.feed.sent);
    past.send();
    cluster.scale("aggregator-exchanges", 3);
    past.send();
    // Others are replaced meanwhile.
    for stage in ["window-closer", "fetcher-weather", "dashboard"] {
        let replicas = cluster.of(stage).len();
        cluster.scale(stage, 0);
        cluster.scale(stage, replicas);
    }
    past.send();
    cluster.scale("aggregator-exchanges", 1);
    past.send();
    past.assert_counted(&cluster);
    wait_for("final rows of the weather", MINUTE, || {
        let rows = "SELECT count(*) FROM public.aggregates WHERE stream = 'weather'";
        (cluster.database.number(rows) > 1).then_some(())
    });
    let fetched = wait_for("fetched exchanges", MINUTE, || {
        let records = world.kafka().read_all(&fetched(name), 1);
        (!records.is_empty()).then_some(records)
    });
    assert!(fetched[0].key.is_some());
    let page = http::get(cluster.of("dashboard")[0].listen, "/api/streams");
    assert!(page.status == 200 && page.body.contains("weather"), "{}", page.body);
    let url = cluster.database.url.clone();
    for pod in cluster.pods() {
        assert!(!pod.log().contains(&url), "the address with its password is in a log");
    }
}

/// All pods and the Job at once, when there is no app in the registry, no PostgreSQL and no topic: each of them comes
/// later, the one that is needed first as the last. Nothing is ready before, everything is soon after.
pub fn a_first_install_in_the_worst_order_ends_well(world: &World) {
    let name = "worstorder";
    let own = world.postgres.database();
    let gate = Gate::closed(&own.host);
    let behind = e2e::database::Database { url: own.url.replace(&own.host, &gate.address()), host: gate.address() };
    let Some(mut cluster) = Cluster::new(&world.kafka().brokers, &behind, name) else { return };
    for stage in STAGES {
        for _ in 0..cluster.wanted(stage) {
            cluster.start(stage);
        }
    }
    let job = cluster.run_job();
    assert!(!job.status.success(), "{job:?}");
    cluster.tend_for(Duration::from_secs(5));
    create_topics(world, name);
    cluster.tend_for(Duration::from_secs(2));
    gate.open();
    cluster.tend_for(Duration::from_secs(2));
    for stage in STAGES {
        assert_eq!(cluster.ready(stage), 0, "{stage} is ready with nothing to run");
    }
    for pod in cluster.pods() {
        assert!(pod.restarts > 0 && pod.log().contains("exchange-agg-spin:0.1.0"), "{}", pod.log());
    }
    cluster.push(|setup| setup);
    // The operator's Job is tried again as well.
    migrate(&mut cluster);
    for stage in STAGES {
        cluster.wait_until_ready(stage);
    }
    let mut past = Past::new(world, name);
    past.send();
    past.assert_counted(&cluster);
}

/// Another version of app and host in `settings.env`: its Job has another name, the pods of the new version are not
/// ready until that has run, those of the old one go on meanwhile and are replaced one at a time, while records come.
pub fn an_upgrade_replaces_pod_by_pod_and_the_rows_are_right(world: &World) {
    let Some((mut cluster, mut past)) = installed(world, "upgrade") else { return };
    wait_for_records(&cluster.database, "exchanges", past.feed.sent);
    let jobs = |cluster: &Cluster| -> Vec<String> {
        let names = cluster.manifests.others.keys().filter(|(kind, _)| kind == "Job");
        names.map(|(_, name)| name.clone()).collect()
    };
    let before = jobs(&cluster);
    cluster.set(&[(":0.1.0", ":0.2.0"), ("0-1-0", "0-2-0")]);
    assert_ne!(before, jobs(&cluster), "a Job cannot be changed");
    // The new version's aggregator is another component, and its database lacks a migration.
    let folder = tempfile::tempdir().unwrap();
    let newer = variant(&function("aggregator"), 2, folder.path());
    cluster.push(|setup| setup.replace(function("aggregator").to_str().unwrap(), newer.to_str().unwrap()));
    cluster.database.execute("DELETE FROM public.exagg_migrations WHERE name LIKE '%definitions'");
    cluster.start("aggregator-exchanges");
    cluster.tend_for(Duration::from_secs(4));
    assert_eq!(cluster.ready("aggregator-exchanges"), 1, "the old pod alone");
    past.send();
    wait_for_records(&cluster.database, "exchanges", past.feed.sent);
    migrate(&mut cluster);
    cluster.wait_until_ready("aggregator-exchanges");
    past.send();
    cluster.stop("aggregator-exchanges", 0);
    for stage in STAGES.into_iter().filter(|stage| *stage != "aggregator-exchanges") {
        for _ in 0..cluster.wanted(stage) {
            // As a Deployment does: one more, and then one less.
            cluster.start(stage);
            cluster.wait_until_ready(stage);
            past.send();
            cluster.stop(stage, 0);
        }
    }
    past.assert_counted(&cluster);
    let replaced = cluster.pods().map(|pod| pod.restarts).sum::<usize>();
    assert_eq!(replaced, 0, "no container ended by itself");
    let gaps = "SELECT count(*) FROM public.gaps";
    assert_eq!(cluster.database.number(gaps), 0);
}

/// A container that starts again in its pod has what it ran, whatever became of the registry; a new pod says what it
/// lacks and disturbs nobody. Take out: `Known`.
pub fn pods_start_again_while_the_registry_is_away(world: &World) {
    let Some((mut cluster, mut past)) = installed(world, "registryaway") else { return };
    cluster.lose_registry();
    for pod in cluster.pods() {
        pod.kill();
    }
    past.send();
    for stage in STAGES {
        cluster.wait_until_ready(stage);
    }
    for pod in cluster.pods() {
        assert_eq!(pod.restarts, 1, "{}", pod.log());
    }
    cluster.start("dashboard");
    cluster.tend_for(Duration::from_secs(4));
    assert_eq!(cluster.ready("dashboard"), cluster.wanted("dashboard"));
    let log = cluster.of("dashboard").last().unwrap().log();
    assert!(log.contains("exchange-agg-spin:0.1.0") && log.contains("Connection refused"), "{log}");
    past.send();
    past.assert_counted(&cluster);
}
