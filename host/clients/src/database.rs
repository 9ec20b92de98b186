//! The host's own use of PostgreSQL: migrations, status, metrics, leases. Functions go through
//! `factors::outbound_pg`.

use std::borrow::Cow;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use futures::future::BoxFuture;
use tokio_postgres::{AsyncMessage, Client, Notification, SimpleQueryMessage, SimpleQueryRow};

use crate::postgres::{Address, Authorities};

/// The driver's time-out: until the socket is connected.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Beside that, until the end of the log-in: a server that is frozen, or whose disk is, accepts and says nothing.
const LOGIN_MAX: Duration = Duration::from_secs(10);
/// For the statements of [`Database::rows`], which are short ones.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// The schema that statements name.
const PUBLIC: &str = "public";
/// PostgreSQL cuts longer names.
const NAME_BYTES_MAX: usize = 63;

/// No connection, now.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unreachable(String);

/// Whether the same may well succeed when it is tried again: there was no connection, or it ended, and nothing was
/// refused.
pub fn is_transient(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let ended = |error: &tokio_postgres::Error| match error.code() {
            // Connection exceptions, resources, and an operator who intervenes: a restart, a fail-over.
            Some(code) => ["08", "53", "57"].iter().any(|class| code.code().starts_with(class)),
            None => true,
        };
        cause.is::<Unreachable>() || cause.downcast_ref::<tokio_postgres::Error>().is_some_and(ended)
    })
}

/// An address, and the schema there that has the pipeline's tables; every use is a connection of its own, for they
/// are rare.
#[derive(Clone)]
pub struct Database {
    address: Address,
    /// None for `public`.
    schema: Option<String>,
}

impl Database {
    /// Takes what [`Address::parse`] takes; connecting may last 5 seconds unless the address sets another time.
    pub fn parse(url: &str, authorities: Option<&Authorities>) -> Result<Self> {
        let mut address = Address::parse(url, authorities).context("the address of PostgreSQL (postgres_url)")?;
        let config = &mut address.config;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        config.application_name("exagg host");
        Ok(Self { address, schema: None })
    }

    /// The same with the tables in this schema; an empty name is `public`.
    ///
    /// # Errors
    /// When it is not a plain name: letters, digits and `_`, lower case, 63 bytes at the most.
    pub fn in_schema(self, schema: &str) -> Result<Self> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let is_name = schema.bytes().all(plain) && !schema.starts_with(|first: char| first.is_ascii_digit());
        ensure!(
            is_name && schema.len() <= NAME_BYTES_MAX,
            // Not shown: whoever mixes the variables up has given an address here.
            "the variable postgres_schema is no schema's name: lower-case letters, digits and _ are wanted, or nothing"
        );
        Ok(Self { schema: Some(schema.to_owned()).filter(|schema| !schema.is_empty() && schema != PUBLIC), ..self })
    }

    /// The schema's name.
    pub fn schema(&self) -> &str {
        self.schema.as_deref().unwrap_or(PUBLIC)
    }

    /// A statement that names the schema `public`, for the schema that the tables are in.
    pub fn sql<'a>(&self, statement: &'a str) -> Cow<'a, str> {
        match &self.schema {
            None => statement.into(),
            Some(schema) => {
                let named = statement.replace("public.", &format!("\"{schema}\"."));
                named.replace("'public'::regnamespace", &format!("'\"{schema}\"'::regnamespace")).into()
            }
        }
    }

    /// Its server's hosts and ports, for messages.
    pub fn place(&self) -> String {
        crate::postgres::place(&self.address.config)
    }

    /// A connection whose notices are logged.
    pub fn connect(&self) -> BoxFuture<'_, Result<Client>> {
        self.connect_with(|_| {})
    }

    /// Listens to a channel, whose name is plain, over a connection of its own.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub fn listen<'a>(&'a self, channel: &'a str) -> BoxFuture<'a, Result<Notifications>> {
        Box::pin(async move {
            let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
            let notified = move |_| {
                // Nobody listens any more.
                let _ = sender.send(());
            };
            let client = self.connect_with(notified).await?;
            client.batch_execute(&format!("LISTEN {channel}")).await?;
            Ok(Notifications { receiver, _client: client })
        })
    }

    fn connect_with(&self, notified: impl Fn(Notification) + Send + 'static) -> BoxFuture<'_, Result<Client>> {
        Box::pin(async move {
            let place = || format!("PostgreSQL at {} does not answer", self.place());
            let config = &self.address.config;
            let time_max = config.get_connect_timeout().copied().unwrap_or_default() + LOGIN_MAX;
            let connected = tokio::time::timeout(time_max, config.connect(self.address.tls.clone())).await;
            let (client, mut connection) = connected
                .map_err(|_| Unreachable(format!("{}: no log-in within {time_max:?}", place())))?
                .map_err(|error| Unreachable(format!("{}: {}", place(), crate::postgres::describe(&error))))?;
            tokio::spawn(async move {
                let messages = futures::stream::poll_fn(move |cx| connection.poll_message(cx));
                futures::pin_mut!(messages);
                while let Some(Ok(message)) = futures::StreamExt::next(&mut messages).await {
                    match message {
                        AsyncMessage::Notice(notice) => tracing::info!("PostgreSQL: {}", notice.message()),
                        AsyncMessage::Notification(notification) => notified(notification),
                        _ => {}
                    }
                }
            });
            Ok(client)
        })
    }

    /// Runs statements, which name the schema `public`, and gives the rows of all of them, as text. They are one
    /// transaction.
    pub fn rows<'a>(&'a self, statements: &'a str) -> BoxFuture<'a, Result<Vec<SimpleQueryRow>>> {
        Box::pin(async move {
            let (client, statements) = (self.connect().await?, self.sql(statements));
            let messages = tokio::time::timeout(ANSWER_MAX, client.simple_query(&statements))
                .await
                .map_err(|_| {
                    anyhow!(
                        "PostgreSQL at {} does not answer within {ANSWER_MAX:?}: whether it did what was asked is not \
                         known",
                        self.place()
                    )
                })?
                .map_err(|error| anyhow!("PostgreSQL: {}", crate::postgres::describe(&error)))?;
            let row = |message| match message {
                SimpleQueryMessage::Row(row) => Some(row),
                _ => None,
            };
            Ok(messages.into_iter().filter_map(row).collect())
        })
    }
}

