//! What can go wrong with a connection or a statement.

use super::types::BadParameter;
use crate::factors::bindings::spin::postgres4_2_0::postgres as v4;

/// What went wrong, as both versions of the interface tell it.
#[derive(Debug)]
pub enum Failure {
    Connection(String),
    BadParameter(BadParameter),
    Query(Box<v4::QueryError>),
    Conversion(String),
    Other(String),
}

impl From<BadParameter> for Failure {
    fn from(error: BadParameter) -> Self {
        Self::BadParameter(error)
    }
}

/// Why a connection was not opened.
pub enum Refused {
    /// The server, or its user, has as many as it may have.
    Full(Failure),
    Other(Failure),
}

impl Refused {
    /// As the guest is told it.
    pub fn into_failure(self) -> Failure {
        let (Self::Full(failure) | Self::Other(failure)) = self;
        failure
    }
}
