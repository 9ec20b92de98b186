//! Migrations: forward only, each once, under a lock, so that hosts may start at the same time.
//!
//! Each is one message of statements, which PostgreSQL runs as one transaction: nothing is left to a connection, so that
//! a pooler may stand in between, whatever it pools. What is there under a name of the pipeline's tables is left alone
//! unless it is known to be the pipeline's or the reference's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use exagg_clients::database::{Database, literal};
use exagg_common::hex;
use futures::future::BoxFuture;
use sha2::{Digest, Sha256};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use crate::requirements;

/// In order. A file that was applied somewhere is never edited: its digest is recorded.
const MIGRATIONS: [(&str, &str); 11] = [
    ("0001_pipeline", include_str!("../../../migrations/0001_pipeline.sql")),
    ("0002_replay", include_str!("../../../migrations/0002_replay.sql")),
    ("0003_layout", include_str!("../../../migrations/0003_layout.sql")),
    ("0004_edges_and_batches", include_str!("../../../migrations/0004_edges_and_batches.sql")),
    ("0006_first_partition_count", include_str!("../../../migrations/0006_first_partition_count.sql")),
    ("0007_claims", include_str!("../../../migrations/0007_claims.sql")),
    ("0008_settings_and_replays", include_str!("../../../migrations/0008_settings_and_replays.sql")),
    ("0010_kept_values", include_str!("../../../migrations/0010_kept_values.sql")),
    ("0011_wake", include_str!("../../../migrations/0011_wake.sql")),
    ("0012_code_ranges", include_str!("../../../migrations/0012_code_ranges.sql")),
    ("0014_hosts", include_str!("../../../migrations/0014_hosts.sql")),
];

/// The views and functions as they are now. They change under another number, so that databases get them again; a host
/// that is older than those a database has leaves them.
const DEFINITIONS: (&str, &str) = (
    "0015_definitions",
    concat!(include_str!("../../../migrations/definitions.sql"), include_str!("../../../migrations/dashboard.sql")),
);

/// Times that a migration is tried whose transaction ended in a deadlock with readers, and the pause between.
const TRIES_MAX: u32 = 20;
const PAUSE: Duration = Duration::from_millis(200);

/// The lock that migrating hosts share; any number does that nobody else uses.
const LOCK: i64 = 0x0065_7861_6767_0001;
/// The columns of the reference's own table.
const REFERENCE: [&str; 4] = ["avg_vol", "code", "window_end", "window_start"];
/// The name that it is kept under.
const KEPT_REFERENCE: &str = "aggregates_before_exagg";

/// What is to be done to a database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The migrations that it lacks, in order.
    pub pending: Vec<&'static str>,
    /// Whether a table `aggregates` of the reference system is kept under another name.
    pub renames_reference: bool,
    /// Tables and views of other origin under names that the pipeline needs: nothing is done.
    pub foreign: Vec<String>,
}

impl Plan {
    /// What a person is told of it, a line each.
    pub fn lines(&self, place: &str, schema: &str) -> Vec<String> {
        if !self.foreign.is_empty() {
            return vec![self.refusal(place, schema)];
        }
        let mut lines = Vec::new();
        if self.renames_reference {
            lines.push(format!("the table {schema}.aggregates is renamed to {schema}.aggregates_before_exagg"));
        }
        match self.pending.as_slice() {
            [] => lines.push(format!("the database at {place} is up to date")),
            pending => lines.push(format!("the schema {schema} at {place} gets {}", pending.join(", "))),
        }
        lines
    }

    fn refusal(&self, place: &str, schema: &str) -> String {
        format!(
            "the schema {schema} at {place} has {} of its own, under names that the pipeline needs, and nothing is \
             changed there: give the pipeline another schema (variable postgres_schema) or another database",
            self.foreign.join(", ")
        )
    }
}

/// Says what [`migrate`] would do.
///
/// # Errors
/// When the database cannot be reached, or is not one that the pipeline can use.
pub fn plan(database: &Database) -> BoxFuture<'_, Result<Plan>> {
    Box::pin(async move {
        let client = database.connect().await?;
        requirements::check(database, &client).await?;
        planned(database, &client).await
    })
}

/// Applies what is not applied yet and returns the names of it. Where nothing is, nothing is written.
///
/// # Errors
/// When the database cannot be reached or used, has tables of other origin under the pipeline's names, or refuses.
pub fn migrate(database: &Database) -> BoxFuture<'_, Result<Vec<&'static str>>> {
    Box::pin(async move {
        let client = database.connect().await?;
        requirements::check(database, &client).await?;
        let plan = planned(database, &client).await?;
        ensure!(plan.foreign.is_empty(), "{}", plan.refusal(&database.place(), database.schema()));
        if plan.pending.is_empty() {
            return Ok(Vec::new());
        }
        prepare(database, &client).await.context("cannot write the table of migrations")?;
        let mut added = Vec::new();
        for (name, sql) in wanted(&Applied::new()).filter(|(name, _)| plan.pending.contains(name)) {
            if apply(database, &client, name, sql).await.with_context(|| format!("migration {name}"))? {
                tracing::info!("migration {name} applied");
                added.push(name);
            }
        }
        Ok(added)
    })
}

