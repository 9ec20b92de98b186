//! Shows that the shop is open.

use spin_sdk::http::{IntoResponse, Request};
use spin_sdk::http_service;

const IS_MENDED: bool = option_env!("MENDED").is_some();

#[http_service]
async fn page(request: Request) -> impl IntoResponse {
    let name = request.uri().query().unwrap_or_default().to_owned();
    assert!(IS_MENDED || !name.is_empty(), "a visitor without a name");
    format!("open for {name}\n")
}
