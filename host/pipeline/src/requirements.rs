//! What a PostgreSQL server and its database have to be.

use anyhow::{Result, bail};
use exagg_clients::database::Database;
use tokio_postgres::{Client, SimpleQueryMessage};

/// The oldest release that the tests run with; `server_version_num` has its number times 10,000.
const VERSION_MIN: u32 = 14;

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Server {
    /// `server_version_num`, for instance 150004.
    version: u32,
    /// `server_version`, for people.
    version_text: String,
    /// The encoding of the database.
    encoding: String,
    is_standby: bool,
    is_read_only: bool,
}

const STATEMENT: &str = "SELECT current_setting('server_version_num'), current_setting('server_version'), \
                                current_setting('server_encoding'), pg_is_in_recovery(), \
                                current_setting('transaction_read_only') = 'on'";

impl Server {
    /// None where the answer has no row.
    async fn ask(client: &Client) -> Result<Option<Self>, tokio_postgres::Error> {
        let answer = client.simple_query(STATEMENT).await?;
        let row = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        Ok(row.map(|row| {
            let text = |index: usize| row.get(index).unwrap_or_default().to_owned();
            Self {
                version: text(0).parse().unwrap_or_default(),
                version_text: text(1),
                encoding: text(2),
                is_standby: text(3) == "t",
                is_read_only: text(4) == "t",
            }
        }))
    }

    /// What is wrong with it, and what to do.
    fn objection(&self, usage: Usage) -> Option<String> {
        if self.version < VERSION_MIN * 10_000 {
            return Some(format!("it is PostgreSQL {}: {VERSION_MIN} or newer is needed", self.version_text));
        }
        if self.encoding != "UTF8" {
            return Some(format!(
                "its encoding is {}, which has no place for every code: use a database with ENCODING 'UTF8' (CREATE \
                 DATABASE … ENCODING 'UTF8' TEMPLATE template0)",
                self.encoding
            ));
        }
        if usage == Usage::Read {
            return None;
        }
        if self.is_standby {
            return Some(
                "it is a standby, which takes no writes: name the primary, or both hosts and \
                 target_session_attrs=read-write"
                    .to_owned(),
            );
        }
        self.is_read_only.then(|| {
            "its transactions are read-only (default_transaction_read_only): that is to be off for this user or database"
                .to_owned()
        })
    }
}

/// What is done there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// A dashboard may read from a standby.
    Read,
    /// Migrations and stages write.
    Write,
}

/// What keeps a database from being the pipeline's; none when nothing does.
///
/// # Errors
/// When the server does not answer.
pub async fn objection(client: &Client, usage: Usage) -> Result<Option<String>, tokio_postgres::Error> {
    Ok(Server::ask(client).await?.and_then(|server| server.objection(usage)))
}

/// The same of a database that is written to, as an error that names it.
///
/// # Errors
/// When the server does not answer, or cannot be used.
pub async fn check(database: &Database, client: &Client) -> Result<()> {
    let objection = objection(client, Usage::Write).await;
    let named = |error: tokio_postgres::Error| {
        let said = exagg_clients::postgres::describe(&error);
        anyhow::Error::new(error).context(format!("PostgreSQL: {said}"))
    };
    match objection.map_err(named)? {
        Some(objection) => bail!("the database at {} cannot be used: {objection}", database.place()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_objection_says_what_to_do() {
        let good = Server {
            version: 140_000,
            version_text: "14.0".to_owned(),
            encoding: "UTF8".to_owned(),
            is_standby: false,
            is_read_only: false,
        };
        assert_eq!(good.objection(Usage::Write), None);
        let wrong = [
            (Server { version: 130_012, version_text: "13.12".to_owned(), ..good.clone() }, "13.12"),
            (Server { encoding: "LATIN1".to_owned(), ..good.clone() }, "LATIN1"),
            (Server { is_standby: true, is_read_only: true, ..good.clone() }, "target_session_attrs"),
            (Server { is_read_only: true, ..good.clone() }, "default_transaction_read_only"),
        ];
        assert_eq!(wrong[2].0.objection(Usage::Read), None, "a dashboard may read there");
        for (server, text) in wrong {
            assert!(server.objection(Usage::Write).unwrap().contains(text), "{server:?}");
        }
    }
}
