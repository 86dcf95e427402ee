//! Decides who may read, and who may change state, through the admin address.
//!
//! In:  the configured access, the peer of a request, its headers.
//! Out: nothing, or [`Denied`], which shows what to provide.
//!
//! Changes need proof: the token, or the unix socket, whose file permissions control access. An address proves nothing:
//! all clients of a reverse proxy on this host appear to come from loopback. Through the unix socket a request also
//! needs a header that no web page sends by itself, and must show no sign of a page or a proxy. (`Authorization` is such
//! a header.)
//!
//! Reads are refused only to web pages of other sites: by `Origin`, or, if their own name resolves to this host (DNS
//! rebinding), by that name in `Host`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use super::App;
use super::error::error;

/// The configured access.
#[derive(Clone)]
pub(crate) struct Access {
    pub allow: Allow,
    pub token: Option<Arc<str>>,
}

/// Who may change state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allow {
    /// Clients of the unix socket, and clients with the token.
    Auto,
    Token,
    Never,
}

/// The peer of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Tcp(SocketAddr),
    /// Through a unix socket, whose file permissions control access.
    Unix,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// Why a request may not change state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    Never,
    /// The token is missing, malformed or wrong.
    WrongToken,
    NeedsToken,
    /// Neither a token is configured, nor did it come through the unix socket.
    NeedsProof,
    /// Through the unix socket, but without [`CONTROL`].
    NeedsHeader,
    /// A read by a web page of another site, or possibly so.
    Foreign,
    /// Sent by a web page, or possibly so.
    Page,
    /// Forwarded by a proxy, so the real client is unknown.
    Proxied,
}

/// Passes requests that may read or change state; answers the others with an error.
pub(super) async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().copied();
    let (access, uri, headers) = (app.control.access(), request.uri(), request.headers());
    let decision =
        if request.method().is_safe() { access.decide_read(uri, headers) } else { access.decide(peer, uri, headers) };
    match decision {
        Ok(()) => next.run(request).await,
        Err(denied) => {
            tracing::debug!(
                event = "control_denied",
                peer = peer.map(display),
                method = %request.method(),
                path = request.uri().path(),
                %denied,
                "request denied"
            );
            denied.into_response()
        }
    }
}

impl Access {
    /// `peer` is `None` if it is unknown.
    ///
    /// # Errors
    /// The reason for the denial. It says what to provide, but reveals nothing about the expected token.
    pub(crate) fn decide(&self, peer: Option<Peer>, uri: &Uri, headers: &HeaderMap) -> Result<(), Denied> {
        if self.allow == Allow::Never {
            return Err(Denied::Never);
        }
        // A token that is present must be correct, wherever the request comes from.
        if let Some(is_right) = self.token_in(headers) {
            return if is_right { Ok(()) } else { Err(Denied::WrongToken) };
        }
        match (self.allow, peer) {
            (Allow::Auto, Some(Peer::Unix)) => without_token(uri, headers),
            _ if self.token.is_some() => Err(Denied::NeedsToken),
            _ => Err(Denied::NeedsProof),
        }
    }

    /// # Errors
    /// As for [`Self::decide`].
    pub(crate) fn decide_read(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Denied> {
        let is_fine = Hosts::of(uri, headers).are(is_private_name) && comes_from_itself(headers);
        if is_fine || self.token_in(headers) == Some(true) { Ok(()) } else { Err(Denied::Foreign) }
    }

    /// Whether the token in the headers is the right one, if there is one.
    fn token_in(&self, headers: &HeaderMap) -> Option<bool> {
        let mut given = headers.get_all(header::AUTHORIZATION).iter();
        let first = given.next()?;
        Some(given.next().is_none() && self.is_token(first))
    }

    /// Compares in constant time.
    fn is_token(&self, authorization: &HeaderValue) -> bool {
        let Some((scheme, given)) = authorization.to_str().ok().and_then(|text| text.split_once(' ')) else {
            return false;
        };
        let is_right = |token: &Arc<str>| bool::from(token.as_bytes().ct_eq(given.trim().as_bytes()));
        scheme.eq_ignore_ascii_case("bearer") && self.token.as_ref().is_some_and(is_right)
    }
}

/// Whether a request through the unix socket was sent by a program on this host, not on behalf of someone else.
fn without_token(uri: &Uri, headers: &HeaderMap) -> Result<(), Denied> {
    if FORWARDED.iter().any(|name| headers.contains_key(*name)) {
        return Err(Denied::Proxied);
    }
    let site_is_fine = |site: &HeaderValue| matches!(text(site), "same-origin" | "none");
    let is_fine = Hosts::of(uri, headers).are(names_this_host)
        && comes_from_itself(headers)
        && headers.get_all(FETCH_SITE).iter().all(site_is_fine);
    match (is_fine, headers.contains_key(CONTROL)) {
        (false, _) => Err(Denied::Page),
        (true, false) => Err(Denied::NeedsHeader),
        (true, true) => Ok(()),
    }
}

/// The names by which a request calls this server: `Host`, and in a proxy's form of a request the URI.
struct Hosts<'r>(Vec<&'r str>);

