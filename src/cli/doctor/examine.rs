//! Probes backends: with every name, then with other kinds of hello.
//!
//! In:  [`Target`]s: a backend's address and the names to send.
//! Out: an [`Examination`] each: its answer to every probe.
//!
//! A few backends are probed at once, each with a few probes at once; every probe has a deadline.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::plan::{Question, UNKNOWN, Why};
use super::reach::{Connector, InPieces, NotOpen, Stream};
use crate::backends::confirmation;
use crate::backends::handshake::{self, Handshake, HandshakeError, KeyExchange, Offer, Roots, Version, Versions};
use crate::backends::health::PlainCheck;
use crate::cli::progress::Progress;
use crate::connect::StarttlsError;
use crate::ech::Confirmation;
use crate::pool::Address;
use crate::settings::Pool;

/// One address of one backend.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// An index into the configuration's pools.
    pub pool: usize,
    /// As written in the configuration, and the address if that differs.
    pub label: Arc<str>,
    pub connector: Connector,
    /// The health check of its pool, if that asks something in plain text.
    pub check: Option<Check>,
    /// The roots to trust; `None`: verify nothing.
    pub roots: Option<Roots>,
    pub asked: Arc<[Question]>,
    /// Names that were encrypted may reach it.
    pub gets_inner_hellos: bool,
}

/// A health check in plain text, and how to connect for it.
#[derive(Clone)]
pub(super) struct Check {
    connector: Connector,
    address: Address,
    asking: Arc<PlainCheck>,
}

impl Check {
    /// The check of `pool`, for its backend at `address`; `None`: the pool has none, or of another kind.
    pub(super) fn new(pool: &Pool, mut address: Address) -> Option<Self> {
        let check = pool.health_check.as_ref()?;
        let asking = Arc::new(PlainCheck::new(check)?);
        if let (Address::Inet(inet), Some(port)) = (&mut address, *check.port) {
            inet.set_port(port);
        }
        Some(Self { connector: Connector::new(pool, address.clone()), address, asking })
    }

    /// Checks once, as snigate does.
    async fn run(&self, limit: Duration) -> Result<(), String> {
        let Self { connector, address, asking } = self;
        let deadline = Instant::now() + limit;
        let check = async {
            let stream = connector.introduced().await;
            let stream = stream.map_err(|error| format!("cannot connect to {address}: {error}"))?;
            let checked = asking.over(stream, address, deadline).await;
            checked.map_err(|error| format!("{address}: {error}"))
        };
        match timeout_at(deadline, check).await {
            Ok(checked) => checked,
            Err(_) => Err(format!("{address}: not finished within {} ms", limit.as_millis())),
        }
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check").field("address", &self.address).finish_non_exhaustive()
    }
}

/// What a backend answered.
#[derive(Debug)]
pub(super) struct Examination {
    pub target: Target,
    /// In the order of the questions; a backend that never answers is not asked all of them.
    pub answers: Vec<Answer>,
    /// The further probes, with the first name that was answered, preferably a real one; `None`: no name was answered.
    pub more: Option<More>,
    /// Whether it accepts inner hellos, if it gets any and answers one.
    pub confirmation: Option<Confirmation>,
    /// Why the health check fails, if it does.
    pub check_failed: Option<String>,
}

#[derive(Debug)]
pub(super) struct Answer {
    pub asked: Question,
    pub outcome: Outcome,
    /// The backend rejected the ALPN protocols of browsers, and was asked again without ALPN.
    pub alpn_refused: bool,
}

pub(super) type Outcome = Result<Handshake, Failure>;

/// Answers to probes that are not about a name.
#[derive(Debug)]
pub(super) struct More {
    pub name: Question,
    /// Only TLS 1.2 offered.
    pub tls12: Outcome,
    /// A browser's hello with post-quantum key exchange.
    pub large: Outcome,
    /// A hello split into records of [`RECORD_BYTES`].
    pub in_records: Outcome,
    /// A hello split into TCP segments.
    pub in_segments: Outcome,
    /// A name that no backend serves.
    pub unknown: Outcome,
    pub nameless: Outcome,
}

impl Examination {
    /// The first successful handshake.
    pub(super) fn first(&self) -> Option<&Handshake> {
        self.answers.iter().find_map(|answer| answer.outcome.as_ref().ok())
    }

    /// The versions that it speaks; empty if none.
    pub(super) fn versions(&self) -> Vec<Version> {
        let Some(first) = self.first() else { return Vec::new() };
        // Before TLS 1.3, a request for a client certificate makes the handshake fail, but the version was already
        // negotiated.
        let tls12 = self.more.as_ref().is_some_and(|more| {
            matches!(more.tls12, Ok(_) | Err(Failure::Handshake(HandshakeError::WantsClientCertificate { .. })))
        });
        match first.version {
            Version::Tls12 => vec![Version::Tls12],
            Version::Tls13 if tls12 => vec![Version::Tls12, Version::Tls13],
            Version::Tls13 => vec![Version::Tls13],
        }
    }
}

