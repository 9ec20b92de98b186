//! Properties of what functions read. A target is a module here, a line in [`TARGETS`], a folder of
//! `fuzz/seeds` and a word in `fuzz/run.sh`.

pub mod messages;
pub mod record;

use fuzz_harness::Target;

pub const TARGETS: [Target; 2] = [("messages", messages::check), ("record", record::check)];

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_kept_is_replayed() {
        fuzz_harness::replay(&super::TARGETS);
    }
}