async fn planned(database: &Database, client: &Client) -> Result<Plan> {
    let Some(known) = applied(database, client).await? else {
        bail!(
            "this role may not read {}.exagg_migrations at {}: migrate as the owner of the tables",
            database.schema(),
            database.place()
        );
    };
    check_digests(&known)?;
    let pending = missing(&known);
    if known.contains_key(MIGRATIONS[0].0) {
        return Ok(Plan { pending, ..Plan::default() });
    }
    let columns = "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass('public.aggregates') AND attnum > 0
                   AND NOT attisdropped ORDER BY attname";
    let columns = texts(&client.simple_query(&database.sql(columns)).await?);
    let renames_reference = columns == REFERENCE;
    let mut foreign = relations(database, client).await?;
    foreign.retain(|name| name != if renames_reference { "aggregates" } else { KEPT_REFERENCE });
    // Another host may have made them between the two looks.
    if !foreign.is_empty()
        && let Some(known) = applied(database, client).await?.filter(|known| known.contains_key(MIGRATIONS[0].0))
    {
        return Ok(Plan { pending: missing(&known), ..Plan::default() });
    }
    Ok(Plan { pending, renames_reference, foreign })
}

/// Those of the pipeline's tables and views whose names are taken.
async fn relations(database: &Database, client: &Client) -> Result<Vec<String>, tokio_postgres::Error> {
    let names: Vec<_> = names().iter().chain([&KEPT_REFERENCE]).map(|name| literal(name)).collect();
    let statement = format!(
        "SELECT c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace \
         WHERE n.nspname = {} AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relname IN ({}) ORDER BY c.relname",
        literal(database.schema()),
        names.join(", ")
    );
    Ok(texts(&client.simple_query(&statement).await?))
}

/// The names of all tables and views that the migrations make.
fn names() -> BTreeSet<&'static str> {
    let files = MIGRATIONS.into_iter().chain([DEFINITIONS]).map(|(_, sql)| sql);
    let made = files.flat_map(|sql| {
        ["CREATE TABLE public.", "CREATE VIEW public.", "CREATE OR REPLACE VIEW public."]
            .into_iter()
            .flat_map(|begin| sql.split(begin).skip(1))
    });
    made.filter_map(|rest| rest.split(|part: char| !part.is_ascii_alphanumeric() && part != '_').next()).collect()
}

/// What is not applied yet, by name. What a role may not look at is not looked at.
pub async fn pending(database: &Database, client: &Client) -> Result<Vec<&'static str>, tokio_postgres::Error> {
    Ok(applied(database, client).await?.map_or_else(Vec::new, |known| missing(&known)))
}

/// What is applied, by name, with its digest.
type Applied = BTreeMap<String, String>;

/// None where this role may not look.
async fn applied(database: &Database, client: &Client) -> Result<Option<Applied>, tokio_postgres::Error> {
    let statement = "SELECT to_regclass('public.exagg_migrations') IS NULL,
                            coalesce(has_table_privilege(to_regclass('public.exagg_migrations'), 'SELECT'), false)";
    let answer = client.simple_query(&database.sql(statement)).await?;
    let row = rows(&answer).next();
    let column = |index| row.and_then(|row| row.get(index)) == Some("t");
    match (column(0), column(1)) {
        (true, _) => return Ok(Some(Applied::new())),
        (false, false) => return Ok(None),
        (false, true) => {}
    }
    let answer = client.simple_query(&database.sql("SELECT name, digest FROM public.exagg_migrations")).await?;
    let text = |row: &SimpleQueryRow, index: usize| row.get(index).unwrap_or_default().to_owned();
    Ok(Some(rows(&answer).map(|row| (text(row, 0), text(row, 1))).collect()))
}

/// # Errors
/// When one was applied with another content.
fn check_digests(known: &Applied) -> Result<()> {
    for (name, sql) in MIGRATIONS.into_iter().chain([DEFINITIONS]) {
        if known.get(name).is_some_and(|known| *known != digest(sql)) {
            bail!(
                "migration {name}: it was applied with another content: this host and the database do not belong together"
            );
        }
    }
    Ok(())
}

fn digest(sql: &str) -> String {
    hex(&Sha256::digest(sql))
}

fn missing(known: &Applied) -> Vec<&'static str> {
    wanted(known).map(|(name, _)| name).filter(|name| !known.contains_key(*name)).collect()
}