/// Why there was no answer.
#[derive(Debug)]
pub(super) enum Failure {
    Connect(io::Error),
    /// The exchange before TLS failed.
    Starttls(StarttlsError),
    ConnectTimedOut {
        after: Duration,
    },
    /// It accepted the connection, and then sent nothing until the deadline.
    Silent {
        after: Duration,
    },
    Handshake(HandshakeError),
    /// It speaks TLS if a PROXY header is added, or left out where the pool sends one (`sent`).
    ProxyHeader {
        sent: bool,
    },
}

/// Examines all, and returns the results in order. `limit` applies to connecting, and again to a handshake.
pub(super) async fn examine(targets: Vec<Target>, limit: Duration) -> Vec<Examination> {
    let places = Arc::new(Semaphore::new(BACKENDS_AT_A_TIME));
    let progress = Arc::new(Progress::start("testing backends", u64::try_from(targets.len()).ok()));
    let mut exams = JoinSet::new();
    for (nth, target) in targets.into_iter().enumerate() {
        let (places, progress) = (Arc::clone(&places), Arc::clone(&progress));
        exams.spawn(async move {
            let _place = places.acquire().await;
            let exam = exam(target, limit).await;
            progress.step();
            (nth, exam)
        });
    }
    let mut exams = exams.join_all().await;
    exams.sort_by_key(|(nth, _)| *nth);
    exams.into_iter().map(|(_, exam)| exam).collect()
}

async fn exam(target: Target, limit: Duration) -> Examination {
    let mut answers = Vec::with_capacity(target.asked.len());
    // The first one alone: if connecting fails, the others are not asked.
    let mut rest = &target.asked[..];
    let mut at_a_time = 1;
    while !rest.is_empty() && !hopeless(&answers) {
        let (now, later) = rest.split_at(at_a_time.min(rest.len()));
        let first = answers.is_empty();
        answers.extend(answers_to(now, &target, limit).await);
        if let (true, Some(answer)) = (first, answers.first_mut()) {
            look_for_proxy_header(answer, &target.connector, limit).await;
        }
        (rest, at_a_time) = (later, NAMES_AT_A_TIME);
    }
    let answered = || answers.iter().filter_map(|answer| Some((&answer.asked, answer.outcome.as_ref().ok()?)));
    let answered = answered().find(|(asked, _)| asked.why == Why::Routed).or_else(|| answered().next());
    let more = match answered {
        Some((asked, handshake)) => {
            let alpn = if handshake.alpn.is_some() { target.connector.alpn() } else { Vec::new() };
            Some(more(asked, alpn, &target.connector, limit).await)
        }
        None => None,
    };
    let confirmation = match answered {
        Some((asked, _)) if target.gets_inner_hellos => ask_for_confirmation(asked, &target.connector, limit).await,
        _ => None,
    };
    share_chains(&mut answers);
    let check_failed = match &target.check {
        Some(check) => check.run(limit).await.err(),
        None => None,
    };
    Examination { target, answers, more, confirmation, check_failed }
}

