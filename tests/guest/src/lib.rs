//! A Kafka function that does what its records say: `trap`, `loop`, `allocate`, `poison`, `stop`,
//! `leak` (traps in an open transaction), `flood`, `reach URL` (what came of it is written), `headers`
//! (how many it has is written), `calls` (how many such records this instance has had), `session` (what an earlier one left
//! in the connection's session);
//! `nulls`, `builders`, `pools`, `handles` and `keys` ask for too much (what came of it is written);
//! anything else is written to the table `seen`. With `TRAP_ALWAYS` in its environment it
//! traps at once, with `TRAP_ON_RECORDS` where there are any, with `STOP_ALWAYS` it answers `stop`.
#![allow(clippy::panic, clippy::expect_used, reason = "misbehaving is this function's job")]

mod again;
mod limits;
mod reach;

use exagg_sdk::kafka::{Batch, Outcome, Poisoned};
use spin_sdk::pg::Connection;
use spin_sdk::variables;

exagg_sdk::kafka_function!(handle);

async fn handle(batch: Batch) -> Outcome {
    assert!(std::env::var_os("TRAP_ALWAYS").is_none(), "told to trap");
    if std::env::var_os("TRAP_ON_RECORDS").is_some() {
        assert!(batch.is_empty(), "told to trap");
        return Outcome::Applied;
    }
    if std::env::var_os("STOP_ALWAYS").is_some() {
        return Outcome::Stop("told to stop always".to_owned());
    }
    let url = variables::get("postgres_url").await.expect("a variable");
    let database = match Connection::open(url.as_str()).await {
        Ok(database) => database,
        Err(error) => return Outcome::RetryLater(error.to_string()),
    };
    let mut offsets = Vec::new();
    let mut values = Vec::new();
    for message in batch.messages() {
        let mut value = String::from_utf8_lossy(message.value.unwrap_or_default()).into_owned();
        match value.as_str() {
            "trap" => panic!("told to trap"),
            "loop" => spin(),
            "allocate" => allocate(),
            "flood" => (0..100_000).for_each(|number| println!("line {number}")),
            "poison" => {
                return Outcome::Poison(Poisoned { offset: message.offset, reason: "told so".to_owned() });
            }
            "headers" => value = format!("ok {} headers", message.headers().count()),
            "calls" => value = again::calls(),
            "session" => value = again::session(&database).await,
            "stop" => return Outcome::Stop("told to stop".to_owned()),
            "leak" => {
                database.execute("BEGIN", vec![]).await.expect("a transaction");
                // A second try in the same transaction must not end it by an error.
                let insert = "INSERT INTO seen (record_offset, value) VALUES (-1, 'leaked') ON CONFLICT DO NOTHING";
                database.execute(insert, vec![]).await.expect("a row");
                panic!("told to trap in a transaction");
            }
            text => {
                if let Some(url) = text.strip_prefix("reach ") {
                    let came = reach::reach(url).await;
                    value = format!("{url} {came}");
                } else if let Some(came) = limits::ask(text, &url).await {
                    value = format!("{text}: {came}");
                }
            }
        }
        offsets.push(message.offset);
        values.push(value);
    }
    if offsets.is_empty() {
        return Outcome::Applied;
    }
    let insert = "INSERT INTO seen (record_offset, value)
                  SELECT * FROM unnest($1::int8[], $2::text[]) ON CONFLICT (record_offset) DO NOTHING";
    match database.execute(insert, vec![offsets.into(), values.into()]).await {
        Ok(_) => Outcome::Applied,
        Err(error) => Outcome::RetryLater(error.to_string()),
    }
}

fn spin() {
    let mut number = 1u64;
    while std::hint::black_box(number) != 0 {
        number = number.wrapping_mul(3) | 1;
    }
}

fn allocate() {
    let mut held = Vec::new();
    loop {
        held.push(std::hint::black_box(vec![1u8; 1 << 20]));
    }
}
