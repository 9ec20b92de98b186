//! What components make the host hold, for `/metrics` and `exagg status`.

use std::fmt::Write;

use exagg_common::memory;
use exagg_runtime::app::LoadedApp;
use exagg_runtime::budget::{Account, Resource};
use serde_json::{Map, Value};

use super::prometheus::head;

/// One sample of an account.
struct Sample {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    of: fn(&Account, Resource) -> Option<u64>,
}

const SAMPLES: [Sample; 3] = [
    Sample {
        name: "exagg_component_held",
        kind: "gauge",
        help: "What the component makes the host hold now; of logged_bytes, all since the start.",
        of: |account, resource| Some(account.used(resource)),
    },
    Sample {
        name: "exagg_component_held_limit",
        kind: "gauge",
        help: "The most that the component may hold.",
        // Where there is no limit there is no sample.
        of: |account, resource| Some(account.limit(resource)).filter(|limit| *limit != u64::MAX),
    },
    Sample {
        name: "exagg_component_refused_total",
        kind: "counter",
        help: "Times that the component was refused more of a resource.",
        of: |account, resource| Some(account.refused(resource)),
    },
];

/// In the Prometheus text form. Ids of components are safe as labels: the app's were checked when it was read.
pub fn metrics(app: &LoadedApp) -> String {
    let mut text = String::new();
    for sample in &SAMPLES {
        text += &head(sample.name, sample.help, sample.kind);
        for (id, slot) in &app.components {
            let component = slot.current();
            for resource in Resource::ALL {
                let Some(value) = (sample.of)(component.account(), resource) else { continue };
                // Writing to a String cannot fail.
                let _ =
                    writeln!(text, "{}{{component=\"{id}\",resource=\"{}\"}} {value}", sample.name, resource.name());
            }
        }
    }
    for (name, help, value) in [
        ("exagg_memory_budget_bytes", "What the host may use of the machine's memory.", memory::budget()),
        ("exagg_memory_resident_bytes", "What the host uses of it.", memory::resident()),
    ] {
        text += &format!("{}{name} {value}\n", head(name, help, "gauge"));
    }
    text
}

/// What a component holds now, by resource; what it holds nothing of is left out.
pub fn held(account: &Account) -> Value {
    let held = Resource::ALL.into_iter().filter(|resource| account.used(*resource) > 0);
    Value::Object(held.map(|resource| (resource.name().to_owned(), account.used(resource).into())).collect())
}

/// In words: `instance_bytes 1048576, connections 2`.
pub fn in_words(held: &Map<String, Value>) -> String {
    held.iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use exagg_runtime::budget::Limits;

    #[test]
    fn what_is_held_is_named_with_its_unit() {
        let account = Account::root("component a", Limits::NONE);
        let _held = account.hold(Resource::Connections, 2).unwrap();
        account.charge(Resource::LoggedBytes, 70).unwrap();
        let held = held(&account);
        assert_eq!(in_words(held.as_object().unwrap()), "connections 2, logged_bytes 70");
    }
}
