//! How an output shows its lines.
//!
//! In:  the settings of the log, and what the output is.
//! Out: [`Style`].

use crate::settings::{Log, LogFields, LogFormat, Shown};

/// How the lines of one output look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::telemetry::log) struct Style {
    pub(in crate::telemetry::log) form: Form,
    pub(in crate::telemetry::log) names: Shown,
    /// Names that were encrypted.
    pub(in crate::telemetry::log) inner_names: Shown,
    pub(in crate::telemetry::log) clients: Shown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::telemetry::log) enum Form {
    Json(LogFields),
    Logfmt,
    Pretty(Colour),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::telemetry::log) enum Colour {
    Ansi,
    None,
}

/// What an output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::telemetry::log) enum Medium {
    /// A terminal, with colors if the user wants them.
    Terminal(Colour),
    /// A file, a pipe, a socket.
    Other,
}

impl Style {
    pub(in crate::telemetry::log) fn new(settings: &Log, medium: Medium) -> Self {
        let colour = if let Medium::Terminal(colour) = medium { colour } else { Colour::None };
        let form = match (settings.format, medium) {
            (LogFormat::Auto, Medium::Terminal(_)) | (LogFormat::Pretty, _) => Form::Pretty(colour),
            (LogFormat::Auto, Medium::Other) | (LogFormat::Json, _) => Form::Json(settings.fields),
            (LogFormat::Logfmt, _) => Form::Logfmt,
        };
        let inner_names = settings.inner_names.unwrap_or(settings.names);
        Self { form, names: settings.names, inner_names, clients: settings.clients }
    }
}