/// What a database is to have that has these: all migrations, and the definitions unless it has those of a newer host.
fn wanted(known: &Applied) -> impl Iterator<Item = (&'static str, &'static str)> + use<> {
    let is_later = |name: &String| name.ends_with("_definitions") && name.as_str() > DEFINITIONS.0;
    let definitions = (!known.keys().any(is_later)).then_some(DEFINITIONS);
    MIGRATIONS.into_iter().chain(definitions)
}

fn rows(messages: &[SimpleQueryMessage]) -> impl Iterator<Item = &SimpleQueryRow> {
    messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    })
}

/// The first column of all rows.
fn texts(messages: &[SimpleQueryMessage]) -> Vec<String> {
    rows(messages).filter_map(|row| row.get(0).map(str::to_owned)).collect()
}

/// What each transaction of a migration begins with. The lock goes with the transaction.
fn begin(database: &Database) -> String {
    format!(
        "SELECT pg_advisory_xact_lock({LOCK}); SET LOCAL client_min_messages = warning; \
         SET LOCAL search_path = \"{}\";",
        database.schema()
    )
}

/// Makes the schema, where it is not there, and the table of migrations.
async fn prepare(database: &Database, client: &Client) -> Result<(), tokio_postgres::Error> {
    let name = database.schema();
    // One that is there need not be this role's to make.
    let there = format!("SELECT 1 FROM pg_namespace WHERE nspname = {}", literal(name));
    let is_there = !texts(&client.simple_query(&there).await?).is_empty();
    let schema = if is_there { String::new() } else { format!("CREATE SCHEMA IF NOT EXISTS \"{name}\";") };
    let table = "CREATE TABLE IF NOT EXISTS public.exagg_migrations (
                     name text PRIMARY KEY, digest text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())";
    client.batch_execute(&format!("{}{schema}{}", begin(database), database.sql(table))).await
}

/// False where it was applied before, by whomever.
async fn apply(database: &Database, client: &Client, name: &str, sql: &str) -> Result<bool> {
    // First, so that a host that was quicker is noticed before anything is done; of definitions a newer one's as well.
    let record = format!(
        "INSERT INTO public.exagg_migrations (name, digest)
         SELECT {name}, {digest} UNION ALL
         SELECT {name}, {digest} FROM public.exagg_migrations
         WHERE {name} LIKE '%\\_definitions' AND name LIKE '%\\_definitions' AND name > {name};",
        name = literal(name),
        digest = literal(&digest(sql))
    );
    let transaction = begin(database) + &database.sql(&record) + "RESET client_min_messages;" + &database.sql(sql);
    let mut tries = 1;
    loop {
        let known = applied(database, client).await?.unwrap_or_default();
        check_digests(&known)?;
        if !missing(&known).contains(&name) {
            return Ok(false);
        }
        let Err(error) = client.batch_execute(&transaction).await else { return Ok(true) };
        match error.code() {
            // Another host applied it while this one waited for the lock.
            Some(&SqlState::UNIQUE_VIOLATION) if tries < TRIES_MAX => {}
            // Who reads two of the views meanwhile may wait for this one, and be waited for.
            Some(&SqlState::T_R_DEADLOCK_DETECTED) if tries < TRIES_MAX => {
                tracing::info!("migration {name}: a reader was in the way; it is tried again");
            }
            _ => {
                let said = exagg_clients::postgres::describe(&error);
                return Err(anyhow::Error::new(error).context(said));
            }
        }
        tries += 1;
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_and_view_is_looked_for() {
        let names = names();
        for name in ["aggregates", "progress", "streams", "window_batches", "live_aggregates", "exagg_cron_leases"] {
            assert!(names.contains(name), "{name} is not in {names:?}");
        }
    }

    #[test]
    fn what_is_to_be_done_is_told() {
        let told = |plan: Plan| plan.lines("db:5432", "public").join("\n");
        assert!(told(Plan::default()).contains("up to date"));
        let first = Plan { pending: vec!["0001_pipeline"], renames_reference: true, ..Plan::default() };
        let first = told(first);
        assert!(first.contains("gets 0001_pipeline") && first.contains("public.aggregates_before_exagg"), "{first}");
        let foreign = Plan { foreign: vec!["progress".to_owned()], ..Plan::default() };
        assert!(told(foreign).contains("postgres_schema"));
    }

    #[test]
    fn definitions_that_change_have_another_number() {
        let (name, sql) = DEFINITIONS;
        let known = ("0015_definitions", "bc99ffc247886b0bb7b5b608b20d3aa44206e79def4673f3343e81c0d383d89f");
        assert_eq!((name, digest(sql).as_str()), known, "raise the number, and put both here");
    }
}
