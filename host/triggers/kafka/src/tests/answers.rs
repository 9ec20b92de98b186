//! What becomes of a batch, by what the function answers.

use std::sync::atomic::{AtomicBool, Ordering};

use exagg_runtime::instance::CallError;

use super::*;
use crate::bindings::exagg::kafka::types::Poisoned;

fn traps_on(offset: i64) -> Answer {
    Box::new(move |batch| {
        let traps = batch.offsets.contains(&offset);
        if traps { Err(CallError::Trapped("unreachable".to_owned())) } else { Ok(Outcome::Applied) }
    })
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_traps_is_split_down_to_the_one_record() {
    let stage = run(FakeCluster::new(&[16]), EARLIEST, Duration::ZERO, traps_on(11)).await;
    stage.cluster.assign(&[0]);
    seconds(60.0).await;
    let letters = stage.letters.lock().unwrap().clone();
    assert_eq!(letters.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [11]);
    assert!(letters[0].1.contains("unreachable"));
    assert_eq!(stage.cluster.commits().last(), Some(&(0, 16)));
    let applied: Vec<i64> = stage
        .given()
        .into_iter()
        .filter(|given| !given.offsets.contains(&11))
        .flat_map(|given| given.offsets)
        .collect();
    assert_eq!(applied, (0..16).filter(|offset| *offset != 11).collect::<Vec<_>>(), "its neighbours, once each");
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_function_that_always_traps_is_not_taken_for_bad_records() {
    let is_broken = Arc::new(AtomicBool::new(false));
    let looked = Arc::clone(&is_broken);
    let answer: Answer = Box::new(move |_| {
        let trap = CallError::Trapped("unreachable".to_owned());
        if looked.load(Ordering::Relaxed) { Err(trap) } else { Ok(Outcome::Applied) }
    });
    let stage = run(FakeCluster::new(&[4]), EARLIEST, Duration::ZERO, answer).await;
    stage.cluster.assign(&[0]);
    seconds(0.05).await;
    is_broken.store(true, Ordering::Relaxed);
    stage.cluster.append(0, 4);
    seconds(120.0).await;
    assert!(stage.letters.lock().unwrap().is_empty());
    assert!(matches!(stage.state_of(0), PartitionState::Waiting(_)));
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_function_names_as_poison_is_dead_lettered_and_the_rest_applied() {
    let answer: Answer = Box::new(|batch| {
        let poison = Outcome::Poison(Poisoned { offset: 2, reason: "not JSON".to_owned() });
        Ok(if batch.offsets.contains(&2) { poison } else { Outcome::Applied })
    });
    let stage = run(FakeCluster::new(&[4]), EARLIEST, Duration::ZERO, answer).await;
    stage.cluster.assign(&[0]);
    seconds(10.0).await;
    assert_eq!(*stage.letters.lock().unwrap(), [(2, "not JSON".to_owned())]);
    assert_eq!(stage.given().last().map(|given| given.offsets.clone()), Some(vec![]));
    assert_eq!(stage.cluster.commits().last(), Some(&(0, 4)));
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_version_that_fails_its_trial_is_taken_back_and_nothing_is_dead_lettered() {
    let stage = run(FakeCluster::new(&[4]), EARLIEST, Duration::ZERO, applied()).await;
    stage.cluster.assign(&[0]);
    seconds(1.0).await;
    let poison: Answer = Box::new(|batch| match batch.offsets.first() {
        Some(offset) => Ok(Outcome::Poison(Poisoned { offset: *offset, reason: "no".to_owned() })),
        None => Ok(Outcome::Applied),
    });
    stage.slot.swap(Arc::new(scripted("second", poison, &stage.given)));
    stage.cluster.append(0, 4);
    seconds(10.0).await;
    let versions: Vec<_> = stage.batches().into_iter().map(|(version, ..)| version).collect();
    assert_eq!(versions, ["first", "second", "second", "second", "first"]);
    assert!(stage.letters.lock().unwrap().is_empty());
    assert_eq!(stage.slot.status().rolled_back.as_deref(), Some("no"));
    assert_eq!(stage.cluster.commits().last(), Some(&(0, 8)));
    stage.end().await;
}

/// Names one record as poison, and applies the others.
fn refuses(offset: i64) -> Answer {
    Box::new(move |batch| {
        Ok(if batch.offsets.contains(&offset) {
            Outcome::Poison(Poisoned { offset, reason: "no".to_owned() })
        } else {
            Outcome::Applied
        })
    })
}

/// A record that no version can apply is no reason to go back. Take out: `reinstate` in `Dispatcher::attempt`.
#[tokio::test(start_paused = true)]
async fn a_version_on_trial_that_meets_what_the_one_before_fails_at_too_stays() {
    let stage = run(FakeCluster::new(&[4]), EARLIEST, Duration::ZERO, refuses(6)).await;
    stage.cluster.assign(&[0]);
    seconds(1.0).await;
    stage.slot.swap(Arc::new(scripted("second", refuses(6), &stage.given)));
    stage.cluster.append(0, 4);
    seconds(30.0).await;
    let versions: Vec<_> = stage.batches().into_iter().map(|(version, ..)| version).collect();
    assert_eq!(versions[..5], ["first", "second", "second", "second", "first"], "the same records, to compare");
    assert_eq!((stage.slot.current().version, stage.slot.status().rolled_back), ("second", None));
    assert_eq!(stage.letters.lock().unwrap().len(), 1, "the record alone");
    assert_eq!(stage.cluster.commits().last(), Some(&(0, 8)));
    stage.end().await;
}

/// That the version before fails at one record of a batch is no proof for one that fails at all of them. Take out: the
/// comparison of records in `Dispatcher::attempt`.
#[tokio::test(start_paused = true)]
async fn a_version_that_fails_at_everything_is_not_put_back_for_one_bad_record() {
    let traps: Answer = Box::new(|batch| {
        if batch.offsets.is_empty() { Ok(Outcome::Applied) } else { Err(CallError::Trapped("always".to_owned())) }
    });
    let stage = run(FakeCluster::new(&[4]), EARLIEST, Duration::ZERO, refuses(6)).await;
    stage.cluster.assign(&[0]);
    seconds(1.0).await;
    stage.slot.swap(Arc::new(scripted("second", traps, &stage.given)));
    stage.cluster.append(0, 4);
    seconds(30.0).await;
    assert_eq!(stage.slot.current().version, "first");
    assert_eq!(stage.letters.lock().unwrap().iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [6]);
    assert_eq!(stage.cluster.commits().last(), Some(&(0, 8)));
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_swap_takes_effect_between_two_batches() {
    let stage = run(FakeCluster::new(&[4]), EARLIEST, Duration::from_secs(2), applied()).await;
    stage.cluster.assign(&[0]);
    seconds(1.0).await;
    stage.slot.swap(Arc::new(scripted("second", applied(), &stage.given)));
    stage.cluster.append(0, 4);
    seconds(3.0).await;
    assert_eq!(stage.batches(), [("first", 0, 4), ("second", 4, 8)]);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_tried_again_with_growing_pauses_and_the_same_records() {
    let answer: Answer = Box::new(|batch| {
        let later = Outcome::RetryLater("the database is away".to_owned());
        Ok(if batch.offsets.is_empty() { Outcome::Applied } else { later })
    });
    let settings = format!("{EARLIEST}\nretry_backoff_ms_min = 1000\nretry_backoff_ms_max = 8000");
    let stage = run(FakeCluster::new(&[4]), &settings, Duration::ZERO, answer).await;
    stage.cluster.assign(&[0]);
    seconds(1.0).await;
    assert_eq!(stage.state_of(0), PartitionState::Waiting("the database is away".to_owned()));
    // Pauses are between half and all of 1, 2, 4, 8, 8, … seconds.
    seconds(62.0).await;
    let calls = stage.batches();
    assert!((9..=17).contains(&calls.len()), "{}", calls.len());
    assert!(calls.iter().all(|call| *call == ("first", 0, 4)));
    assert_eq!(stage.cluster.commits(), [(0, 0)]);
    stage.end().await;
}
