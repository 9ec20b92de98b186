//! Numbers of `[exagg]`, each in its range.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Result, ensure};
use exagg_runtime::engine::Limits;

use super::runtime::Exagg;

/// What each call may use. `memory` is the flag's, in bytes, and wins.
pub(super) fn limits(memory: Option<usize>, exagg: &Exagg) -> Result<Limits> {
    let default = Limits::default();
    Ok(Limits {
        memory_bytes_max: within(
            "instance_memory_bytes_max (--max-instance-memory)",
            memory.or(exagg.instance_memory_bytes_max),
            64 << 10..=4 << 30,
            default.memory_bytes_max,
        )?,
        call_time_max: Duration::from_secs(within(
            "call_seconds_max",
            exagg.call_seconds_max,
            1..=3_600,
            default.call_time_max.as_secs(),
        )?),
        instances_max: within("instances_max", exagg.instances_max, 1..=100_000, default.instances_max)?,
    })
}

/// A number of `[exagg]`, which has to lie in a range; the default where it is not set.
pub(super) fn within<T: PartialOrd + Display>(
    name: &str,
    value: Option<T>,
    range: RangeInclusive<T>,
    default: T,
) -> Result<T> {
    let Some(value) = value else { return Ok(default) };
    let (least, most) = (range.start(), range.end());
    ensure!(range.contains(&value), "[exagg] {name} is {value}: {least} to {most} are possible");
    Ok(value)
}
