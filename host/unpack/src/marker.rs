//! How a cut record says that it is one: a header with a secret of this process in it.

use std::num::ParseIntError;
use std::sync::OnceLock;

/// The name of the header.
pub const NAME: &str = "exagg-cut";

/// Why a record is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutBecause {
    /// It is larger than a record may be.
    Record,
    /// It stands in a batch that is larger than a batch may be, behind what there was room for.
    Batch,
    /// It is the last one that is read of a batch with too many records: those behind it are not.
    Rest,
}

/// What a cut record was; none is a null key or value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Length of the whole key.
    pub key_bytes: Option<u64>,
    /// Length of the whole value.
    pub value_bytes: Option<u64>,
    /// Of all of it.
    pub record_bytes: u64,
    /// Which limit it was beyond.
    pub because: CutBecause,
}

/// The secret that a producer would have to know to forge a cut.
pub struct Marker {
    secret: String,
}

impl Marker {
    /// Another one for each process.
    pub fn of_process() -> &'static Self {
        static MARKER: OnceLock<Marker> = OnceLock::new();
        MARKER.get_or_init(Self::random)
    }

    /// A marker with a new secret: no other marker reads what it writes.
    pub fn random() -> Self {
        Self { secret: uuid::Uuid::new_v4().simple().to_string() }
    }

    /// The header's value.
    pub fn write(&self, cut: &Cut) -> String {
        let because = match cut.because {
            CutBecause::Record => "record",
            CutBecause::Batch => "batch",
            CutBecause::Rest => "rest",
        };
        format!("{}:{}:{}:{}:{because}", self.secret, length(cut.key_bytes), length(cut.value_bytes), cut.record_bytes)
    }

    /// What a header says; none where it is not of this process.
    pub fn read(&self, name: &str, value: Option<&[u8]>) -> Option<Cut> {
        if name != NAME {
            return None;
        }
        let said = std::str::from_utf8(value?).ok()?.strip_prefix(self.secret.as_str())?.strip_prefix(':')?;
        let mut fields = said.split(':');
        let mut next = || fields.next();
        let cut = Cut {
            key_bytes: parse(next()?).ok()?,
            value_bytes: parse(next()?).ok()?,
            record_bytes: next()?.parse().ok()?,
            because: match next()? {
                "record" => CutBecause::Record,
                "batch" => CutBecause::Batch,
                "rest" => CutBecause::Rest,
                _ => return None,
            },
        };
        next().is_none().then_some(cut)
    }
}

/// What a header says by this process's own marker.
pub fn read_marker(name: &str, value: Option<&[u8]>) -> Option<Cut> {
    Marker::of_process().read(name, value)
}

/// Lengths of a key and a value as functions are given them.
pub fn lengths(key_bytes: Option<u64>, value_bytes: Option<u64>) -> String {
    format!("{}:{}", length(key_bytes), length(value_bytes))
}

/// Reads what [`lengths`] wrote.
pub fn read_lengths(text: &[u8]) -> Option<(Option<u64>, Option<u64>)> {
    let (key, value) = std::str::from_utf8(text).ok()?.split_once(':')?;
    Some((parse(key).ok()?, parse(value).ok()?))
}

fn length(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "-1".to_owned(), |bytes| bytes.to_string())
}

fn parse(text: &str) -> Result<Option<u64>, ParseIntError> {
    if text == "-1" { Ok(None) } else { text.parse().map(Some) }
}
