//! What functions with tables share: the address of the database, numbers out of it, and what went wrong.

use std::fmt;

use spin_sdk::pg::{self, Connection, Decode, ParameterValue, PgError, QueryError};
use spin_sdk::variables::{self, Error};

use crate::variables::in_words;

/// The component's own address, by a role that may do no more than the component needs.
const OWN: &str = "own_postgres_url";
/// The address that the components of an app share.
const SHARED: &str = "postgres_url";

/// The component variable `own_postgres_url` where it is defined and not empty, else `postgres_url`. (Spin
/// has no way to make one variable the default of another.)
///
/// # Errors
/// When the variable cannot be read; the text names it.
pub async fn url() -> Result<String, String> {
    match own(variables::get(OWN).await)? {
        Some(url) => Ok(url),
        None => crate::variables::get(SHARED).await,
    }
}

/// The component's own address, if it has one. One that cannot be read is an error: what the shared one may
/// do would not be noticed in its place.
fn own(answer: Result<String, Error>) -> Result<Option<String>, String> {
    match answer {
        Ok(url) => Ok(Some(url).filter(|url| !url.is_empty())),
        Err(Error::Undefined(_)) => Ok(None),
        Err(error) => Err(in_words(OWN, &error)),
    }
}

/// What PostgreSQL, or the way to it, said to a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The SQLSTATE, five characters. None where PostgreSQL itself said nothing: whether the statement had its
    /// effect is then not known.
    pub sqlstate: Option<String>,
    /// What was said, and for a table or column that is not there, what to do.
    pub reason: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl From<pg::Error> for Failure {
    fn from(error: pg::Error) -> Self {
        match error {
            pg::Error::PgError(PgError::QueryFailed(QueryError::DbError(error))) => {
                let todo = match error.code.as_str() {
                    "42P01" | "42703" => ": run exagg migrate, or the functions that go with this database",
                    _ => "",
                };
                let reason = format!("{} ({}){todo}", error.message, error.code);
                Self { sqlstate: Some(error.code), reason }
            }
            other => Self { sqlstate: None, reason: other.to_string() },
        }
    }
}

/// The first column of the first row, an `int8`; none where there is no row or it is null.
///
/// # Errors
/// When the statement fails.
pub async fn number(
    connection: &Connection,
    statement: &str,
    params: Vec<ParameterValue>,
) -> Result<Option<i64>, pg::Error> {
    let mut result = connection.query(statement, params).await?;
    let row = result.rows().next().await;
    result.result().await?;
    Ok(row.and_then(|row| row.first().and_then(|value| Option::<i64>::decode(value).ok().flatten())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_components_own_address_is_taken_before_the_shared_one() {
        assert_eq!(own(Ok("postgres://closer@db/app".to_owned())), Ok(Some("postgres://closer@db/app".to_owned())));
        assert_eq!(own(Ok(String::new())), Ok(None), "empty: the default of the app's variable");
        assert_eq!(own(Err(Error::Undefined(OWN.to_owned()))), Ok(None), "a manifest that does not know it");
    }

    #[test]
    fn a_table_that_is_not_there_says_what_to_do() {
        let missing = pg::DbError {
            as_text: String::new(),
            severity: "ERROR".to_owned(),
            code: "42P01".to_owned(),
            message: "relation \"public.progress\" does not exist".to_owned(),
            detail: None,
            extras: Vec::new(),
        };
        let failure = Failure::from(pg::Error::PgError(PgError::QueryFailed(QueryError::DbError(missing))));
        assert_eq!(failure.sqlstate.as_deref(), Some("42P01"));
        assert!(failure.reason.contains("public.progress") && failure.reason.contains("exagg migrate"), "{failure}");
        let cut = Failure::from(pg::Error::PgError(PgError::ConnectionFailed("closed".to_owned())));
        assert_eq!(cut.sqlstate, None);
    }

    #[test]
    fn one_that_cannot_be_read_is_not_replaced_by_the_shared_one() {
        let refused = own(Err(Error::Provider("the vault is sealed".to_owned())));
        assert!(refused.is_err_and(|error| error.contains(OWN) && error.contains("sealed")));
    }
}
