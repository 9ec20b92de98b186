//! What is told of a pipeline in which something is wrong.

use super::facts::{Facts, Gap, Host, HostState, Partition, RejectedLately, Stage, StagePartition, Stream};
use super::health::{Severity, State};
use super::*;

const NOW_US: i64 = 1_800_000_000_000_000;

/// A pipeline that is well: one host, one stream of two partitions, its closer.
pub fn well() -> Facts {
    let reads = |partition| StagePartition {
        topic: "t".to_owned(),
        partition,
        next_offset: Some(10),
        end_offset: 10,
        state: "reading".to_owned(),
        ..StagePartition::default()
    };
    let aggregator = Stage {
        id: "aggregator-kafka-trigger".to_owned(),
        trigger: "kafka".to_owned(),
        component: "aggregator".to_owned(),
        stream: Some("s".to_owned()),
        digest: "d1".to_owned(),
        partitions: Some(vec![reads(0), reads(1)]),
        ..Stage::default()
    };
    let closer = Stage {
        id: "closer-cron-trigger".to_owned(),
        trigger: "cron".to_owned(),
        component: "window-closer".to_owned(),
        closes: true,
        ..Stage::default()
    };
    let row = |partition| Partition {
        topic: "t".to_owned(),
        partition,
        partition_count: 2,
        next_offset: 10,
        end_offset: 10,
        event_us: Some(NOW_US - 1_000_000),
        seen_ago: 1.0,
        silent_for: 1.0,
    };
    Facts {
        now_us: NOW_US,
        hosts: vec![Host {
            host: "h".to_owned(),
            started_ago: 100.0,
            seen_ago: 1.0,
            silent_for: 1.0,
            state: HostState {
                name: "pod-1".to_owned(),
                state: "ready".to_owned(),
                stages: vec![aggregator, closer],
                ..HostState::default()
            },
        }],
        streams: vec![Stream {
            stream: "s".to_owned(),
            window_seconds: 60,
            slide_seconds: 60,
            allowed_lateness_seconds: 5,
            idle_timeout_seconds: 20,
            late: "revise".to_owned(),
            watermark_us: Some(NOW_US - 1_000_000),
            held_by: "topic t partition 0: still reading".to_owned(),
            updated_ago: 1.0,
            open_windows: 1,
            first_pending_us: Some(NOW_US + 30_000_000),
            partitions: vec![row(0), row(1)],
            ..Stream::default()
        }],
    }
}

/// The first cause, its severity and its command, where something is wrong.
fn told(break_it: impl FnOnce(&mut Facts)) -> (&'static str, Severity, String, String) {
    let mut facts = well();
    break_it(&mut facts);
    let health = Overview::new(&facts).health;
    let first = health.findings.first().unwrap_or_else(|| panic!("{health:?}"));
    (first.cause, first.severity, first.text.clone(), first.command.clone().unwrap_or_default())
}

fn stage(facts: &mut Facts, number: usize) -> &mut Stage {
    &mut facts.hosts[0].state.stages[number]
}

fn partition(facts: &mut Facts) -> &mut StagePartition {
    &mut stage(facts, 0).partitions.as_mut().unwrap()[1]
}

#[test]
fn a_pipeline_that_is_well_says_so() {
    let overview = Overview::new(&well());
    assert_eq!(overview.health.state, State::Healthy);
    assert!(overview.health.findings.is_empty() && overview.health.command.is_none(), "{:?}", overview.health);
    let stream = &overview.streams[0];
    assert!(stream.partitions[0].holds_watermark && !stream.partitions[1].holds_watermark);
    assert_eq!((stream.seconds_behind, stream.partitions[1].host.as_deref()), (Some(0.0), Some("pod-1")));
    assert_eq!(Overview::new(&Facts { hosts: well().hosts, ..Facts::default() }).health.state, State::Healthy);
}

