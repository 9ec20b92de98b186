//! Why a record is not counted.

use crate::fields::Field;

/// Why a record is not counted. The texts of [`Reject::reason`] are names that people query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// Larger than the trigger takes: only the head of it was given.
    TooLarge,
    /// The record has a null value: in a compacted topic it deletes a key.
    Tombstone,
    /// The record's bytes are not UTF-8, as JSON has to be.
    NotUtf8,
    /// The record is empty, broken off or otherwise not JSON, or something stands behind the JSON value.
    NotJson,
    /// The record is JSON, but an array, a string, a number, a boolean or null.
    NotAnObject,
    /// The object does not have this field.
    Missing(Field),
    /// The field is there and holds null.
    Null(Field),
    /// The field holds another JSON type than it has to, such as a value that stands in quotes.
    WrongType(Field),
    /// A number in one of the three fields is beyond the range of a double, such as 1e309.
    ValueNotFinite,
    /// The value's absolute value is above [`VALUE_MAX`](crate::event::VALUE_MAX).
    ValueTooLarge,
    /// The value is not 0 and its absolute value is below [`VALUE_MIN`](crate::event::VALUE_MIN).
    ValueTooSmall,
    /// The key field holds the empty string.
    CodeEmpty,
    /// The code has more than [`CODE_BYTES_MAX`](crate::event::CODE_BYTES_MAX) bytes.
    CodeTooLong,
    /// The code has a NUL, which no text of PostgreSQL may have.
    CodeHasNul,
    /// The time is a string that does not fit the setting `time_format`.
    TimeUnreadable,
    /// The time is outside the years 1 to 9999.
    TimeOutOfRange,
    /// More than `max_future_seconds` ahead of the clock; it moves no watermark.
    Future,
    /// Its window was closed before (`late = "reject"` only).
    Late,
}

impl Reject {
    /// The name under which the reject stands in `rejected_records.reason`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Tombstone => "tombstone",
            Self::NotUtf8 => "not_utf8",
            Self::NotJson => "not_json",
            Self::NotAnObject => "not_an_object",
            Self::Missing(Field::Key) => "key_missing",
            Self::Missing(Field::Value) => "value_missing",
            Self::Missing(Field::Time) => "time_missing",
            Self::Null(Field::Key) => "key_null",
            Self::Null(Field::Value) => "value_null",
            Self::Null(Field::Time) => "time_null",
            Self::WrongType(Field::Key) => "key_wrong_type",
            Self::WrongType(Field::Value) => "value_wrong_type",
            Self::WrongType(Field::Time) => "time_wrong_type",
            Self::ValueNotFinite => "value_not_finite",
            Self::ValueTooLarge => "value_too_large",
            Self::ValueTooSmall => "value_too_small",
            Self::CodeEmpty => "key_empty",
            Self::CodeTooLong => "key_too_long",
            Self::CodeHasNul => "key_has_nul",
            Self::TimeUnreadable => "time_unreadable",
            Self::TimeOutOfRange => "time_out_of_range",
            Self::Future => "future",
            Self::Late => "late",
        }
    }
}
