//! Why a call has no answer, and why a component cannot be used.

use std::time::Duration;

/// Why a call has no answer of the function's.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It was still computing at the end of its time, which is given, and was interrupted.
    #[error("the function ran longer than {0:?} ([exagg] call_seconds_max)")]
    TimedOut(Duration),
    /// Its time went by waiting for something outside, a database mostly.
    #[error("the function waited longer than {0:?} ([exagg] call_seconds_max) for {1}")]
    Stalled(Duration, String),
    /// The guest trapped, or the host could not go on with it; the causes are given on one line.
    #[error("the function trapped: {0}")]
    Trapped(String),
    /// The host could not make an instance: its pool is full, or the component cannot start.
    #[error("no instance could be made: {0}")]
    NoInstance(String),
    /// Others hold what it would have needed.
    #[error("there was no room: {0}")]
    NoRoom(String),
}

/// Why a component cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// No instance of it can be made, or its check has no answer.
    #[error("it does not start: {0}")]
    DoesNotStart(#[from] CallError),
    /// Its own check refuses its settings, for this reason.
    #[error("its settings are refused: {0}")]
    Refused(String),
}