#[test]
fn what_stops_a_partition_decides_what_mends_it() {
    for (reason, cause, command) in [
        ("the function says stop", "partition_stopped", "exagg swap aggregator fixed.wasm"),
        (
            "topic t partition 1 offset 7 cannot be applied: it traps",
            "poison_record",
            "exagg swap aggregator fixed.wasm",
        ),
        ("records were deleted before they were read (on_gap = \"stop\")", "gap", "exagg reset --stream s --topic t"),
        ("topic t was deleted and recreated", "topic_recreated", "exagg reset --stream s --topic t"),
    ] {
        let found = told(|facts| {
            let partition = partition(facts);
            partition.state = "stopped".to_owned();
            partition.reason = Some(reason.to_owned());
            partition.since = Some("2026-01-01T00:00:00Z".to_owned());
            // The stage says the same.
            stage(facts, 0).not_ready = Some(format!("topic t partition 1 is stopped: {reason}"));
        });
        assert_eq!((found.0, found.1, found.3.as_str()), (cause, Severity::Error, command));
        assert!(found.2.contains(reason) && found.2.contains("Partition 1 of topic t"), "{}", found.2);
    }
}

/// The watermark could have risen since a record that came so long ago.
fn stuck_for(seconds: f64) -> impl Fn(&mut Facts) {
    move |facts| {
        let stream = &mut facts.streams[0];
        stream.watermark_us = Some(NOW_US - 20_000_000);
        stream.updated_ago = 18.0;
        stream.partitions.iter_mut().for_each(|partition| partition.silent_for = seconds);
    }
}

#[test]
fn who_is_away_is_named() {
    let kafka = told(|facts| stage(facts, 0).not_ready = Some("no Kafka broker can be reached".to_owned()));
    assert_eq!((kafka.0, kafka.1), ("kafka_unreachable", Severity::Error));
    let topic = told(|facts| stage(facts, 0).not_ready = Some("there is no topic t".to_owned()));
    assert!(topic.0 == "topic_missing" && topic.3.contains("--create --topic t"), "{topic:?}");
    // It was there, and has stopped.
    let closer = told(|facts| {
        let mut stopped = facts.hosts[0].clone();
        stopped.state.state = "stopped".to_owned();
        facts.hosts[0].state.stages.remove(1);
        facts.hosts.push(stopped);
    });
    assert_eq!(
        (closer.0, closer.1, closer.3.as_str()),
        ("closer_away", Severity::Error, "exagg up --component-id window-closer")
    );
    // It is there, and does not come to its work.
    let stuck = told(|facts| {
        stuck_for(8.0)(facts);
    });
    assert_eq!((stuck.0, stuck.1), ("closer_away", Severity::Error));
    // A record came just now, after a pause; a partition was never heard of; or nobody says that windows are closed, and
    // they are.
    for is_well in [
        &stuck_for(0.5) as &dyn Fn(&mut Facts),
        &|facts| {
            stuck_for(8.0)(facts);
            facts.streams[0].partitions.iter_mut().for_each(|partition| partition.partition_count = 3);
        },
        &|facts| drop(facts.hosts[0].state.stages.remove(1)),
    ] {
        let mut facts = well();
        is_well(&mut facts);
        let health = Overview::new(&facts).health;
        assert_eq!(health.state, State::Healthy, "{health:?}");
    }
    let all = told(|facts| facts.hosts[0].state.state = "stopped".to_owned());
    assert_eq!((all.0, all.3.as_str()), ("no_host", "exagg up"));
    let silent = told(|facts| facts.hosts.clear());
    assert_eq!((silent.0, silent.1), ("hosts_silent", Severity::Warning));
}

