//! What messages say of a server and of its errors.

use tokio_postgres::Config;
use tokio_postgres::config::Host;

/// Hosts and ports, for messages: an address itself holds a password. Hosts were checked: what cannot be one is refused
/// before.
pub fn place(config: &Config) -> String {
    let names: Vec<String> = match (config.get_hosts(), config.get_hostaddrs()) {
        ([], addresses) => addresses.iter().map(ToString::to_string).collect(),
        (hosts, _) => hosts
            .iter()
            .map(|host| match host {
                Host::Tcp(name) => name.clone(),
                #[cfg(unix)]
                Host::Unix(path) => path.display().to_string(),
            })
            .collect(),
    };
    let ports = config.get_ports();
    let port = |index: usize| ports.get(index).or(ports.first()).copied().unwrap_or(5432);
    names.iter().enumerate().map(|(index, name)| format!("{name}:{}", port(index))).collect::<Vec<_>>().join(",")
}

/// The error with its causes: the client's own text often says only "error connecting".
pub fn describe(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
