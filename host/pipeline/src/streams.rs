//! Streams of one app: who writes them.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use exagg_app::Resolved;

/// The variable of an aggregator that names its stream.
const STREAM: &str = "stream";

/// The stream of each component that reads Kafka and writes one.
///
/// # Errors
/// When a variable cannot be expanded.
pub fn of_components(resolved: &Resolved) -> Result<BTreeMap<String, String>> {
    let Resolved { app, variables } = resolved;
    let readers = app.components.iter().filter(|(id, _)| app.kinds(id).contains("kafka"));
    readers
        .filter_map(|(id, component)| Some((id, component.variables.get(STREAM)?)))
        .map(|(id, template)| Ok((id.clone(), variables.expand(template)?)))
        .collect()
}

/// Refuses an app in which two components that read Kafka write the same stream: each would write its own settings
/// over the other's.
///
/// # Errors
/// When there are two, with their ids; or when a variable cannot be expanded.
pub fn check(resolved: &Resolved) -> Result<()> {
    let mut writers = BTreeMap::new();
    for (id, stream) in of_components(resolved)? {
        if let Some(other) = writers.insert(stream.clone(), id.clone()) {
            bail!(
                "the components {other} and {id} both write the stream {stream:?}: give each a stream of its own \
                 (variable {STREAM}), or one of them all topics"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn checked(first: &str, second: &str) -> Result<()> {
        let component = |id: &str, stream: &str| {
            format!(
                "[[trigger.kafka]]\ncomponent = \"{id}\"\n[component.{id}]\nsource = \"x.wasm\"\n\
                 variables = {{ stream = \"{stream}\" }}\n"
            )
        };
        let manifest = format!(
            "spin_manifest_version = 2\n[application]\nname = \"x\"\n[variables]\ns = {{ default = \"a\" }}\n{}{}",
            component("one", first),
            component("two", second)
        );
        check(&exagg_app::manifest::parse(&manifest, Path::new(""))?.resolve(&[])?)
    }

    #[test]
    fn a_stream_has_one_writer() {
        assert!(checked("a", "b").is_ok());
        let error = checked("a", "{{ s }}").unwrap_err().to_string();
        assert!(error.contains("one and two") && error.contains("\"a\""), "{error}");
    }
}