#[test]
fn a_partition_that_nobody_reads_is_told_with_its_component() {
    let unattended = |seen_ago| {
        move |facts: &mut Facts| {
            stage(facts, 0).what = "t".to_owned();
            stage(facts, 0).partitions.as_mut().unwrap().pop();
            facts.streams[0].partitions[1].seen_ago = seen_ago;
        }
    };
    let lose = |facts: &mut Facts| {
        let mut lost = well().hosts.remove(0);
        (lost.seen_ago, lost.silent_for, lost.state.name) = (5.0, 5.0, "pod-2".to_owned());
        lost.state.stages.truncate(1);
        facts.hosts.push(lost);
    };
    let of_a_dead_host = told(|facts| {
        unattended(5.0)(facts);
        lose(facts);
    });
    let up = "exagg up --component-id aggregator";
    assert_eq!(
        (of_a_dead_host.0, of_a_dead_host.1, of_a_dead_host.3.as_str()),
        ("partition_unattended", Severity::Error, up)
    );
    assert_eq!(told(unattended(11.0)).3, up);
    let retired = told(|facts| {
        unattended(11.0)(facts);
        stage(facts, 0).what = "another".to_owned();
    });
    assert_eq!(retired.3, "exagg forget --stream s --topic t");
    for is_well in [
        &unattended(8.0) as &dyn Fn(&mut Facts),
        // Of very many it names some.
        &|facts| {
            unattended(11.0)(facts);
            stage(facts, 0).partition_count = Some(2);
        },
    ] {
        let mut facts = well();
        is_well(&mut facts);
        assert_eq!(Overview::new(&facts).health.state, State::Healthy, "it may be on its way to another host");
    }
}

#[test]
fn a_host_that_went_without_a_word_is_told_unless_it_is_back() {
    let lose = |facts: &mut Facts, seen_ago: f64| {
        let mut other = facts.hosts[0].clone();
        (other.seen_ago, other.silent_for, other.state.name) = (seen_ago, seen_ago, "pod-2".to_owned());
        facts.hosts.push(other);
    };
    let found = told(|facts| lose(facts, 5.0));
    assert_eq!((found.0, found.1, found.3.as_str()), ("host_lost", Severity::Warning, ""));
    let found = told(|facts| {
        lose(facts, 5.0);
        let other = &mut facts.hosts[1].state.stages;
        other.truncate(1);
        other[0].id = "another".to_owned();
        other[0].stream = None;
        other[0].partitions = None;
    });
    let up = "exagg up --component-id aggregator";
    assert_eq!((found.0, found.1, found.3.as_str()), ("host_lost", Severity::Error, up));
    let mut facts = well();
    lose(&mut facts, 105.0);
    facts.hosts[1].state.name = "pod-1".to_owned();
    assert_eq!(Overview::new(&facts).health.state, State::Healthy, "it was started again");
    let mut facts = well();
    lose(&mut facts, 60.0);
    facts.hosts[1].silent_for = 2.0;
    assert_eq!(Overview::new(&facts).health.state, State::Healthy, "the database was down meanwhile");
}

#[test]
fn a_slow_partition_that_holds_the_watermark_is_named() {
    let held = |behind_us: i64| {
        move |facts: &mut Facts| {
            let stream = &mut facts.streams[0];
            stream.watermark_us = Some(NOW_US - behind_us);
            stream.partitions[0].event_us = Some(NOW_US - behind_us);
        }
    };
    let found = told(held(40_000_000));
    assert_eq!((found.0, found.1), ("watermark_held", Severity::Warning));
    assert!(found.2.contains("Partition 0 of topic t") && found.2.contains("39 seconds"), "{}", found.2);
    let mut facts = well();
    held(20_000_000)(&mut facts);
    assert_eq!(Overview::new(&facts).health.state, State::Healthy, "it may fall idle");
}

