//! Asks for more than a host should give: rows, builders, connections, output, keys. What came of it is in words.

use spin_sdk::key_value::Store;
use spin_sdk::pg::Connection;
use spin_sdk::pg::wit::postgres::ConnectionBuilder;

/// What came of `nulls`, `numbers`, `builders`, `pools`, `handles` or `keys`; None for another word.
pub async fn ask(word: &str, address: &str) -> Option<String> {
    Some(match word {
        "nulls" => nulls(address).await,
        "numbers" => numbers(address).await,
        "builders" => builders().await,
        "pools" => pools(address).await,
        "handles" => handles(),
        "keys" => keys().await,
        _ => return None,
    })
}

async fn nulls(address: &str) -> String {
    let database = match Connection::open(address).await {
        Ok(database) => database,
        Err(error) => return format!("no connection: {error}"),
    };
    // As PostgreSQL makes them, without a temporary file of them all: whose disk is bounded by the role.
    let nulls = "SELECT nullif(number, number) FROM (SELECT generate_series(1, 20000000) AS number) AS numbers";
    match database.query(nulls, vec![]).await {
        Ok(mut result) => {
            let mut rows = 0;
            while result.next().await.is_some() {
                rows += 1;
            }
            format!("{rows} rows")
        }
        Err(error) => format!("refused: {error}"),
    }
}

/// More rows of a sequence than the host takes, then one on the same connection.
async fn numbers(address: &str) -> String {
    let database = match Connection::open(address).await {
        Ok(database) => database,
        Err(error) => return format!("no connection: {error}"),
    };
    let rows = match database.query("SELECT nextval('made') FROM generate_series(1, 20000000)", vec![]).await {
        Ok(_) => "taken".to_owned(),
        Err(error) => format!("refused: {error}"),
    };
    match database.query("SELECT 1", vec![]).await {
        Ok(_) => format!("{rows}; the connection goes on"),
        Err(error) => format!("{rows}; then {error}"),
    }
}

/// 200 builders of 8 MB each; the last one is asked to build.
async fn builders() -> String {
    let address = format!("host=h password={}", "x".repeat(8_000_000));
    let builders: Vec<_> = (0..200).map(|_| ConnectionBuilder::new(&address)).collect();
    let Some(last) = builders.last() else { return "none".to_owned() };
    match last.build_async().await {
        Ok(_) => "built".to_owned(),
        Err(error) => format!("refused: {error}"),
    }
}

/// 40 connections kept open by spellings of one address, then 40 one after another by different ones.
async fn pools(address: &str) -> String {
    let spellings = [
        format!("{address}?connect_timeout=9&application_name=pools"),
        format!("{address}?application_name=pools&connect_timeout=9"),
        format!("{address}?application_name=%70ools&connect_timeout=9"),
        format!("{address}?connect_timeout=9&&application_name=pools").replace("&&", "&keepalives=1&"),
    ];
    let mut open = Vec::new();
    for spelling in spellings.iter().cycle().take(40) {
        open.extend(Connection::open(spelling).await.ok());
    }
    let at_once = open.len();
    drop(open);
    let mut one_by_one = 0;
    for number in 0..40 {
        let one = Connection::open(format!("{address}?application_name=pool{number}")).await;
        one_by_one += usize::from(one.is_ok());
    }
    format!("{at_once} at once, {one_by_one} one by one")
}

/// 64 KiB of output through each of 2000 handles.
#[cfg(target_family = "wasm")]
fn handles() -> String {
    let piece = [b'x'; 4096];
    for _ in 0..2000 {
        let stdout = wasip2::cli::stdout::get_stdout();
        for _ in 0..16 {
            if let Err(error) = stdout.blocking_write_and_flush(&piece) {
                return format!("refused: {error}");
            }
        }
    }
    "written".to_owned()
}

#[cfg(not(target_family = "wasm"))]
fn handles() -> String {
    "there are no handles".to_owned()
}

/// 200 values of 1 MiB, and a key and a value that are too long.
async fn keys() -> String {
    let store = match Store::open_default().await {
        Ok(store) => store,
        Err(error) => return format!("no store: {error}"),
    };
    let value = vec![1; 1 << 20];
    let mut set = 0;
    let mut refused = String::new();
    for number in 0..200 {
        match store.set(format!("{number}"), &value).await {
            Ok(()) => set += 1,
            Err(error) => {
                refused = error.to_string();
                break;
            }
        }
    }
    let long_key = store.set("k".repeat(256), b"").await.is_err();
    let long_value = store.set("0", vec![1; (1 << 20) + 1]).await.is_err();
    format!("{set} set, then {refused}; long key refused {long_key}, long value refused {long_value}")
}
