//! How something is doing. Each tone has a colour and a shape, and the page puts a word beside it.

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tone {
    Bad,
    Warn,
    /// As an operator wants it.
    Note,
    Off,
    Ok,
}

impl Tone {
    /// Its CSS class.
    pub(super) const fn class(self) -> &'static str {
        match self {
            Self::Bad => "bad",
            Self::Warn => "warn",
            Self::Note => "note",
            Self::Off => "off",
            Self::Ok => "ok",
        }
    }
}
