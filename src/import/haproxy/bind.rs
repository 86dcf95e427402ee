//! Reads the `bind` lines of HAProxy.
//!
//! In:  `bind :443,[::]:8443-8445 accept-proxy`.
//! Out: addresses for `listeners[].bind`, and keys of the listener.
//! Source: HAProxy's configuration manual, 4.2 (bind), 5.1 (bind options).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::super::finding::Findings;
use super::super::model::{Key, Listener, set};
use super::keywords::{BIND, Fate};
use super::sections::Line;

/// Adds the addresses of a line. Whether clients are decrypted there: then the line is left out.
pub(super) fn add(line: &Line, listener: &mut Listener, findings: &mut Findings) {
    if line.words.iter().any(|word| word == "ssl") {
        let why = "it decrypts TLS, and snigate does not; move the certificate to the backends, and pass TLS through";
        findings.left_out(&line.origin, &line.text(), why);
        return;
    }
    for address in line.word(1).split(',') {
        match addresses(address) {
            Ok(found) => found.into_iter().for_each(|address| push(listener, address, line)),
            Err(why) => findings.left_out(&line.origin, address, why),
        }
    }
    let mut words = line.words.iter().skip(2);
    while let Some(word) = words.next() {
        match word.as_str() {
            "accept-proxy" => {
                set(&mut listener.keys, Key::new("proxy_protocol.trusted", "[0.0.0.0/0, \"::/0\"]", &line.origin));
                let message = "HAProxy accepts PROXY headers from everyone here; limit `proxy_protocol.trusted` to the \
                               networks of your proxies";
                findings.note(&line.origin, message);
            }
            "transparent" => set(&mut listener.keys, Key::new("freebind", true, &line.origin)),
            "maxconn" => {
                let value = words.next().map_or("", String::as_str);
                maxconn(&mut listener.keys, value, line, findings);
            }
            other => option(other, &mut words, line, findings),
        }
    }
}

/// `maxconn` of a `bind` or a frontend; 0 means no limit.
pub(super) fn maxconn(keys: &mut Vec<Key>, value: &str, line: &Line, findings: &mut Findings) {
    match value.parse::<u32>() {
        Ok(0) => {}
        Ok(most) => set(keys, Key::new("max_connections", most, &line.origin)),
        Err(_) => findings.left_out(&line.origin, &line.text(), format_args!("`{value}` is not a number")),
    }
}

fn option<'w>(word: &str, words: &mut impl Iterator<Item = &'w String>, line: &Line, findings: &mut Findings) {
    match BIND.iter().find(|(name, ..)| *name == word) {
        Some((_, arguments, fate)) => {
            let values: Vec<&str> = words.take(*arguments).map(String::as_str).collect();
            if let Fate::LeftOut(why) = fate {
                findings.left_out(&line.origin, &[&[word], &values[..]].concat().join(" "), why);
            }
        }
        None => findings.left_out(&line.origin, word, "snigate has nothing like this option of `bind`"),
    }
}

/// `[::]` takes IPv4 as well, so `0.0.0.0` at the same port would be in its way.
fn push(listener: &mut Listener, address: SocketAddr, line: &Line) {
    let text = |ip: IpAddr| SocketAddr::new(ip, address.port()).to_string();
    let (v4, v6) = (text(Ipv4Addr::UNSPECIFIED.into()), text(Ipv6Addr::UNSPECIFIED.into()));
    let both = |bound: &str| bound == v4 || bound == v6;
    if address.ip().is_unspecified() && listener.bind.iter().any(|(bound, _)| both(bound)) {
        listener.bind.iter_mut().filter(|(bound, _)| both(bound)).for_each(|(bound, _)| bound.clone_from(&v6));
        return;
    }
    listener.bind.push((address.to_string(), line.origin.clone()));
}

/// `ADDRESS:PORT`, `ADDRESS:FROM-TO`; without an address, all of IPv4.
fn addresses(text: &str) -> Result<Vec<SocketAddr>, String> {
    if text.starts_with('/')
        || ["unix@", "abns@", "fd@", "sockpair@", "uxst@", "rev@"].iter().any(|p| text.starts_with(p))
    {
        return Err("clients can connect only by TCP; sockets from systemd are used automatically".to_owned());
    }
    if text.starts_with("quic") || text.starts_with("udp") {
        return Err("snigate does not serve UDP".to_owned());
    }
    let (text, v6) = match text.split_once('@') {
        Some(("ipv4" | "tcp" | "tcp4", rest)) => (rest, false),
        Some(("ipv6" | "tcp6", rest)) => (rest, true),
        Some((family, _)) => return Err(format!("the address family `{family}` is not supported")),
        None => (text, false),
    };
    let (host, ports) = text.rsplit_once(':').ok_or("a port is missing")?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let ip: IpAddr = match host {
        "" | "*" if v6 => Ipv6Addr::UNSPECIFIED.into(),
        "" | "*" => Ipv4Addr::UNSPECIFIED.into(),
        // `:::443`
        "::" => Ipv6Addr::UNSPECIFIED.into(),
        host => host.parse().map_err(|_| "this is not an IP address; write one")?,
    };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or(format!("`{text}` is not a port"));
    let range = port(first)?..=port(last)?;
    if range.len() > MOST_PORTS {
        return Err(format!("the range has more than {MOST_PORTS} ports; list the ports that you need"));
    }
    Ok(range.map(|port| SocketAddr::new(ip, port)).collect())
}

const MOST_PORTS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, String> {
        let found = addresses(text)?.iter().map(SocketAddr::to_string).collect::<Vec<_>>();
        Ok(found.join(" "))
    }

    #[test]
    fn addresses_and_ranges_are_read() {
        for (text, addresses) in [
            (":443", "0.0.0.0:443"),
            ("*:443", "0.0.0.0:443"),
            (":::443", "[::]:443"),
            ("[::]:443", "[::]:443"),
            ("ipv6@:443", "[::]:443"),
            ("10.0.0.1:8443-8445", "10.0.0.1:8443 10.0.0.1:8444 10.0.0.1:8445"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(addresses), "{text}");
        }
        for text in ["/run/s", "fd@3", "443", "a.test:443", ":x", ":1-65535", ":9-1", "quic4@:443"] {
            assert!(read(text).is_ok_and(|found| found.is_empty()) || read(text).is_err(), "{text}");
        }
    }
}