impl<'r> Hosts<'r> {
    fn of(uri: &'r Uri, headers: &'r HeaderMap) -> Self {
        let authority = uri.authority().map(|host| host.as_str());
        Self(headers.get_all(header::HOST).iter().map(text).chain(authority).collect())
    }

    /// HTTP/1.0 has no Host, but no browser speaks it; RFC 9110 §7.2: it is empty for a server without a host name.
    fn are(&self, fine: fn(&str) -> bool) -> bool {
        self.0.iter().all(|host| host.is_empty() || fine(host)) && self.0.iter().all(|host| *host == self.0[0])
    }
}

fn comes_from_itself(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).map(text);
    let from_itself = |origin: &HeaderValue| text(origin).split_once("://").map(|(_, origin)| origin) == host;
    headers.get_all(header::ORIGIN).iter().all(from_itself)
}

/// An address, a name without a dot, or one below a domain that the public DNS does not have (RFC 6761, RFC 6762): no
/// site can point such a name here.
fn is_private_name(host: &str) -> bool {
    let name = host.split_once(':').map_or(host, |(name, _)| name).trim_end_matches('.').to_ascii_lowercase();
    let is_private = |(_, domain): (&str, &str)| ["localhost", "local", "internal", "svc"].contains(&domain);
    names_this_host(host) || name.rsplit_once('.').map_or(!name.is_empty() && !name.contains('['), is_private)
}

/// `127.0.0.1:9901`, `[::1]:9901`, `localhost`: an address, or the one name that always means this host.
fn names_this_host(host: &str) -> bool {
    let port = |rest: &str| rest.is_empty() || rest.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    if let Some((address, rest)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return port(rest) && address.parse::<IpAddr>().is_ok();
    }
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    let rest = &host[name.len()..];
    port(rest) && (name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok())
}

/// The text of a header value; a value that is not ASCII matches nothing.
fn text(value: &HeaderValue) -> &str {
    value.to_str().unwrap_or("\0")
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        let status = match self {
            Self::WrongToken | Self::NeedsToken => StatusCode::UNAUTHORIZED,
            Self::Never | Self::NeedsProof | Self::NeedsHeader | Self::Foreign | Self::Page | Self::Proxied => {
                StatusCode::FORBIDDEN
            }
        };
        let mut response = error(status, &self.to_string());
        if status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"snigate\""));
        }
        response
    }
}

/// The refusal of a change that comes without token and not through the unix socket.
pub(crate) const NEEDS_PROOF: &str = "changes need a token (set `admin.token_file`, send `Authorization: Bearer TOKEN`) or a \
     unix socket (`admin.bind: unix:/run/snigate/admin.sock`)";

impl std::fmt::Display for Denied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Never => "`admin.allow_control` is `never`: nothing can be changed here",
            Self::WrongToken => "this is not the token of `admin.token_file`",
            Self::NeedsToken => "the token of `admin.token_file` is needed: `Authorization: Bearer TOKEN`",
            Self::NeedsProof => NEEDS_PROOF,
            Self::NeedsHeader => {
                "changes through the unix socket need a header that no web page sends by itself: add `X-Snigate-Control: 1`"
            }
            Self::Foreign => {
                "this may come from a web page of another site (`Origin`, or a public name in `Host`): use the address, or a \
                 name without a dot, or send the token of `admin.token_file`"
            }
            Self::Page => {
                "this may come from a web page (`Host` is neither an address nor `localhost`, or `Origin` or \
                 `Sec-Fetch-Site` is of another site): it needs the token of `admin.token_file`"
            }
            Self::Proxied => {
                "the headers show that this came through a proxy: it needs the token of `admin.token_file`"
            }
        })
    }
}

impl std::error::Error for Denied {}

/// Its value does not matter: a page of another site can send no header of its own without asking first (CORS).
const CONTROL: HeaderName = HeaderName::from_static("x-snigate-control");
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// Headers that a proxy adds.
const FORWARDED: [&str; 4] = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];

#[cfg(test)]
mod tests {
    use super::*;

    fn access(allow: Allow, token: Option<&str>) -> Access {
        Access { allow, token: token.map(Into::into) }
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    const HERE: Option<Peer> = Some(Peer::Tcp(SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 4)));

    fn elsewhere() -> Option<Peer> {
        Some(Peer::Tcp("10.0.0.1:4".parse().unwrap()))
    }

