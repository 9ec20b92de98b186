//! Why a record is not counted.

use crate::fields::Field;

/// Why a record is not counted. The texts of [`Reject::reason`] are names that people query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// Larger than the trigger takes: only the head of it was given.
    TooLarge,
    Tombstone,
    NotUtf8,
    NotJson,
    NotAnObject,
    Missing(Field),
    Null(Field),
    WrongType(Field),
    ValueNotFinite,
    ValueTooLarge,
    ValueTooSmall,
    CodeEmpty,
    CodeTooLong,
    CodeHasNul,
    TimeUnreadable,
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
