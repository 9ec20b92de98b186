//! What becomes of a record whose window is closed.

/// What becomes of a record whose window is closed: the setting `late` of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Late {
    /// It is merged into the row, whose revision rises.
    Revise,
    /// It is rejected, for that window; a window that is closed stays as it is.
    Reject,
}

impl Late {
    /// As the setting and `streams.late` write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Revise => "revise",
            Self::Reject => "reject",
        }
    }

    /// The policy of a name; none where there is no such.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Revise, Self::Reject].into_iter().find(|late| late.name() == name)
    }
}
