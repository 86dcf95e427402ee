//! Decides who may change state through the admin address.
//!
//! In:  the configured access, the peer of a request, its headers.
//! Out: nothing, or [`Denied`], which says what would help.
//!
//! Clients on this host need no token. Two others can look like one: a web page in a browser on this host, and anyone
//! behind a reverse proxy on this host. A page is detected by `Origin` or `Sec-Fetch-Site`, or, if its own name
//! resolves to this host (DNS rebinding), by that name in `Host`; a proxy by the headers that it adds. Those requests
//! need the token, which a page cannot know.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use super::{App, error};

/// The configured access.
#[derive(Clone)]
pub(crate) struct Access {
    pub allow: Allow,
    pub token: Option<Arc<str>>,
}

/// Who may change state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allow {
    /// Clients on this host, and clients with the token.
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

/// Why a request may not change state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    Never,
    /// The token is missing, malformed or wrong.
    WrongToken,
    NeedsToken,
    /// A token is required, and none is configured.
    FromElsewhere,
    /// Sent by a web page, or possibly so.
    Page,
    /// Forwarded by a proxy, so the real client is unknown.
    Proxied,
}

/// Passes requests that only read and requests that may change state; answers the others with an error.
pub(super) async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if request.method().is_safe() {
        return next.run(request).await;
    }
    let peer = request.extensions().get::<Peer>().copied();
    match app.control.access().decide(peer, request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(denied) => {
            tracing::debug!(
                event = "control_denied",
                ?peer,
                method = %request.method(),
                path = request.uri().path(),
                %denied,
                "control denied"
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
        let mut given = headers.get_all(header::AUTHORIZATION).iter();
        // A token that is present must be correct, wherever the request comes from.
        if let Some(first) = given.next() {
            let is_right = given.next().is_none() && self.is_token(first);
            return if is_right { Ok(()) } else { Err(Denied::WrongToken) };
        }
        let is_local = match peer {
            Some(Peer::Tcp(address)) => address.ip().to_canonical().is_loopback(),
            Some(Peer::Unix) => true,
            None => false,
        };
        match (self.allow, is_local) {
            (Allow::Auto, true) => without_token(uri, headers),
            _ if self.token.is_some() => Err(Denied::NeedsToken),
            _ => Err(Denied::FromElsewhere),
        }
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

/// Whether a request from this host was sent by a program on this host, not on behalf of someone else.
fn without_token(uri: &Uri, headers: &HeaderMap) -> Result<(), Denied> {
    if FORWARDED.iter().any(|name| headers.contains_key(*name)) {
        return Err(Denied::Proxied);
    }
    let mut hosts = headers.get_all(header::HOST).iter().map(text);
    let host = hosts.next();
    // A name that anyone could point at this host proves nothing. HTTP/1.0 has no Host, but no browser speaks it.
    let is_ours = host.is_none_or(names_this_host) && uri.authority().is_none_or(|host| names_this_host(host.as_str()));
    let from_itself = |origin: &HeaderValue| text(origin).split_once("://").map(|(_, origin)| origin) == host;
    let site_is_fine = |site: &HeaderValue| matches!(text(site), "same-origin" | "none");
    let is_fine = hosts.next().is_none()
        && is_ours
        && headers.get_all(header::ORIGIN).iter().all(from_itself)
        && headers.get_all(FETCH_SITE).iter().all(site_is_fine);
    if is_fine { Ok(()) } else { Err(Denied::Page) }
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
            Self::Never | Self::FromElsewhere | Self::Page | Self::Proxied => StatusCode::FORBIDDEN,
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

impl std::fmt::Display for Denied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Never => "`admin.allow_control` is `never`: nothing can be changed here",
            Self::WrongToken => "this is not the token of `admin.token_file`",
            Self::NeedsToken => "the token of `admin.token_file` is needed: `Authorization: Bearer TOKEN`",
            Self::FromElsewhere => {
                "changes are taken from this host only; from elsewhere they need a token, as `admin.token_file` names one"
            }
            Self::Page => {
                "this may come from a web page (`Host` is neither an address nor `localhost`, or `Origin` or \
                 `Sec-Fetch-Site` is of another site): it needs the token of `admin.token_file`"
            }
            Self::Proxied => {
                "this came through a proxy, as its headers say: it needs the token of `admin.token_file`"
            }
        })
    }
}

impl std::error::Error for Denied {}

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
    fn who_may_is_a_table() {
        let (plain, auto) = (headers(&[("host", "127.0.0.1:9901")]), access(Allow::Auto, None));
        let (right, wrong) =
            (headers(&[("authorization", "bEarer  abc")]), headers(&[("authorization", "Bearer abd")]));
        let with_token = access(Allow::Auto, Some("abc"));
        let mapped = Some(Peer::Tcp("[::ffff:127.0.0.2]:4".parse().unwrap()));
        let uri = Uri::from_static("/");
        for (access, peer, headers, expected) in [
            (&auto, HERE, &plain, Ok(())),
            (&auto, mapped, &plain, Ok(())),
            (&auto, Some(Peer::Unix), &plain, Ok(())),
            (&auto, elsewhere(), &plain, Err(Denied::FromElsewhere)),
            (&auto, None, &plain, Err(Denied::FromElsewhere)),
            (&auto, HERE, &right, Err(Denied::WrongToken)),
            (&with_token, HERE, &plain, Ok(())),
            (&with_token, HERE, &wrong, Err(Denied::WrongToken)),
            (&with_token, elsewhere(), &plain, Err(Denied::NeedsToken)),
            (&with_token, elsewhere(), &wrong, Err(Denied::WrongToken)),
            (&with_token, elsewhere(), &right, Ok(())),
            (&access(Allow::Token, Some("abc")), HERE, &plain, Err(Denied::NeedsToken)),
            (&access(Allow::Token, Some("abc")), HERE, &right, Ok(())),
            (&access(Allow::Never, Some("abc")), HERE, &right, Err(Denied::Never)),
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
        let host = ("host", "127.0.0.1:9901");
        for fine in [
            &[][..],
            &[("host", "localhost")],
            &[("host", "[::1]:9901")],
            &[host, ("origin", "http://127.0.0.1:9901"), ("sec-fetch-site", "same-origin")],
        ] {
            assert_eq!(auto.decide(HERE, &Uri::from_static("/"), &headers(fine)), Ok(()), "{fine:?}");
        }
        for page in [
            &[("host", "rebound.example:9901")][..],
            &[("host", "rebound.example:9901"), ("origin", "http://rebound.example:9901")],
            &[("host", "127.0.0.1.rebound.example")],
            &[("host", "localhost:x")],
            &[("host", "[::1]x")],
            &[("host", "")],
            &[host, host],
            &[host, ("origin", "http://evil.example")],
            &[host, ("origin", "http://127.0.0.1:3000")],
            &[host, ("origin", "null")],
            &[host, ("sec-fetch-site", "cross-site")],
            &[host, ("sec-fetch-site", "same-site")],
        ] {
            assert_eq!(auto.decide(HERE, &Uri::from_static("/"), &headers(page)), Err(Denied::Page), "{page:?}");
        }
        let absolute = Uri::from_static("http://rebound.example/api/v1/reload");
        assert_eq!(auto.decide(HERE, &absolute, &headers(&[host])), Err(Denied::Page));
        for name in FORWARDED {
            let headers = headers(&[host, (name, "198.51.100.1")]);
            assert_eq!(auto.decide(HERE, &Uri::from_static("/"), &headers), Err(Denied::Proxied), "{name}");
        }
    }
}
