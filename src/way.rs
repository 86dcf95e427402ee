//! The two directions of a connection, and their names in the metrics.

/// Where bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client to the backend.
    ToBackend,
    /// From the backend to the client.
    ToClient,
}

impl Way {
    /// Both, in the order of their discriminants.
    pub const ALL: &'static [Self] = &[Self::ToBackend, Self::ToClient];

    /// The value of the label `direction`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ToBackend => "to_backend",
            Self::ToClient => "to_client",
        }
    }
}
