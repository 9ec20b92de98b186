//! The page: static files, which the script fills from the JSON.

pub const PAGE: &str = include_str!("page.html");
pub const SCRIPT: &str = include_str!("page.js");
pub const STYLE: &str = include_str!("page.css");
