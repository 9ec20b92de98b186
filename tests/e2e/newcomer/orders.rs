//! Orders of a shop: each is priced by a service and kept in a table. `option_env!("MENDED")` tells the version that
//! has met its bad orders from the first one, which does what they say.

use exagg_sdk::kafka::{Batch, Outcome, Poisoned};
use spin_sdk::pg::Connection;
use spin_sdk::{http, variables};

exagg_sdk::kafka_function!(handle);

const IS_MENDED: bool = option_env!("MENDED").is_some();

async fn handle(batch: Batch) -> Outcome {
    if batch.is_empty() {
        return Outcome::Applied;
    }
    match keep(&batch).await {
        Ok(()) => Outcome::Applied,
        Err(outcome) => outcome,
    }
}

/// What comes of a service that is away is tried again.
fn later(error: impl std::fmt::Display) -> Outcome {
    Outcome::RetryLater(error.to_string())
}

async fn variable(name: &str) -> Result<String, Outcome> {
    variables::get(name).await.map_err(|error| later(format!("variable {name}: {error}")))
}

async fn keep(batch: &Batch) -> Result<(), Outcome> {
    let (prices, database) = (variable("prices").await?, variable("database").await?);
    let database = Connection::open(database.as_str()).await.map_err(later)?;
    for message in batch.messages() {
        let order = String::from_utf8_lossy(message.value.unwrap_or_default()).into_owned();
        if !IS_MENDED {
            misbehave(&order, message.offset, &prices, &database).await?;
        }
        let answer = http::get(format!("{prices}/price")).await.map_err(later)?;
        let insert = "INSERT INTO orders VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
        let status = i32::from(answer.status().as_u16());
        database.execute(insert, vec![message.offset.into(), order.into(), status.into()]).await.map_err(later)?;
    }
    Ok(())
}

/// The bugs of the first version.
async fn misbehave(order: &str, offset: i64, prices: &str, database: &Connection) -> Result<(), Outcome> {
    match order {
        "index" => {
            let discounts: Vec<u32> = order.bytes().map(u32::from).filter(|byte| *byte > 200).collect();
            println!("{}", discounts[offset as usize]);
        }
        "loop" => while std::hint::black_box(true) {},
        "memory" => {
            let mut all = Vec::new();
            loop {
                all.push(std::hint::black_box(vec![1u8; 1 << 20]));
            }
        }
        "elsewhere" => drop(http::get("http://example.com/").await.map_err(later)?),
        "refused" => drop(http::get("http://127.0.0.1:9/").await.map_err(later)?),
        "slow" => drop(http::get(format!("{prices}/slow")).await.map_err(later)?),
        "table" => drop(database.execute("INSERT INTO odrers VALUES (1)", vec![]).await.map_err(later)?),
        "sleep" => drop(database.execute("SELECT pg_sleep(3600)", vec![]).await.map_err(later)?),
        "port" => drop(Connection::open("postgres://shop@127.0.0.1:9/shop").await.map_err(later)?),
        "variable" => drop(variable("discount").await?),
        "poison" => return Err(Outcome::Poison(Poisoned { offset, reason: "an order without articles".into() })),
        _ => {}
    }
    Ok(())
}
