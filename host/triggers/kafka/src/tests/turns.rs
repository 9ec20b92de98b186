//! What is read ahead, and how many large batches are in flight.

use super::*;
use crate::turns::{LARGE_RECORDS, Turns};

const LARGE: i64 = 2_000;

/// Calls so far with a large batch.
fn large(stage: &Running) -> usize {
    stage.given().iter().filter(|given| given.offsets.len() >= LARGE_RECORDS).count()
}

#[tokio::test(start_paused = true)]
async fn the_next_batch_fills_while_one_is_in_flight() {
    let stage = run(FakeCluster::new(&[10]), EARLIEST, Duration::from_secs(1), applied()).await;
    stage.cluster.assign(&[0]);
    seconds(0.3).await;
    for _ in 0..2 {
        stage.cluster.append(0, 5);
        seconds(0.2).await;
    }
    assert_eq!(stage.batches(), [("first", 0, 10)], "it is in flight");
    assert_eq!(stage.cluster.on(0, |partition| partition.fetching), Some(20), "what came is taken in");
    seconds(2.0).await;
    assert_eq!(stage.batches(), [("first", 0, 10), ("first", 10, 20)]);
    assert_eq!(stage.cluster.commits().last(), Some(&(0, 20)));
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_read_ahead_is_read_again_where_the_function_wants_to_go_on_elsewhere() {
    let asked = Mutex::new(false);
    let answer: Answer = Box::new(move |batch| {
        let mut asked = asked.lock().unwrap();
        if batch.offsets.is_empty() || std::mem::replace(&mut asked, true) {
            return Ok(Outcome::Applied);
        }
        Ok(Outcome::ResumeAt(4))
    });
    let stage = run(FakeCluster::new(&[10]), EARLIEST, Duration::from_secs(1), answer).await;
    stage.cluster.assign(&[0]);
    seconds(0.5).await;
    stage.cluster.append(0, 5);
    seconds(5.0).await;
    assert_eq!(stage.batches(), [("first", 0, 10), ("first", 4, 15)]);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn large_batches_take_turns_and_small_ones_do_not() {
    let turns = Turns::new().left();
    let mut ends = vec![LARGE; turns + 5];
    ends.push(10);
    let stage = run(FakeCluster::new(&ends), EARLIEST, Duration::from_secs(1), applied()).await;
    stage.cluster.assign(&(0..i32::try_from(ends.len()).unwrap()).collect::<Vec<_>>());
    seconds(0.5).await;
    assert_eq!(large(&stage), turns);
    assert_eq!(stage.batches().iter().filter(|(_, _, next)| *next == 10).count(), 1);
    seconds(20.0).await;
    for (number, end) in (0..).zip(&ends) {
        assert!(stage.cluster.commits().contains(&(number, *end)), "{number}");
    }
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_is_held_up_gives_its_turn_back() {
    let turns = i32::try_from(Turns::new().left()).unwrap();
    let answer: Answer = Box::new(move |batch| {
        let is_held_up = batch.partition < turns && !batch.offsets.is_empty();
        Ok(if is_held_up { Outcome::RetryLater("its lock is taken".to_owned()) } else { Outcome::Applied })
    });
    let all: Vec<i32> = (0..2 * turns).collect();
    let stage = run(FakeCluster::new(&vec![LARGE; all.len()]), EARLIEST, Duration::from_secs(1), answer).await;
    stage.cluster.assign(&all);
    seconds(30.0).await;
    for number in all {
        assert_eq!(stage.cluster.commits().contains(&(number, LARGE)), number >= turns, "{number}");
    }
    stage.end().await;
}
