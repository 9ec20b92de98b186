//! Tries to get out: to a destination, or to the file system. The answer is in words.

use std::io::Write;

use exagg_sdk::producer::{self, Message};
use spin_sdk::key_value::Store;
use spin_sdk::pg::Connection;

/// What came of `reach URL`, where the scheme says how: `postgres`, `kafka`, `http`, `follow`
/// (http, and then where the answer points to), `keys` (key-value), `tcp`, `read` and `write`.
pub async fn reach(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "not a URL".to_owned() };
    match scheme {
        "postgres" => said(Connection::open(url).await.map(|_| "connected")),
        "kafka" => {
            let message = Message { topic: "forbidden".into(), key: None, value: None, headers: Vec::new() };
            said(producer::send(rest, vec![message]).await.map(|_| "sent"))
        }
        "http" => said(spin_sdk::http::get(url).await.map(|answer| answer.status().as_u16().to_string())),
        "follow" => follow(rest).await,
        "keys" => said(keys(rest).await),
        "tcp" => said(std::net::TcpStream::connect(rest).map(|_| "connected")),
        "read" => said(std::fs::read_to_string(rest)),
        "write" => said(std::fs::File::create(rest).and_then(|mut file| file.write_all(b"x")).map(|()| "written")),
        _ => "no such scheme".to_owned(),
    }
}

/// Sets a key beside those that are there, and names all of them.
async fn keys(name: &str) -> Result<String, spin_sdk::key_value::Error> {
    let store = Store::open_default().await?;
    store.set(name, b"1").await?;
    let mut keys = store.get_keys().await.collect().await?;
    keys.sort();
    Ok(keys.join(","))
}

/// As a client that follows redirects does: the second request is checked as the first.
async fn follow(address: &str) -> String {
    let answer = match spin_sdk::http::get(format!("http://{address}")).await {
        Ok(answer) => answer,
        Err(error) => return format!("refused: {error}"),
    };
    match answer.headers().get("location").and_then(|value| value.to_str().ok()) {
        Some(location) => said(spin_sdk::http::get(location).await.map(|answer| answer.status().as_u16().to_string())),
        None => "no redirect".to_owned(),
    }
}

fn said<T: ToString, E: ToString>(result: Result<T, E>) -> String {
    match result {
        Ok(done) => format!("done: {}", done.to_string()),
        Err(error) => format!("refused: {}", error.to_string()),
    }
}
