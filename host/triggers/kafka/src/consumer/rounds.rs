//! The group's rounds, as one member sees them: a member that librdkafka leaves behind is known by them.
//!
//! In a cooperative rebalance partitions go first and others come after, in one generation of the group. librdkafka
//! (2.12) keeps those that are to come in the meantime. When the topic's number of partitions changes while the
//! revocation is waited for, it joins again at once, without a look at whether a rebalance is in progress
//! (`rd_kafka_cgrp_metadata_update_check`): the next assignment is of another generation, and what it kept stays.
//! From then on it takes every later rebalance for one that is in progress already. It sends heartbeats and does not
//! join, so that the whole group waits for it until its time to rejoin is over, and again after each join.

/// What this member saw last.
#[derive(Debug, Default)]
pub struct Rounds {
    /// The generation in which partitions went, as long as none came after.
    revoked_in: Option<i32>,
}

impl Rounds {
    /// Partitions go in this generation; none when the group has gone on without the member, which joins anew then.
    pub fn revoked(&mut self, generation: Option<i32>) {
        self.revoked_in = generation;
    }

    /// Partitions come, be it none. True when the member is left behind: it has to leave and to join anew.
    pub fn assigned(&mut self, generation: Option<i32>) -> bool {
        self.revoked_in.take().is_some_and(|revoked_in| generation != Some(revoked_in))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_of_another_generation_than_the_revocation_leaves_the_member_behind() {
        let mut rounds = Rounds::default();
        assert!(!rounds.assigned(Some(1)), "the first one");
        rounds.revoked(Some(2));
        assert!(!rounds.assigned(Some(2)), "the two halves of one rebalance");
        assert!(!rounds.assigned(Some(3)), "nothing went");
        rounds.revoked(Some(4));
        assert!(rounds.assigned(Some(5)));
        rounds.revoked(Some(6));
        rounds.revoked(Some(7));
        assert!(!rounds.assigned(Some(7)), "librdkafka replaces what it kept");
        rounds.revoked(None);
        assert!(!rounds.assigned(Some(8)), "all was lost, and nothing is kept");
    }
}
