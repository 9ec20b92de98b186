//! What stands behind the question mark of a request.

use jiff::civil::DateTime;

use super::cursor::{RejectCursor, RowCursor};
use super::{Refusal, bad};

/// The parameters of a request by their names; each is taken out once.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// An empty field of a form is no condition.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let mut parameters = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value).ok_or_else(|| bad(format!("{name} is not percent-encoded UTF-8")))?;
            if !value.is_empty() {
                parameters.push((name.to_owned(), value));
            }
        }
        Ok(Self(parameters))
    }

    /// Refuses what the route does not know.
    fn only(self, known: &[&str]) -> Result<Self, Refusal> {
        let Some((name, _)) = self.0.iter().find(|(name, _)| !known.contains(&name.as_str())) else { return Ok(self) };
        let alike = known.iter().map(|known| (strsim::levenshtein(known, name), known));
        let nearest = alike.filter(|(letters, _)| *letters <= MISTYPED_MAX).min();
        let meant = nearest.map_or_else(String::new, |(_, meant)| format!("did you mean {meant}? "));
        Err(bad(format!("{name} is not known: {meant}There are {}", known.join(", "))))
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().rposition(|(known, _)| known == name)?;
        Some(self.0.remove(at).1)
    }

    fn needed(&mut self, name: &str) -> Result<String, Refusal> {
        self.take(name).ok_or_else(|| bad(format!("{name} is needed")))
    }

    fn time(&mut self, name: &str) -> Result<Option<DateTime>, Refusal> {
        self.take(name).map(|text| time(name, &text)).transpose()
    }

    fn number(&mut self, name: &str, default: i64, most: i64) -> Result<i64, Refusal> {
        let Some(text) = self.take(name) else { return Ok(default) };
        let number = text.parse().ok().filter(|number| (1..=most).contains(number));
        number.ok_or_else(|| bad(format!("{name} is a number from 1 to {most}")))
    }

    /// Of a route that knows nothing else.
    pub fn only_stream(self) -> Result<String, Refusal> {
        self.only(&["stream"])?.needed("stream")
    }
}

/// In how many letters a name may differ from the one that was meant.
const MISTYPED_MAX: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Csv,
}

/// Which aggregates are wanted: windows that start in `[from, to)`, UTC. Without `from`, those that start before `to`, or
/// now, and end no earlier than an hour before it: so a window of a day is there while it runs.
#[derive(Debug, Default, PartialEq)]
pub struct Aggregates {
    pub stream: Option<String>,
    pub code: Option<String>,
    pub from: Option<DateTime>,
    pub to: Option<DateTime>,
    pub limit: i64,
    pub cursor: Option<RowCursor>,
    /// None: by the header Accept.
    pub format: Option<Format>,
}

impl Aggregates {
    pub fn parse(query: Query) -> Result<Self, Refusal> {
        let mut query = query.only(&["stream", "code", "from", "to", "limit", "cursor", "format"])?;
        Ok(Self {
            stream: query.take("stream"),
            code: query.take("code"),
            from: query.time("from")?,
            to: query.time("to")?,
            limit: query.number("limit", 1_000, 10_000)?,
            cursor: query.take("cursor").map(|text| RowCursor::parse(&text)).transpose()?,
            format: match query.take("format").as_deref() {
                None => None,
                Some("json") => Some(Format::Json),
                Some("csv") => Some(Format::Csv),
                Some(_) => return Err(bad("format is json or csv".to_owned())),
            },
        })
    }
}

#[derive(Debug, PartialEq)]
pub struct Series {
    pub stream: String,
    pub code: String,
    pub from: Option<DateTime>,
    pub to: Option<DateTime>,
    pub points: i64,
}

impl Series {
    pub fn parse(query: Query) -> Result<Self, Refusal> {
        let mut query = query.only(&["stream", "code", "from", "to", "points"])?;
        Ok(Self {
            stream: query.needed("stream")?,
            code: query.needed("code")?,
            from: query.time("from")?,
            to: query.time("to")?,
            points: query.number("points", 500, 2_000)?,
        })
    }
}

#[derive(Debug, PartialEq)]
pub struct Codes {
    pub stream: String,
    pub search: String,
    pub limit: i64,
}

impl Codes {
    pub fn parse(query: Query) -> Result<Self, Refusal> {
        let mut query = query.only(&["stream", "search", "limit"])?;
        Ok(Self {
            stream: query.needed("stream")?,
            search: query.take("search").unwrap_or_default(),
            limit: query.number("limit", 50, 1_000)?,
        })
    }
}

#[derive(Debug, PartialEq)]
pub struct Windows {
    pub stream: String,
    pub limit: i64,
}

impl Windows {
    pub fn parse(query: Query) -> Result<Self, Refusal> {
        let mut query = query.only(&["stream", "limit"])?;
        Ok(Self { stream: query.needed("stream")?, limit: query.number("limit", 20, 100)? })
    }
}

#[derive(Debug, PartialEq)]
pub struct OneWindow {
    pub stream: String,
    pub start: DateTime,
    pub end: DateTime,
    pub code: Option<String>,
}

impl OneWindow {
    pub fn parse(query: Query) -> Result<Self, Refusal> {
        let mut query = query.only(&["stream", "start", "end", "code"])?;
        let (start, end) = (query.needed("start")?, query.needed("end")?);
        Ok(Self {
            stream: query.needed("stream")?,
            start: time("start", &start)?,
            end: time("end", &end)?,
            code: query.take("code"),
        })
    }
}

#[derive(Debug, PartialEq)]
pub struct Rejects {
    pub stream: String,
    pub reason: Option<String>,
    pub limit: i64,
    pub cursor: Option<RejectCursor>,
}

impl Rejects {
    pub fn parse(query: Query) -> Result<Self, Refusal> {
        let mut query = query.only(&["stream", "reason", "limit", "cursor"])?;
        Ok(Self {
            stream: query.needed("stream")?,
            reason: query.take("reason"),
            limit: query.number("limit", 50, 500)?,
            cursor: query.take("cursor").map(|text| RejectCursor::parse(&text)).transpose()?,
        })
    }
}

/// An RFC 3339 time, or one without a zone, which is UTC.
fn time(name: &str, text: &str) -> Result<DateTime, Refusal> {
    if let Ok(timestamp) = text.parse::<jiff::Timestamp>() {
        return Ok(timestamp.to_zoned(jiff::tz::TimeZone::UTC).datetime());
    }
    text.parse().map_err(|_| bad(format!("{name} is a time like 2023-11-19T20:31:00Z")))
}

/// Percent-decoding of a form's value; none for what is not UTF-8 or holds U+0000.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        bytes.push(match first {
            b'+' => b' ',
            b'%' => {
                let (hex, tail) = rest.split_at_checked(2)?;
                rest = tail;
                u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?
            }
            byte => *byte,
        });
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}
