//! Answers `wasi:http` 0.2 requests with what PostgreSQL says through `spin:postgres` 3.0, and `/large` with
//! more than a connection takes while nobody reads it. It loops at `/loop`, takes all memory at `/allocate` and
//! traps at `/trap`.
#![cfg(target_family = "wasm")]
#![allow(clippy::panic, reason = "misbehaving is a part of this function's job")]

#[allow(clippy::all, clippy::pedantic, unsafe_code, reason = "generated from the WIT")]
mod bindings {
    use spin_sdk::wit_bindgen;
    wit_bindgen::generate!({
        runtime_path: "::spin_sdk::wit_bindgen::rt",
        inline: "package exagg:guest; world p2 { import spin:postgres/postgres@3.0.0; }",
        path: "../../wit/deps/spin-postgres@3.0.0",
        generate_all,
    });
}

use std::io::Write;

use bindings::spin::postgres::postgres::{Connection, DbValue, ParameterValue};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

const CHUNK_BYTES: usize = 64 * 1024;
const LARGE_BYTES: usize = 64 * 1024 * 1024;

struct Component;

wasip2::http::proxy::export!(Component);

impl Guest for Component {
    fn handle(request: IncomingRequest, answer: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        misbehave(&path);
        let is_large = path.ends_with("/large");
        let (status, text) = match (!is_large).then(|| ask(&path)).transpose() {
            Ok(text) => (200, text.unwrap_or_default()),
            Err(error) => (500, error),
        };
        let response = OutgoingResponse::new(Fields::new());
        let _ = response.set_status_code(status);
        let body = response.body();
        ResponseOutparam::set(answer, Ok(response));
        if let Ok(body) = body {
            if let Ok(mut stream) = body.write() {
                let _ = stream.write_all(text.as_bytes());
                if is_large {
                    let chunk = vec![b'x'; CHUNK_BYTES];
                    // It ends with the client that does not read on.
                    let _ = (0..LARGE_BYTES / CHUNK_BYTES).try_for_each(|_| stream.write_all(&chunk));
                }
            }
            let _ = OutgoingBody::finish(body, None);
        }
    }
}

fn ask(path: &str) -> Result<String, String> {
    let url = std::env::var("POSTGRES_URL").map_err(|error| error.to_string())?;
    let database = Connection::open(&url).map_err(|error| format!("{error:?}"))?;
    let parameter = ParameterValue::Str(path.to_owned());
    let rows = database.query("SELECT 'at ' || $1, 6 * 7", &[parameter]).map_err(|error| format!("{error:?}"))?;
    match rows.rows.first().map(Vec::as_slice) {
        Some([DbValue::Str(text), DbValue::Int32(number)]) => Ok(format!("{text}: {number}")),
        other => Err(format!("{other:?}")),
    }
}

/// Does not come back from some paths.
fn misbehave(path: &str) {
    match path.rsplit('/').next() {
        Some("trap") => panic!("told to trap"),
        Some("loop") => {
            let mut number = 1u64;
            while std::hint::black_box(number) != 0 {
                number = number.wrapping_mul(3) | 1;
            }
        }
        Some("allocate") => {
            let mut held = Vec::new();
            loop {
                held.push(std::hint::black_box(vec![1u8; 1 << 20]));
            }
        }
        _ => {}
    }
}
