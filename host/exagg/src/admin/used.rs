//! What the calls of components have used, for `/metrics`.

use std::fmt::Write;

use exagg_runtime::app::LoadedApp;
use exagg_runtime::meter::Used;

use super::prometheus::head;

/// One counter of a component.
struct Sample {
    name: &'static str,
    help: &'static str,
    of: fn(&Used) -> f64,
}

#[expect(clippy::cast_precision_loss, reason = "counts of calls are far below 2^53")]
const SAMPLES: [Sample; 4] = [
    Sample {
        name: "exagg_component_cpu_seconds_total",
        help: "Processor time of calls; those of the http trigger are not measured.",
        of: |used| used.cpu.as_secs_f64(),
    },
    Sample {
        name: "exagg_component_postgres_seconds_total",
        help: "Time that calls waited for PostgreSQL: for a connection, or an answer.",
        of: |used| used.postgres.as_secs_f64(),
    },
    Sample {
        name: "exagg_component_instances_total",
        help: "Instances that were made.",
        of: |used| used.instances as f64,
    },
    Sample {
        name: "exagg_component_timeouts_total",
        help: "Calls whose time was over before they had an answer; those of the http trigger are not counted.",
        of: |used| used.timeouts as f64,
    },
];

/// In the Prometheus text form.
pub fn metrics(app: &LoadedApp) -> String {
    let mut text = String::new();
    for sample in &SAMPLES {
        text += &head(sample.name, sample.help, "counter");
        for (id, slot) in &app.components {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{}{{component=\"{id}\"}} {}", sample.name, (sample.of)(&slot.current().used()));
        }
    }
    text
}
