//! What functions with tables share: where the tables are, numbers out of them, and what went wrong.

use std::borrow::Cow;
use std::fmt;

use spin_sdk::pg::{self, Connection, Decode, ParameterValue, PgError, QueryError, QueryResult};
use spin_sdk::variables::{self, Error};

use crate::variables::in_words;

/// The component's own address, by a role that may do no more than the component needs.
const OWN: &str = "own_postgres_url";
/// The address that the components of an app share.
const SHARED: &str = "postgres_url";

/// The schema that has the tables.
const SCHEMA: &str = "postgres_schema";
/// Where they are unless that says otherwise; statements name it.
const PUBLIC: &str = "public";
/// PostgreSQL cuts longer names.
const NAME_BYTES_MAX: usize = 63;

/// Where the tables are.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    url: String,
    /// None for `public`.
    schema: Option<String>,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Address").field("url", &"***").field("schema", &self.schema).finish()
    }
}

impl Address {
    /// The address and the schema, which may be empty for `public`.
    ///
    /// # Errors
    /// When the schema is not a plain name: letters, digits and `_`, lower case, 63 bytes at the most.
    pub fn new(url: String, schema: &str) -> Result<Self, String> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let is_name = schema.bytes().all(plain) && !schema.starts_with(|first: char| first.is_ascii_digit());
        if !is_name || schema.len() > NAME_BYTES_MAX {
            return Err(format!(
                "the variable {SCHEMA} is no schema's name: lower-case letters, digits and _ are wanted, or nothing"
            ));
        }
        Ok(Self { url, schema: Some(schema.to_owned()).filter(|schema| !schema.is_empty() && schema != PUBLIC) })
    }

    /// The address of the component variable `own_postgres_url` where that is defined and not empty, else of
    /// `postgres_url`, and the schema of `postgres_schema`, which need not be defined. (Spin has no way to make one
    /// variable the default of another.)
    ///
    /// # Errors
    /// When a variable cannot be read; the text names it.
    pub async fn load() -> Result<Self, String> {
        let url = match own(variables::get(OWN).await)? {
            Some(url) => url,
            None => crate::variables::get(SHARED).await?,
        };
        let schema = match variables::get(SCHEMA).await {
            Ok(schema) => schema,
            Err(Error::Undefined(_)) => String::new(),
            Err(error) => return Err(in_words(SCHEMA, &error)),
        };
        Self::new(url, &schema)
    }

    /// Takes a connection.
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached, or refuses.
    pub async fn open(&self) -> Result<Tables, pg::Error> {
        Ok(Tables { connection: Connection::open(&self.url).await?, schema: self.schema.clone() })
    }

    fn statement<'a>(schema: Option<&str>, statement: &'a str) -> Cow<'a, str> {
        match schema {
            None => statement.into(),
            Some(schema) => statement.replace("public.", &format!("\"{schema}\".")).into(),
        }
    }
}

/// A connection to the tables. Statements name the schema `public`, and are run in the one that the tables are in.
pub struct Tables {
    connection: Connection,
    schema: Option<String>,
}

impl Tables {
    /// Runs a statement that gives rows.
    ///
    /// # Errors
    /// When the statement fails.
    pub async fn query(&self, statement: &str, params: Vec<ParameterValue>) -> Result<QueryResult, pg::Error> {
        self.connection.query(self.sql(statement), params).await
    }

    /// Runs a statement and gives the number of rows that it changed.
    ///
    /// # Errors
    /// When the statement fails.
    pub async fn execute(&self, statement: &str, params: Vec<ParameterValue>) -> Result<u64, pg::Error> {
        self.connection.execute(self.sql(statement), params).await
    }

    /// The first column of the first row, an `int8`; none where there is no row or it is null.
    ///
    /// # Errors
    /// When the statement fails.
    pub async fn number(&self, statement: &str, params: Vec<ParameterValue>) -> Result<Option<i64>, pg::Error> {
        let mut result = self.query(statement, params).await?;
        let row = result.rows().next().await;
        result.result().await?;
        Ok(row.and_then(|row| row.first().and_then(|value| Option::<i64>::decode(value).ok().flatten())))
    }

    fn sql<'a>(&self, statement: &'a str) -> Cow<'a, str> {
        Address::statement(self.schema.as_deref(), statement)
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
    fn the_schema_is_a_plain_name_and_statements_go_there() {
        let address = |schema: &str| Address::new("postgres://u:geheim@db/app".to_owned(), schema);
        let statement = |schema: &str| {
            let address = address(schema).unwrap();
            Address::statement(address.schema.as_deref(), "SELECT FROM public.progress").into_owned()
        };
        assert_eq!(statement(""), "SELECT FROM public.progress");
        assert_eq!(statement("public"), "SELECT FROM public.progress");
        assert_eq!(statement("order"), "SELECT FROM \"order\".progress", "also where it is a word of SQL's");
        for schema in ["a b", "a\"b", "A", "1a", "a.b", "a;", &"a".repeat(64)] {
            let error = address(schema).unwrap_err();
            assert!(error.contains("postgres_schema") && !error.contains("geheim"), "{error}");
        }
        assert!(!format!("{:?}", address("a")).contains("geheim"));
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
