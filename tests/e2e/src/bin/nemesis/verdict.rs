//! Whether the rows are what was sent.

use std::collections::{BTreeMap, BTreeSet};

use e2e::database::Database;
use e2e::oracle::{Difference, Oracle};

use crate::producer::Sent;
use crate::{Shape, WINDOW_SECONDS};

pub struct Verdict {
    pub rows: usize,
    pub rejects: usize,
    /// Records that were late by the time they were applied, where late records are rejected.
    pub late: usize,
    pub difference: Difference,
    pub wrong_rejects: Vec<String>,
}

/// Compares the final rows, and the rejected records, with what was sent.
pub fn of(database: &Database, sent: &Sent, shape: Shape) -> Verdict {
    let statement = "SELECT partition, record_offset, reason FROM public.rejected_records";
    let rejected = database.client().query(statement, &[]).unwrap();
    let (mut missing, mut late, mut wrong) = (sent.rejects.clone(), BTreeSet::new(), Vec::new());
    for row in &rejected {
        let (place, reason): ((i32, i64), String) = ((row.get(0), row.get(1)), row.get(2));
        if shape.rejects_late && reason == "late" && sent.counted.contains_key(&place) {
            if !late.insert(place) {
                wrong.push(format!("{place:?} is late twice"));
            }
        } else if missing.remove(&place).as_ref() != Some(&reason) {
            wrong.push(format!("{place:?} is rejected: {reason}"));
        }
    }
    wrong.extend(missing.iter().map(|(place, reason)| format!("{place:?} is not rejected: {reason}")));
    let mut oracle = Oracle::default();
    for (place, record) in &sent.counted {
        if !late.contains(place) {
            oracle.count(record, WINDOW_SECONDS, WINDOW_SECONDS);
        }
    }
    Verdict {
        rows: oracle.rows(),
        rejects: rejected.len(),
        late: late.len(),
        difference: oracle.compare(database, "exchanges"),
        wrong_rejects: wrong,
    }
}

impl Verdict {
    pub fn is_clean(&self) -> bool {
        self.difference.is_none() && self.wrong_rejects.is_empty()
    }

    /// Says the first things that are wrong.
    pub fn report(&self) {
        for example in self.difference.examples.iter().chain(self.wrong_rejects.iter().take(10)) {
            println!("  {example}");
        }
    }
}

/// Records by partition and offset.
pub type ByPlace<T> = BTreeMap<(i32, i64), T>;
