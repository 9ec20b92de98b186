//! What must hold at the end, whatever happened.

use std::collections::{BTreeMap, BTreeSet};

use window::late::Late;
use window::time::MICROS_PER_SECOND;

use crate::Feed;
use crate::database::{Key, RejectKey, Row};
use crate::world::{Kind, WINDOW_SECONDS, World};

/// Everything that is wrong.
pub fn check(world: &World) -> Vec<String> {
    let mut wrong = world.violations.take();
    let database = world.database.borrow();
    let late: BTreeSet<(i32, i64)> = database
        .rejects
        .iter()
        .filter(|(_, reason)| **reason == "late")
        .map(|((partition, offset, _), _)| (*partition, *offset))
        .collect();
    let mut rows: BTreeMap<Key, Row> = BTreeMap::new();
    let mut bad: BTreeSet<RejectKey> = BTreeSet::new();
    for (partition, records) in world.log.borrow().iter().enumerate() {
        for (offset, record) in records.iter().enumerate() {
            let (partition, offset) = (partition as i32, offset as i64);
            match record.kind {
                Kind::Hole => {}
                Kind::Bad | Kind::Future => drop(bad.insert((partition, offset, None))),
                Kind::Good { code, value, time_us } => {
                    let start = time_us.div_euclid(WINDOW_SECONDS * MICROS_PER_SECOND) * WINDOW_SECONDS;
                    if late.contains(&(partition, offset)) {
                        bad.insert((partition, offset, Some(start)));
                        continue;
                    }
                    let row = Row::new((time_us, partition, offset), value as f64);
                    rows.entry((start, code.to_string())).and_modify(|there| there.merge(&row)).or_insert(row);
                }
            }
        }
    }
    for (key, row) in &rows {
        match database.aggregates.get(key) {
            Some((found, _)) if found == row => {}
            found => wrong.push(format!("{key:?} is {found:?}, not {row:?}")),
        }
    }
    wrong.extend(
        database.aggregates.keys().filter(|key| !rows.contains_key(key)).map(|key| format!("{key:?} is too much")),
    );
    let rejected: BTreeSet<RejectKey> = database.rejects.keys().copied().collect();
    wrong.extend(rejected.symmetric_difference(&bad).map(|key| format!("the reject {key:?} is missing or too much")));
    if database.rejects_refused > 0 {
        wrong.push(format!("{} rejects were to be written twice", database.rejects_refused));
    }
    if world.plan.late == Late::Revise && !late.is_empty() {
        wrong.push("late records were rejected".to_owned());
    }
    let revised = database.aggregates.iter().filter(|(_, (_, revision))| *revision > 0);
    if world.plan.late == Late::Reject {
        wrong.extend(revised.map(|(key, _)| format!("{key:?} was revised, and late records are rejected")));
    } else if world.plan.feed == Feed::Punctual {
        wrong.extend(revised.map(|(key, _)| format!("{key:?} was closed too early")));
    }
    if world.plan.feed == Feed::Historic {
        // Silence closes windows that hold records, and no others.
        let closed: BTreeSet<i64> = database.aggregates.keys().map(|key| key.0).collect();
        let without = bad.iter().filter_map(|key| key.2).filter(|start| !closed.contains(start)).count();
        if without > 0 {
            wrong.push(format!("{without} records were late for windows that held none"));
        }
    }
    if world.plan.feed == Feed::Punctual && !late.is_empty() {
        wrong.push(format!("{} punctual records were late", late.len()));
    }
    wrong
}