/// What comes over a channel.
pub struct Notifications {
    receiver: tokio::sync::mpsc::UnboundedReceiver<()>,
    /// The connection lives as long as it.
    _client: Client,
}

impl Notifications {
    /// Waits for the next one; false when the connection has ended.
    pub async fn next(&mut self) -> bool {
        self.receiver.recv().await.is_some()
    }
}

/// A text as an SQL literal, in which [`Database::sql`] finds no schema.
pub fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "\\'").replace("public.", "public\\x2e"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that is frozen: connections are accepted, and nothing is ever said.
    #[tokio::test(start_paused = true)]
    async fn a_server_that_accepts_and_never_answers_is_given_up() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let database = Database::parse(&format!("postgres://u:geheim@{address}/d?sslmode=disable"), None).unwrap();
        let error = format!("{:#}", database.rows("SELECT 1").await.unwrap_err());
        assert!(error.contains(&address.to_string()) && error.contains("log-in"), "{error}");
        assert!(!error.contains("geheim"), "{error}");
    }

    #[test]
    fn statements_go_to_the_schema_that_has_the_tables() {
        let database = |schema: &str| Database::parse("postgres://u@h/d", None).unwrap().in_schema(schema);
        let sql = |schema: &str| database(schema).unwrap().sql("SELECT FROM public.progress").into_owned();
        assert_eq!(sql(""), "SELECT FROM public.progress");
        assert_eq!(sql("order"), "SELECT FROM \"order\".progress");
        // Topics of Debezium's have such names.
        let namespace = database("order").unwrap().sql("'public'::regnamespace").into_owned();
        assert_eq!(namespace, "'\"order\"'::regnamespace");
        let topic = database("order").unwrap().sql(&literal("db.public.orders")).into_owned();
        assert_eq!(topic, "E'db.public\\x2eorders'");
        for schema in ["a b", "a\"b", "A", "1a", "a.b", &"a".repeat(64)] {
            assert!(database(schema).is_err_and(|error| error.to_string().contains("postgres_schema")), "{schema}");
        }
    }

    #[test]
    fn places_and_errors_tell_nothing_of_the_password() {
        let database = Database::parse("postgres://u:geheim@h:5433/d", None).unwrap();
        assert_eq!(database.place(), "h:5433");
        let both = Database::parse("postgres://u:geheim@a:5433,b:5434/d", None).unwrap();
        assert_eq!(both.place(), "a:5433,b:5434");
        let error = Database::parse("postgres://u:geheim@geheim@h/d", None).err().unwrap();
        assert!(!format!("{error:#} {error:?}").contains("geheim"), "{error:#}");
    }
}
