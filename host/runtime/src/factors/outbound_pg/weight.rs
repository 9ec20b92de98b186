//! What values weigh in the host's memory: not their bytes on the wire, but what is allocated for them.
//!
//! 20 million nulls are no bytes at all, and gigabytes of rows.

use std::mem::size_of;
use std::sync::Arc;

use super::failure::Failure;
use crate::budget::{Account, Exceeded, Held, Resource};
use crate::factors::bindings::spin::postgres4_2_0::postgres as v4;

/// What a result may weigh: more would not fit a function's memory anyway.
pub const RESULT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// What the allocator adds to a piece, about.
const ALLOCATION_BYTES: usize = 16;
/// The account is asked for so many bytes at once, not for every row.
const STEP_BYTES: u64 = 64 * 1024;

impl From<Exceeded> for Failure {
    fn from(exceeded: Exceeded) -> Self {
        Self::Other(exceeded.to_string())
    }
}

/// Adds up what a result weighs, charged to the call as it grows.
pub struct Meter {
    held: Held,
    total_bytes: u64,
    uncharged_bytes: u64,
}

impl Meter {
    pub fn new(call: &Arc<Account>) -> Result<Self, Failure> {
        Ok(Self { held: call.hold(Resource::HostBytes, 0)?, total_bytes: 0, uncharged_bytes: 0 })
    }

    pub fn add(&mut self, bytes: usize) -> Result<(), Failure> {
        let bytes = bytes as u64;
        self.total_bytes += bytes;
        self.uncharged_bytes += bytes;
        if self.total_bytes > RESULT_BYTES_MAX {
            return Err(Failure::Other(format!(
                "the result takes more than {RESULT_BYTES_MAX} bytes of memory: ask for fewer rows at once"
            )));
        }
        if self.uncharged_bytes >= STEP_BYTES { self.charge() } else { Ok(()) }
    }

    fn charge(&mut self) -> Result<(), Failure> {
        self.held.grow(self.uncharged_bytes)?;
        self.uncharged_bytes = 0;
        Ok(())
    }

    /// What holds the result's bytes until it is handed over.
    pub fn finish(mut self) -> Result<Held, Failure> {
        self.charge()?;
        Ok(self.held)
    }
}

/// A row; twice its own place, for the list of rows doubles as it grows.
pub fn row(values: &[v4::DbValue]) -> usize {
    let places = 2 * size_of::<Vec<v4::DbValue>>() + ALLOCATION_BYTES;
    values.iter().fold(places, |sum, value| sum + size_of::<v4::DbValue>() + heap_of_value(value))
}

/// Parameters, which the client has as its own beside the interface's.
pub fn parameters(values: &[v4::ParameterValue]) -> usize {
    values.iter().map(|value| 2 * (size_of::<v4::ParameterValue>() + ALLOCATION_BYTES + heap_of_parameter(value))).sum()
}

fn bytes(length: usize) -> usize {
    if length == 0 { 0 } else { length + ALLOCATION_BYTES }
}

fn list<T>(values: &[T]) -> usize {
    bytes(size_of_val(values))
}

fn texts(values: &[Option<String>]) -> usize {
    list(values) + values.iter().flatten().map(|text| bytes(text.len())).sum::<usize>()
}

type Bound = Option<(String, v4::RangeBoundKind)>;

fn range((lower, upper): &(Bound, Bound)) -> usize {
    [lower, upper].into_iter().flatten().map(|(text, _)| bytes(text.len())).sum()
}

fn heap_of_value(value: &v4::DbValue) -> usize {
    use v4::DbValue as V;
    match value {
        V::Str(text) | V::Uuid(text) | V::Decimal(text) => bytes(text.len()),
        V::Binary(raw) | V::Jsonb(raw) | V::Unsupported(raw) => bytes(raw.len()),
        V::RangeDecimal(bounds) => range(bounds),
        V::ArrayInt32(values) => list(values),
        V::ArrayInt64(values) => list(values),
        V::ArrayDecimal(values) | V::ArrayStr(values) => texts(values),
        _ => 0,
    }
}

fn heap_of_parameter(value: &v4::ParameterValue) -> usize {
    use v4::ParameterValue as P;
    match value {
        P::Str(text) | P::Uuid(text) | P::Decimal(text) => bytes(text.len()),
        P::Binary(raw) | P::Jsonb(raw) => bytes(raw.len()),
        P::RangeDecimal(bounds) => range(bounds),
        P::ArrayInt32(values) => list(values),
        P::ArrayInt64(values) => list(values),
        P::ArrayDecimal(values) | P::ArrayStr(values) => texts(values),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Limits;

    /// Take out: the places in `row`.
    #[test]
    fn nulls_weigh_what_their_rows_do() {
        let call = Account::root("the call", Limits::NONE);
        let mut meter = Meter::new(&call).unwrap();
        let weight = row(&[v4::DbValue::DbNull]);
        assert!(weight >= size_of::<Vec<v4::DbValue>>() + size_of::<v4::DbValue>(), "{weight}");
        let rows = (0..20_000_000).take_while(|_| meter.add(weight).is_ok()).count() as u64;
        assert!(rows * weight as u64 <= RESULT_BYTES_MAX && rows < 1_000_000, "{rows}");
        let held = call.used(Resource::HostBytes);
        assert!(held > RESULT_BYTES_MAX - 2 * STEP_BYTES && held <= RESULT_BYTES_MAX, "{held}");
        drop(meter);
        assert_eq!(call.used(Resource::HostBytes), 0);
    }

    #[test]
    fn a_result_is_held_until_its_guard_goes_and_a_used_up_budget_ends_it() {
        let call = Account::root("the call", Limits::NONE.with(Resource::HostBytes, 100_000));
        let mut meter = Meter::new(&call).unwrap();
        meter.add(1000).unwrap();
        let held = meter.finish().unwrap();
        assert_eq!((call.used(Resource::HostBytes), held.amount()), (1000, 1000));
        let mut meter = Meter::new(&call).unwrap();
        assert!(meter.add(99_001).is_err());
        drop(meter);
        drop(held);
        assert_eq!(call.used(Resource::HostBytes), 0);
    }

    #[test]
    fn what_is_allocated_for_a_value_counts() {
        let text = || "x".repeat(1000);
        assert!(row(&[v4::DbValue::Str(text())]) > 1000 + row(&[v4::DbValue::DbNull]));
        assert!(row(&[v4::DbValue::ArrayStr(vec![None; 1000])]) > 1000 * size_of::<Option<String>>());
        assert!(row(&[v4::DbValue::ArrayInt32(vec![None; 1000])]) > 8000);
        assert!(parameters(&[v4::ParameterValue::ArrayStr(vec![Some(text()), None])]) > 2000);
    }
}
