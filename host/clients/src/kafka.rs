//! What consumers and producers share: settings, logging, addresses.

mod error;
mod policy;
mod sys;
mod types;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use exagg_common::template::{Secret, Variables};
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

pub use self::error::{BrokerAddressError, ClientError, DescribeError};
pub use self::policy::is_compacted;
pub use self::sys::describe_topic;
pub use self::types::{Offset, OffsetRange, Partition, TopicDescription, TopicId, TopicPartition};

/// librdkafka properties, of which any may be a secret.
pub type Properties = BTreeMap<String, Secret>;

/// Properties that the host's promises rest on: nobody else sets them.
pub const FIXED: [&str; 9] = [
    "auto.commit.enable",
    "auto.offset.reset",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "isolation.level",
    "partition.assignment.strategy",
];

/// Where the clients connect first. Where the operator names it, the app's own lists do not count.
pub const BOOTSTRAP: &str = "bootstrap.servers";

/// The host's properties (`[exagg.kafka]`), with the app's variables in the places of their names.
pub fn properties(variables: &Variables, templates: &BTreeMap<String, String>) -> Result<Properties> {
    let expand = |(name, template): (&String, &String)| {
        let value = refused(name)
            .map_or(Ok(()), |why| Err(anyhow::anyhow!(why)))
            .and_then(|()| Ok(variables.expand(template)?))
            .and_then(|value| {
                ensure!(!value.contains('\0'), "it has a NUL");
                if name == BOOTSTRAP {
                    addresses(&value)?;
                }
                Ok(value)
            })
            .with_context(|| format!("[exagg.kafka] {name}"))?;
        Ok((name.clone(), Secret::new(value)))
    };
    let properties: Properties = templates.iter().map(expand).collect::<Result<_>>()?;
    // librdkafka says now whether it knows them: a mistyped one must not show first when a stage starts.
    let mut config = ClientConfig::new();
    apply(&mut config, &properties);
    config.create_native_config().map(drop).map_err(|error| described(error, &config)).context("[exagg.kafka]")?;
    Ok(properties)
}

/// Why the operator may not set the property.
fn refused(name: &str) -> Option<&'static str> {
    match name {
        fixed if FIXED.contains(&fixed) => Some("it is set by the host, its promises rest on it"),
        "plugin.library.paths" | "ssl.engine.location" => Some("it loads native code into the host"),
        "metadata.broker.list" => Some("its name is bootstrap.servers"),
        "interceptors" | "default_topic_conf" | "ssl_engine_callback_data" => Some("it is not a text but a pointer"),
        pointer if pointer == "opaque" || pointer.ends_with("_opaque") || pointer.ends_with("_cb") => {
            Some("it is not a text but a pointer")
        }
        _ => None,
    }
}

/// A client's settings: the host's defaults first, the operator's properties (`[exagg.kafka]`) on top.
pub fn settings(brokers: &str, shared: &Properties) -> Properties {
    let defaults = [
        (BOOTSTRAP, brokers),
        ("client.id", "exagg"),
        ("reconnect.backoff.ms", "100"),
        ("reconnect.backoff.max.ms", "5000"),
        ("log.connection.close", "false"),
    ];
    let defaults = defaults.into_iter().map(|(name, value)| (name.to_owned(), Secret::new(value)));
    defaults.chain(shared.iter().map(|(name, value)| (name.clone(), value.clone()))).collect()
}

/// The same for the clients of rdkafka; the caller's own properties go on top.
pub fn client_config(brokers: &str, shared: &Properties) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set_log_level(RDKafkaLogLevel::Warning);
    apply(&mut config, &settings(brokers, shared));
    config
}

/// Makes a client. rdkafka's own error would show the value of a property that is refused.
pub fn create<C, T>(config: &ClientConfig, context: C) -> Result<T, ClientError>
where
    C: ClientContext,
    T: FromClientConfigAndContext<C>,
{
    config.create_with_context(context).map_err(|error| described(error, config))
}

/// rdkafka's error without the values.
fn described(error: KafkaError, config: &ClientConfig) -> ClientError {
    match error {
        KafkaError::ClientConfig(_, reason, name, value) => ClientError::property(&name, &reason, &value),
        // It is made only where a name or a value is turned into a C string.
        KafkaError::Nul(_) => ClientError::Client("a property has a NUL".to_owned()),
        error => {
            let names: Vec<String> = config.config_map().into_keys().map(str::to_owned).collect();
            ClientError::client(&error.to_string(), names.iter().filter_map(|name| config.get(name)))
        }
    }
}

/// Sets each property.
pub fn apply(config: &mut ClientConfig, properties: &Properties) {
    for (name, value) in properties {
        config.set(name, value.expose());
    }
}

/// librdkafka's own lines go to the host's log.
pub struct LogContext {
    /// Which client speaks: a stage's id.
    pub who: String,
}