/// Most names get the same chain, which is then stored once.
fn share_chains(answers: &mut [Answer]) {
    let mut seen: HashSet<Arc<[CertificateDer<'static>]>> = HashSet::new();
    for handshake in answers.iter_mut().filter_map(|answer| answer.outcome.as_mut().ok()) {
        match seen.get(&handshake.chain) {
            Some(chain) => handshake.chain = Arc::clone(chain),
            None => drop(seen.insert(Arc::clone(&handshake.chain))),
        }
    }
}

/// A failure may be caused by a missing or unexpected PROXY header: tries the other connector.
async fn look_for_proxy_header(answer: &mut Answer, connector: &Connector, limit: Duration) {
    use HandshakeError::{Alert, ClosedEarly, ClosedWithoutAnswer, NotTls, Tls};
    let Err(failure) = &answer.outcome else { return };
    // A backend that parses the header as a hello may reject it with an alert; one that waits for a header sends none.
    let alert = matches!(failure, Failure::Handshake(Alert(_)));
    let may_be = match failure {
        Failure::Silent { .. } => true,
        Failure::Handshake(error) => {
            matches!(error, ClosedEarly { .. } | ClosedWithoutAnswer | NotTls { .. } | Tls(_))
                || (alert && connector.sends_proxy_header())
        }
        _ => false,
    };
    if !may_be {
        return;
    }
    let asking = Offer { server_name: answer.asked.name.clone(), ..Offer::default() };
    let speaks_tls = match ask(&connector.otherwise(), &asking, Pieces::Whole, limit).await {
        Ok(_) => true,
        Err(Failure::Handshake(Alert(_))) => !alert,
        Err(_) => false,
    };
    if speaks_tls {
        answer.outcome = Err(Failure::ProxyHeader { sent: connector.sends_proxy_header() });
    }
}

/// Whether further probes would only waste time.
fn hopeless(answers: &[Answer]) -> bool {
    let last = &answers[answers.len().saturating_sub(NAMES_AT_A_TIME)..];
    !last.is_empty()
        && last.iter().all(|answer| match &answer.outcome {
            Err(Failure::Connect(_) | Failure::ConnectTimedOut { .. } | Failure::ProxyHeader { .. }) => true,
            Err(Failure::Silent { .. }) => last.len() == NAMES_AT_A_TIME,
            _ => false,
        })
}

async fn answers_to(asked: &[Question], of: &Target, limit: Duration) -> Vec<Answer> {
    let mut answers = JoinSet::new();
    for (nth, asked) in asked.iter().cloned().enumerate() {
        let (connector, roots) = (of.connector.clone(), of.roots.clone());
        answers.spawn(async move { (nth, answer_to(asked, &connector, roots, limit).await) });
    }
    let mut answers = answers.join_all().await;
    answers.sort_by_key(|(nth, _)| *nth);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

async fn answer_to(asked: Question, connector: &Connector, roots: Option<Roots>, limit: Duration) -> Answer {
    let mut asking = Offer { server_name: asked.name.clone(), alpn: connector.alpn(), roots, ..Offer::default() };
    let mut outcome = ask(connector, &asking, Pieces::Whole, limit).await;
    let alpn_refused = matches!(&outcome, Err(Failure::Handshake(HandshakeError::Alert(alert))) if alert.name() == "no_application_protocol");
    if alpn_refused {
        asking.alpn.clear();
        outcome = ask(connector, &asking, Pieces::Whole, limit).await;
    }
    Answer { asked, outcome, alpn_refused }
}

async fn more(asked: &Question, alpn: Vec<Vec<u8>>, connector: &Connector, limit: Duration) -> More {
    let usual = Offer { server_name: asked.name.clone(), alpn, ..Offer::default() };
    let with = |asking: Offer, pieces| async move { ask_twice(connector, &asking, pieces, limit).await };
    More {
        name: asked.clone(),
        tls12: with(Offer { versions: Versions::Tls12, ..usual.clone() }, Pieces::Whole).await,
        large: with(Offer { key_exchange: KeyExchange::PostQuantum, ..usual.clone() }, Pieces::Whole).await,
        in_records: with(Offer { max_record_bytes: Some(RECORD_BYTES), ..usual.clone() }, Pieces::Whole).await,
        in_segments: with(usual.clone(), Pieces::Segments).await,
        unknown: with(Offer { server_name: Some(UNKNOWN.into()), ..usual.clone() }, Pieces::Whole).await,
        nameless: with(Offer { server_name: None, ..usual }, Pieces::Whole).await,
    }
}

/// Sends an inner hello, without ALPN, which not all servers have. Asks again if there is no answer that shows anything.
async fn ask_for_confirmation(asked: &Question, connector: &Connector, limit: Duration) -> Option<Confirmation> {
    for _ in 0..2 {
        let confirmation = async {
            let stream = connector.open().await.ok()?;
            confirmation::ask(stream, asked.name.as_deref(), &[]).await.ok()
        };
        match timeout(limit, confirmation).await {
            Ok(Some(confirmation)) if confirmation != Confirmation::Unknown => return Some(confirmation),
            _ => {}
        }
    }
    None
}

/// How our hello is split.
#[derive(Clone, Copy, PartialEq)]
enum Pieces {
    Whole,
    Segments,
}

/// Asks again after a failure, which may be a coincidence, such as a backend that is just restarting.
async fn ask_twice(connector: &Connector, asking: &Offer, pieces: Pieces, limit: Duration) -> Outcome {
    match ask(connector, asking, pieces, limit).await {
        Ok(handshake) => Ok(handshake),
        Err(_) => ask(connector, asking, pieces, limit).await,
    }
}

async fn ask(connector: &Connector, asking: &Offer, pieces: Pieces, limit: Duration) -> Outcome {
    let stream = match timeout(limit, connector.open()).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(NotOpen::Io(error))) => return Err(Failure::Connect(error)),
        Ok(Err(NotOpen::Starttls(error))) => return Err(Failure::Starttls(error)),
        Err(_) => return Err(Failure::ConnectTimedOut { after: limit }),
    };
    let stream: Box<dyn Stream> = match pieces {
        Pieces::Whole => stream,
        Pieces::Segments => Box::new(InPieces::new(stream)),
    };
    match timeout(limit, handshake::with(stream, asking)).await {
        Ok(answer) => answer.map_err(Failure::Handshake),
        Err(_) => Err(Failure::Silent { after: limit }),
    }
}

const BACKENDS_AT_A_TIME: usize = 16;
const NAMES_AT_A_TIME: usize = 8;
/// Splits a hello into about five records.
pub(super) const RECORD_BYTES: usize = 64;
