//! A term has one primary: two would each take entries that the other's majority does not know.

use std::collections::BTreeMap;

use wal::meta::NodeId;

use crate::network::Place;

/// Who was primary when.
#[derive(Debug, Default)]
pub struct Primaries {
    /// By group and term.
    seen: BTreeMap<(Place, u64), NodeId>,
}

impl Primaries {
    /// A node of the group that begins at `first` is primary of a term. Returns the one that was it before.
    pub fn leads(&mut self, first: Place, term: u64, node: NodeId) -> Option<NodeId> {
        let before = *self.seen.entry((first, term)).or_insert(node);
        (before != node).then_some(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_primary_of_a_term_is_one_too_many() {
        let mut primaries = Primaries::default();
        assert_eq!(primaries.leads(0, 1, 2), None);
        assert_eq!(primaries.leads(0, 1, 2), None);
        assert_eq!(primaries.leads(3, 1, 4), None, "the other group has terms of its own");
        assert_eq!(primaries.leads(0, 2, 1), None);
        assert_eq!(primaries.leads(0, 1, 1), Some(2));
    }
}