    #[test]
    fn who_may_change_state_is_a_table() {
        let (plain, auto) = (headers(&[("host", "127.0.0.1:9901")]), access(Allow::Auto, None));
        let control = headers(&[("host", "localhost"), ("x-snigate-control", "1")]);
        let (right, wrong) =
            (headers(&[("authorization", "bEarer  abc")]), headers(&[("authorization", "Bearer abd")]));
        let (with_token, unix) = (access(Allow::Auto, Some("abc")), Some(Peer::Unix));
        let uri = Uri::from_static("/");
        for (access, peer, headers, expected) in [
            (&auto, unix, &control, Ok(())),
            (&auto, unix, &plain, Err(Denied::NeedsHeader)),
            (&auto, HERE, &plain, Err(Denied::NeedsProof)),
            (&auto, HERE, &control, Err(Denied::NeedsProof)),
            (&auto, elsewhere(), &control, Err(Denied::NeedsProof)),
            (&auto, None, &control, Err(Denied::NeedsProof)),
            (&auto, HERE, &right, Err(Denied::WrongToken)),
            (&with_token, unix, &control, Ok(())),
            (&with_token, unix, &right, Ok(())),
            (&with_token, HERE, &control, Err(Denied::NeedsToken)),
            (&with_token, HERE, &wrong, Err(Denied::WrongToken)),
            (&with_token, HERE, &right, Ok(())),
            (&with_token, elsewhere(), &right, Ok(())),
            (&access(Allow::Token, Some("abc")), unix, &control, Err(Denied::NeedsToken)),
            (&access(Allow::Token, Some("abc")), HERE, &right, Ok(())),
            (&access(Allow::Never, Some("abc")), unix, &right, Err(Denied::Never)),
        ] {
            assert_eq!(access.decide(peer, &uri, headers), expected, "{:?} {peer:?} {headers:?}", access.allow);
        }
        let twice = headers(&[("authorization", "Bearer abc"), ("authorization", "Bearer abc")]);
        for odd in [twice, headers(&[("authorization", "abc")]), headers(&[("authorization", "Basic abc")])] {
            assert_eq!(with_token.decide(HERE, &uri, &odd), Err(Denied::WrongToken), "{odd:?}");
        }
    }

    #[test]
    fn what_a_page_or_a_proxy_sends_needs_the_token() {
        let auto = access(Allow::Auto, None);
        let decide = |uri: &str, lines: &[(&'static str, &str)]| {
            auto.decide(
                Some(Peer::Unix),
                &uri.parse().unwrap(),
                &headers(&[lines, &[("x-snigate-control", "1")]].concat()),
            )
        };
        let host = ("host", "127.0.0.1:9901");
        for fine in [
            &[][..],
            &[("host", "")],
            &[("host", "localhost")],
            &[("host", "[::1]:9901")],
            &[host, ("origin", "http://127.0.0.1:9901"), ("sec-fetch-site", "same-origin")],
        ] {
            assert_eq!(decide("/", fine), Ok(()), "{fine:?}");
        }
        for page in [
            &[("host", "rebound.example:9901")][..],
            &[("host", "rebound.example:9901"), ("origin", "http://rebound.example:9901")],
            &[("host", "127.0.0.1.rebound.example")],
            &[("host", "localhost:x")],
            &[("host", "[::1]x")],
            &[host, ("host", "localhost")],
            &[host, ("origin", "http://evil.example")],
            &[host, ("origin", "http://127.0.0.1:3000")],
            &[host, ("origin", "null")],
            &[host, ("sec-fetch-site", "cross-site")],
            &[host, ("sec-fetch-site", "same-site")],
        ] {
            assert_eq!(decide("/", page), Err(Denied::Page), "{page:?}");
        }
        assert_eq!(decide("http://rebound.example/api/v1/reload", &[host]), Err(Denied::Page));
        for name in FORWARDED {
            assert_eq!(decide("/", &[host, (name, "198.51.100.1")]), Err(Denied::Proxied), "{name}");
        }
    }

    #[test]
    fn a_page_of_another_site_reads_nothing() {
        let access = access(Allow::Never, Some("abc"));
        let decide =
            |uri: &str, lines: &[(&'static str, &str)]| access.decide_read(&uri.parse().unwrap(), &headers(lines));
        for fine in ["", "10.0.0.1:9901", "[2001:db8::1]:9901", "localhost:9901", "lb", "snigate:9901", "lb.local"] {
            assert_eq!(decide("/", &[("host", fine)]), Ok(()), "{fine}");
        }
        for fine in ["lb-0.lb.prod.svc:9901", "lb.prod.svc.cluster.local.", "LB.Internal:9901"] {
            assert_eq!(decide("/", &[("host", fine), ("origin", &format!("http://{fine}"))]), Ok(()), "{fine}");
        }
        assert_eq!(decide("/", &[]), Ok(()));
        for foreign in
            ["rebound.example", "rebound.example:9901", "127.0.0.1.nip.io", "local.example.", "[::1].example"]
        {
            assert_eq!(decide("/", &[("host", foreign)]), Err(Denied::Foreign), "{foreign}");
            let token = ("authorization", "Bearer abc");
            assert_eq!(decide("/", &[("host", foreign), token]), Ok(()), "{foreign} with the token");
        }
        assert_eq!(decide("http://rebound.example/", &[("host", "localhost")]), Err(Denied::Foreign));
        assert_eq!(decide("/", &[("host", "localhost"), ("host", "rebound.example")]), Err(Denied::Foreign));
        let host = ("host", "localhost:9901");
        for origin in ["http://rebound.example", "http://localhost:3000", "null"] {
            assert_eq!(decide("/", &[host, ("origin", origin)]), Err(Denied::Foreign), "{origin}");
        }
    }
}
