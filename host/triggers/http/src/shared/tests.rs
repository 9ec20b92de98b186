use exagg_runtime::budget::Limits;
use http::Request;

use super::*;

const BRIEF: [(&str, &str); 2] = [("cache-control", "public, max-age=0, s-maxage=1"), ("etag", "\"1\"")];

fn asked(headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().uri("http://h/a");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn key(headers: &[(&str, &str)]) -> Key {
    Key::of(0, "digest", &asked(headers)).unwrap()
}

fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Response<WasiBody> {
    let mut answer = Response::builder().status(status);
    for (name, value) in headers {
        answer = answer.header(*name, *value);
    }
    answer.body(full(Bytes::from(body.to_owned()))).unwrap()
}

fn account() -> Arc<Account> {
    Account::root("component a", Limits::NONE)
}

async fn text(answer: Response<WasiBody>) -> String {
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

fn lead(shared: &Shared, key: &Key) -> Flight {
    match shared.look(key, &asked(&[])) {
        Look::Lead(flight) => flight,
        _ => panic!("somebody calls already, or it is there"),
    }
}

/// One call of the route, which is answered so.
async fn call(shared: &Shared, key: &Key, given: Response<WasiBody>, account: &Arc<Account>) -> Response<WasiBody> {
    let flight = lead(shared, key);
    shared.landed(0, &asked(&[]), given, Some(flight), account).await
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_shared_only_where_the_function_says_so_and_nothing_is_against_it() {
    for (headers, is_shared) in [
        (&BRIEF[..], true),
        (&[("cache-control", "s-maxage=1"), ("vary", "Accept, accept-encoding")][..], true),
        (&[][..], false),
        (&[("cache-control", "public, max-age=60")][..], false),
        (&[("cache-control", "immutable")][..], false),
        (&[("cache-control", "s-maxage=0")][..], false),
        (&[("cache-control", "s-maxage=60, no-store")][..], false),
        (&[("cache-control", "s-maxage=60, private=\"x\"")][..], false),
        (&[("cache-control", "s-maxage=60"), ("vary", "cookie")][..], false),
        (&[("cache-control", "s-maxage=60"), ("vary", "*")][..], false),
        (&[("cache-control", "s-maxage=60"), ("set-cookie", "a=b")][..], false),
        (&[("last-modified", "Mon, 01 Jan 2001 00:00:00 GMT")][..], false),
    ] {
        let shared = Shared::default();
        assert_eq!(text(call(&shared, &key(&[]), answer(200, headers, "body"), &account()).await).await, "body");
        let next = shared.look(&key(&[]), &asked(&[]));
        assert_eq!(matches!(next, Look::Answer(_)), is_shared, "{headers:?}");
        // A route that shares nothing holds nobody up.
        assert_eq!(matches!(next, Look::Call), !is_shared, "{headers:?}");
    }
}

#[test]
fn a_request_of_somebodys_own_is_not_shared() {
    for headers in
        [("authorization", "x"), ("range", "bytes=0-1"), ("content-length", "3"), ("transfer-encoding", "chunked")]
    {
        assert_eq!(Key::of(0, "digest", &asked(&[headers])), None, "{headers:?}");
    }
    assert!(Key::of(0, "digest", &asked(&[("content-length", "0"), ("cache-control", "no-cache")])).is_some());
    assert_ne!(key(&[("accept", "text/csv")]), key(&[("accept", "application/json")]));
    let mut post = asked(&[]);
    post.method = Method::POST;
    assert_eq!(Key::of(0, "digest", &post), None);
}

#[tokio::test(start_paused = true)]
async fn what_a_client_has_is_not_sent_again() {
    let shared = Shared::default();
    call(&shared, &key(&[]), answer(200, &BRIEF, "body"), &account()).await;
    for (value, status) in [("W/\"1\"", 304), ("\"0\", \"1\"", 304), ("\"2\"", 200)] {
        let Look::Answer(given) = shared.look(&key(&[]), &asked(&[("if-none-match", value)])) else {
            panic!("{value}")
        };
        assert_eq!(given.status(), status, "{value}");
        assert_eq!(text(given).await.is_empty(), status == 304);
    }
}

#[tokio::test(start_paused = true)]
async fn headers_come_as_they_were_with_the_age_of_the_answer() {
    let shared = Shared::default();
    let headers = [("cache-control", "s-maxage=9"), ("link", "<a>"), ("link", "<b>"), ("connection", "close")];
    call(&shared, &key(&[]), answer(503, &headers, "away"), &account()).await;
    tokio::time::advance(Duration::from_secs(3)).await;
    let Look::Answer(given) = shared.look(&key(&[]), &asked(&[])) else { panic!("it is not kept") };
    assert_eq!((given.status().as_u16(), given.headers()["age"].to_str().unwrap()), (503, "3"));
    assert_eq!((given.headers().get_all("link").iter().count(), given.headers().get("connection")), (2, None));
    tokio::time::advance(Duration::from_secs(6)).await;
    assert!(matches!(shared.look(&key(&[]), &asked(&[])), Look::Lead(_)), "it is too old");
}

#[tokio::test(start_paused = true)]
async fn one_call_is_for_all_who_ask_from_the_first_on() {
    let shared = Shared::default();
    for body in ["first", "second"] {
        let flight = lead(&shared, &key(&[]));
        let waiting: Vec<_> = (0..3).map(|_| shared.look(&key(&[]), &asked(&[]))).collect();
        shared.landed(0, &asked(&[]), answer(200, &BRIEF, body), Some(flight), &account()).await;
        for look in waiting {
            let Look::Wait(waiting) = look else { panic!("a second call") };
            assert_eq!(text(waiting.answer(&asked(&[])).await.unwrap()).await, body);
        }
        tokio::time::advance(Duration::from_secs(2)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_comes_to_nothing_leaves_its_place_to_the_next() {
    let shared = Shared::default();
    let flight = lead(&shared, &key(&[]));
    let Look::Wait(waiting) = shared.look(&key(&[]), &asked(&[])) else { panic!("a second call") };
    drop(flight);
    assert!(waiting.answer(&asked(&[])).await.is_none());
    let flight = lead(&shared, &key(&[]));
    let Look::Wait(waiting) = shared.look(&key(&[]), &asked(&[])) else { panic!("a second call") };
    // An answer that is for nobody else leaves them to call themselves.
    shared.landed(0, &asked(&[]), answer(500, &[], "failed"), Some(flight), &account()).await;
    assert!(waiting.answer(&asked(&[])).await.is_none());
    assert!(matches!(shared.look(&key(&[]), &asked(&[])), Look::Call));
    assert!(shared.lock().flights.is_empty(), "what came to nothing is not remembered");
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_is_bounded_charged_and_of_one_version() {
    let (shared, account) = (Shared::default(), account());
    for number in 0..300 {
        let key = Key { target: format!("/{number}"), ..key(&[]) };
        call(&shared, &key, answer(200, &[("cache-control", "s-maxage=60")], "0123456789"), &account).await;
    }
    assert_eq!(shared.lock().kept.len(), ANSWERS_MAX);
    assert_eq!(account.used(Resource::HostBytes), 10 * ANSWERS_MAX as u64);
    let other = Key { digest: "another".to_owned(), ..key(&[]) };
    call(&shared, &other, answer(200, &BRIEF, "body"), &account).await;
    assert_eq!((shared.lock().kept.len(), account.used(Resource::HostBytes)), (1, 4), "the version before is gone");
    let large = "x".repeat(BODY_BYTES_MAX + 1);
    assert_eq!(text(call(&shared, &key(&[]), answer(200, &BRIEF, &large), &account).await).await.len(), large.len());
    let poor = Account::root("component b", Limits::NONE.with(Resource::HostBytes, 3));
    assert_eq!(text(call(&shared, &key(&[]), answer(200, &BRIEF, "body"), &poor).await).await, "body");
    assert!(matches!(shared.look(&key(&[]), &asked(&[])), Look::Lead(_)), "there was no room for it");
}
