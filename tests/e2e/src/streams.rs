//! Many streams on one host: each a kafka stage with a component and a topic of its own.

use std::fmt::Write as _;

use crate::database::Database;
use crate::host::{Setup, function};
use crate::kafka::Kafka;
use crate::topic;

/// The name of a stream, by which its topic is called.
pub fn name(of: &str, number: usize) -> String {
    format!("{of}-{number}")
}

/// So many streams, on a migrated database, as the user of `url`.
pub fn setup(of: &str, streams: usize, kafka: &Kafka, database: &Database, url: &str) -> Setup {
    let mut manifest = format!(
        "spin_manifest_version = 2\n[application]\nname = \"{of}\"\n[variables]\n\
         postgres_url = {{ required = true, secret = true }}\n"
    );
    for number in 0..streams {
        let written = write!(
            manifest,
            "[[trigger.kafka]]\ncomponent = \"stream-{number}\"\ntopics = [\"{}\"]\ngroup = \"{of}-{streams}-{number}\"\n\
             brokers = \"{}\"\nstart = \"earliest\"\nreuse = true\n[component.stream-{number}]\nsource = \"{}\"\n\
             allowed_outbound_hosts = [\"postgres://{}\"]\n[component.stream-{number}.variables]\nstream = \"s{number}\"\n\
             key_field = \"code\"\nvalue_field = \"volume\"\ntime_field = \"time\"\ntime_format = \"%Y-%m-%d %H:%M:%S\"\n\
             time_zone = \"UTC\"\nwindow_seconds = \"60\"\nslide_seconds = \"\"\nallowed_lateness_seconds = \"5\"\n\
             idle_timeout_seconds = \"20\"\nmax_future_seconds = \"60\"\nlate = \"revise\"\n\
             postgres_url = \"{{{{ postgres_url }}}}\"\n",
            topic(&name(of, number)),
            kafka.brokers,
            function("aggregator").display(),
            database.host,
        );
        written.unwrap();
    }
    Setup::new().manifest(&manifest).variable("postgres_url", url)
}