#[test]
fn what_is_not_counted_is_told_by_its_reason() {
    let rejected = |reason: &str| {
        told(|facts| {
            facts.streams[0].rejected_lately =
                vec![RejectedLately { reason: reason.to_owned(), records: 3, first_ago: 60.0 }];
        })
    };
    assert_eq!(
        (rejected("not_json").0, rejected("not_json").3.as_str()),
        ("records_rejected", "exagg rejects --stream s")
    );
    assert_eq!(rejected("future").0, "future_clock");
    assert_eq!(rejected("late").0, "records_late");
    assert!(rejected("late").3.starts_with("exagg replay --stream s"));
    let gap = told(|facts| {
        facts.streams[0].latest_gap = Some(Gap {
            seen_ago: 5.0,
            topic: "t".to_owned(),
            from_offset: 3,
            next_offset: 8,
            reason: "why".to_owned(),
            ..Gap::default()
        });
    });
    assert!(gap.0 == "gap" && gap.2.starts_with("5 records of topic t partition 0"), "{gap:?}");
}

#[test]
fn functions_and_hosts_in_trouble_are_told() {
    let taken_back = told(|facts| stage(facts, 0).rolled_back = Some("it traps".to_owned()));
    assert_eq!((taken_back.0, taken_back.1), ("version_taken_back", Severity::Warning));
    let budget = told(|facts| {
        let partition = partition(facts);
        partition.state = "waiting".to_owned();
        partition.reason = Some("no instance could be made: the budget of component aggregator is used up".to_owned());
        stage(facts, 0).refused_since = Some("2026-01-01T00:00:00Z".to_owned());
    });
    assert_eq!((budget.0, budget.1), ("budget_used_up", Severity::Error));
    let waits = |reason: &str, seconds: i64| {
        let (reason, since) = (reason.to_owned(), facts::time(NOW_US - seconds * 1_000_000));
        move |facts: &mut Facts| {
            let partition = partition(facts);
            partition.state = "waiting".to_owned();
            (partition.reason, partition.since) = (Some(reason.clone()), Some(since.clone()));
        }
    };
    let trap = told(waits("the function trapped: unreachable", 9));
    assert_eq!((trap.0, trap.3.as_str()), ("function_failing", "exagg swap aggregator --back"));
    let settings = told(waits("the stream s has rows up to now that were made with window_seconds 60, here 30", 9));
    assert_eq!((settings.0, settings.3.as_str()), ("settings_changed", "exagg replay --stream s --from earliest"));
    assert_eq!(told(waits("PostgreSQL is away", 9)).0, "partition_waiting");
    let mut facts = well();
    waits("a replay of the stream is about to end", 2)(&mut facts);
    assert_eq!(Overview::new(&facts).health.state, State::Healthy, "a moment later it goes on");
    let works_not = told(|facts| stage(facts, 0).not_ready = Some("the last rebalance failed: x".to_owned()));
    assert_eq!(works_not.0, "stage_not_ready");
    let joins = told(|facts| stage(facts, 0).not_ready = Some("it joins its consumer group".to_owned()));
    assert_eq!((joins.0, joins.1), ("joining", Severity::Warning));
    let api = told(|facts| stage(facts, 1).failing = Some("the API is away".to_owned()));
    assert_eq!((api.0, api.1), ("function_failing", Severity::Error));
    let clock = told(|facts| facts.hosts[0].state.clock_ahead_seconds = Some(-7.2));
    assert!(clock.0 == "clock_differs" && clock.2.contains("7 seconds behind PostgreSQL's"), "{clock:?}");
    let behind = told(|facts| partition(facts).lag_seconds = 90.0);
    assert_eq!((behind.0, behind.1), ("behind", Severity::Warning));
}

#[test]
fn errors_come_before_warnings_and_names_stay_words_of_a_shell() {
    let mut facts = well();
    stage(&mut facts, 0).component = "a b'; rm -rf /".to_owned();
    stage(&mut facts, 0).rolled_back = Some("x".to_owned());
    stage(&mut facts, 1).not_ready = Some("no broker".to_owned());
    let health = Overview::new(&facts).health;
    let causes: Vec<_> = health.findings.iter().map(|finding| finding.cause).collect();
    assert_eq!(causes, ["kafka_unreachable", "version_taken_back"]);
    assert_eq!(health.findings[1].command.as_deref(), Some("exagg swap 'a b'\\''; rm -rf /' fixed.wasm"));
}