impl ClientContext for LogContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(&self.who, level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // The end of a partition, as it comes where nobody polls for it any more.
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF) {
            return;
        }
        tracing::warn!(client = %self.who, "kafka: {error}: {reason}");
    }
}

impl ConsumerContext for LogContext {}

/// One line of librdkafka's.
pub fn log(who: &str, level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
            tracing::error!(client = %who, "kafka: {facility}: {message}");
        }
        RDKafkaLogLevel::Warning => tracing::warn!(client = %who, "kafka: {facility}: {message}"),
        _ => tracing::debug!(client = %who, "kafka: {facility}: {message}"),
    }
}

/// Host and port of each broker in a list `host:port,host:port`.
pub fn addresses(brokers: &str) -> Result<Vec<(String, u16)>, BrokerAddressError> {
    if brokers.contains('@') {
        return Err(BrokerAddressError::Credentials);
    }
    let parse = |broker: &str| {
        let broker = broker.trim();
        let (host, port) = broker.rsplit_once(':').ok_or_else(|| BrokerAddressError::NoPort(broker.to_owned()))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = port.parse().map_err(|_| BrokerAddressError::NoPort(broker.to_owned()))?;
        if host.is_empty() || host.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control()) {
            return Err(BrokerAddressError::NotAnAddress(broker.to_owned()));
        }
        Ok((host.to_owned(), port))
    };
    brokers.split(',').map(parse).collect()
}

#[cfg(test)]
mod tests {
    use rdkafka::consumer::BaseConsumer;

    use super::*;

    fn error(properties: &[(&str, &str)]) -> ClientError {
        let mut config = client_config("127.0.0.1:1", &Properties::new());
        for (name, value) in properties {
            config.set(*name, *value);
        }
        let made: Result<BaseConsumer<LogContext>, _> = create(&config, LogContext { who: "test".to_owned() });
        made.err().unwrap()
    }

    #[test]
    fn brokers_are_host_and_port() {
        let expected = vec![("a".to_owned(), 1), ("::1".to_owned(), 9092)];
        assert_eq!(addresses("a:1, [::1]:9092"), Ok(expected));
        for wrong in ["", "a", "a:", "a:b", ":1", "SSL://a:1", "a:1,", "a b:1", "a\0:1"] {
            assert!(addresses(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_password_in_a_broker_list_is_not_shown() {
        for list in ["user:geheim@host:9092", "a:1,user:ge,heim@host:9092", "user:pa@geheim@host", "geheim@"] {
            let error = addresses(list).unwrap_err().to_string();
            assert!(["geheim", "ge,", "heim", "user", "host:9092"].iter().all(|part| !error.contains(part)), "{error}");
        }
    }

    #[test]
    fn a_refused_property_is_named_and_its_value_is_not_shown() {
        for (name, value) in [
            ("sasl.pasword", "geheim"),
            ("security.protocol", "geheim"),
            ("linger.ms", "geheim"),
            ("debug", "broker,geheim"),
            ("enable.idempotence", "geheim"),
            ("client.id", "ge\0heim"),
        ] {
            let error = error(&[(name, value)]);
            let shown = format!("{error} {error:?} {}", error.for_guests());
            assert!(!shown.contains("geheim"), "{shown}");
            assert!(shown.contains(name) || value.contains('\0'), "{shown}");
        }
    }

    #[test]
    fn a_client_that_cannot_be_made_shows_no_value() {
        let error = error(&[("security.protocol", "ssl"), ("ssl.ca.location", "/no/such/geheim.pem")]);
        assert!(!format!("{error} {error:?}").contains("geheim"), "{error}");
    }

    #[test]
    fn the_operator_sets_no_pointers_no_native_code_and_nothing_that_is_fixed() {
        let set = |name: &str, value: &str| {
            properties(&Variables::default(), &BTreeMap::from([(name.to_owned(), value.to_owned())]))
        };
        for name in FIXED.iter().chain(&["plugin.library.paths", "interceptors", "dr_msg_cb", "opaque"]) {
            let error = format!("{:#}", set(name, "geheim").unwrap_err());
            assert!(error.contains(name) && !error.contains("geheim"), "{error}");
        }
        assert!(set(BOOTSTRAP, "user:geheim@host:9092").is_err());
        assert!(set("sasl.password", "geheim").is_ok());
    }

    #[test]
    fn the_operators_address_wins() {
        let operators = Properties::from([(BOOTSTRAP.to_owned(), Secret::new("operator:9092"))]);
        assert_eq!(client_config("app:9092", &operators).get(BOOTSTRAP), Some("operator:9092"));
        assert_eq!(client_config("app:9092", &Properties::new()).get(BOOTSTRAP), Some("app:9092"));
    }
}
