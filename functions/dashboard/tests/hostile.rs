//! Requests that nobody has thought of.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use dashboard::routes::Route;
use http::Method;
use proptest::prelude::*;

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

proptest! {
    #[test]
    fn any_path_and_query_is_a_route_or_a_refusal(path in "\\PC{0,40}", query in "[a-z=&%0-9+é]{0,80}") {
        match Route::parse(&Method::GET, &path, Some(&query)) {
            Ok(Route::Aggregates(query)) => prop_assert!((1..=10_000).contains(&query.limit)),
            Ok(_) => {}
            Err(refusal) => prop_assert!(matches!(refusal.status, 400 | 404)),
        }
    }

    #[test]
    fn every_text_comes_through_as_it_is(code in "[^\u{0}]{1,40}") {
        let query = format!("stream=s&code={}", encoded(&code));
        let Ok(Route::Aggregates(query)) = Route::parse(&Method::GET, "/api/aggregates", Some(&query)) else {
            panic!("{query} is refused");
        };
        prop_assert_eq!(query.code.as_deref(), Some(code.as_str()));
    }

    #[test]
    fn nothing_that_changes_anything_is_answered(method in "[A-Z]{1,8}", path in "/[a-z/]{0,20}") {
        let method: Method = method.parse().unwrap();
        prop_assume!(!matches!(method, Method::GET | Method::HEAD));
        prop_assert_eq!(Route::parse(&method, &path, None).unwrap_err().status, 405);
    }
}
