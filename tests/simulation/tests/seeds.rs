//! Many seeds are clean; each mechanism taken out is noticed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use simulation::{Broken, Feed, Plan, run};
use window::late::Late;

/// `SEEDS=n` tries more of them.
fn seeds() -> u64 {
    std::env::var("SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(500)
}

fn all_clean(feed: Feed, late: Late) {
    for seed in 0..seeds() {
        let plan = Plan { seed, feed, late, broken: Broken::Nothing };
        let wrong = run(plan);
        assert!(wrong.is_empty(), "{plan:?}: {:#?}", &wrong[..wrong.len().min(5)]);
    }
}

#[test]
fn wild_feeds_are_counted_once_and_late_records_revise() {
    all_clean(Feed::Wild, Late::Revise);
}

#[test]
fn wild_feeds_are_counted_once_and_late_records_are_rejected() {
    all_clean(Feed::Wild, Late::Reject);
}

#[test]
fn punctual_feeds_are_never_late_whoever_dies() {
    all_clean(Feed::Punctual, Late::Revise);
}

#[test]
fn punctual_feeds_are_never_rejected_whoever_dies() {
    all_clean(Feed::Punctual, Late::Reject);
}

#[test]
fn a_source_that_is_hours_behind_and_falls_silent_goes_on_from_its_own_time() {
    all_clean(Feed::Historic, Late::Reject);
}

#[test]
fn each_mechanism_taken_out_is_noticed() {
    let broken = [
        (Broken::NoCompareAndSet, Feed::Wild, Late::Revise),
        (Broken::StateWithoutFence, Feed::Wild, Late::Revise),
        (Broken::RejectsWithoutFence, Feed::Wild, Late::Revise),
        (Broken::CloserReadsTwice, Feed::Wild, Late::Revise),
        (Broken::CloserReplaces, Feed::Wild, Late::Revise),
        (Broken::WatermarkFalls, Feed::Wild, Late::Revise),
        (Broken::NoShareLock, Feed::Wild, Late::Reject),
        (Broken::HostsClockRejects, Feed::Punctual, Late::Revise),
        (Broken::HostsClockPasses, Feed::Wild, Late::Revise),
        (Broken::LagLooksIdle, Feed::Punctual, Late::Revise),
        (Broken::DeadLooksAlive, Feed::Punctual, Late::Revise),
        (Broken::UnreportedIsIgnored, Feed::Punctual, Late::Revise),
        (Broken::IdleFollowsTheClock, Feed::Historic, Late::Reject),
        (Broken::CandidatesCountAtOnce, Feed::Historic, Late::Reject),
    ];
    for (broken, feed, late) in broken {
        // A schedule in which it matters may be rare.
        let noticed = (0..10 * seeds()).find(|seed| !run(Plan { seed: *seed, feed, late, broken }).is_empty());
        let seed = noticed.unwrap_or_else(|| panic!("{broken:?} goes unnoticed"));
        println!("{broken:?} is noticed with seed {seed}");
    }
}
