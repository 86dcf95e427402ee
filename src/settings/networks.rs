//! Lists of networks, and which clients they let in.
//!
//! In:  `10.0.0.0/8`, `2001:db8::1`, or `@FILE` for a file with one network a line.
//! Out: [`NetworkList`], which `config` fills with what the files hold; [`Access`].

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::address::network;
use super::text::{Word, serde_as_word};
use crate::networks::Networks;

/// An entry of a list of networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkEntry {
    /// A network, or a single address.
    Network(IpNet),
    /// `@FILE`. Relative to the file that names it; once the list is loaded, to the main file.
    File(PathBuf),
}

impl Word for NetworkEntry {
    const EXPECTED: &'static str = "a network or `@FILE`";
    const SCHEMA: &'static str = r#"{ "type": "string", "description": "A network such as `10.0.0.0/8`, one address, or `@FILE`: a file with one network a line, relative to this file." }"#;

    fn read(text: &str) -> Result<Self, String> {
        match text.strip_prefix('@') {
            Some("") => Err("the name of a file is missing; write it as `@lists/partners.txt`".to_owned()),
            Some(file) if file.contains('\0') => Err("the name of the file contains a NUL byte".to_owned()),
            Some(file) => Ok(Self::File(file.into())),
            None if !text.starts_with(|c: char| c.is_ascii_hexdigit() || c == ':') || text.ends_with(".txt") => {
                let text = text.escape_debug();
                Err(format!("`{text}` is not a valid network; write `10.0.0.0/8`, or `@FILE` for a file of networks"))
            }
            None => network(text).map(Self::Network).map_err(|error| error.to_string()),
        }
    }
}

impl fmt::Display for NetworkEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) => network.fmt(f),
            Self::File(file) => write!(f, "@{}", file.display()),
        }
    }
}

serde_as_word!(NetworkEntry as "NetworkEntry");

/// Networks, some of them in files.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct NetworkList {
    /// As the routing file has them.
    pub entries: Vec<NetworkEntry>,
    /// The place of each entry, `file:line:column`.
    #[serde(skip)]
    pub places: Vec<Arc<str>>,
    /// What the entries hold: those that are networks, then one set for each file. A file that several lists name is
    /// one set.
    #[serde(skip)]
    pub sets: Vec<Arc<Networks>>,
}

impl NetworkList {
    /// Whether `address`, which is canonical, is in one of the networks.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.sets.iter().any(|set| set.contains(address))
    }

    /// Whether the list has no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Where an entry stands does not make a difference.
impl PartialEq for NetworkList {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries && self.sets == other.sets
    }
}

/// Which clients may come in.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Access {
    /// `None`: everybody.
    pub allow: Option<NetworkList>,
    /// Takes precedence over `allow`.
    pub deny: NetworkList,
}

/// Why a client may not come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Its address is in `deny`.
    Listed,
    /// Its address is not in `allow`.
    Unlisted,
    /// The PROXY header has no address, so it may be anybody's.
    Unknown,
}

impl Access {
    /// `None` if everybody may come in.
    pub fn new(allow: Option<NetworkList>, deny: NetworkList) -> Option<Box<Self>> {
        (allow.is_some() || !deny.is_empty()).then(|| Box::new(Self { allow, deny }))
    }

    /// Decides about a client by its canonical address. `None`: unknown.
    ///
    /// # Errors
    /// Why it may not come in.
    pub fn decide(&self, client: Option<IpAddr>) -> Result<(), Denied> {
        let client = client.ok_or(Denied::Unknown)?;
        if self.deny.contains(client) {
            return Err(Denied::Listed);
        }
        match &self.allow {
            Some(allow) if !allow.contains(client) => Err(Denied::Unlisted),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Listed => "the client's address is in `deny`",
            Self::Unlisted => "the client's address is not in `allow`",
            Self::Unknown => "the PROXY header has no address to look for in `allow` and `deny`",
        })
    }
}

impl std::error::Error for Denied {}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(networks: &[&str]) -> NetworkList {
        let networks = networks.iter().map(|text| network(text).expect("a network"));
        let entries = networks.clone().map(NetworkEntry::Network).collect();
        NetworkList { entries, places: Vec::new(), sets: vec![Arc::new(networks.collect())] }
    }

    #[test]
    fn deny_takes_precedence_and_without_allow_everybody_may_come_in() {
        let access = |allow: Option<&[&str]>, deny: &[&str]| Access::new(allow.map(list), list(deny));
        let decide = |access: &Option<Box<Access>>, address: &str| {
            access.as_ref().map_or(Ok(()), |access| access.decide(Some(address.parse().expect("an address"))))
        };
        let both = access(Some(&["10.0.0.0/8", "2001:db8::/32"]), &["10.1.0.0/16"]);
        assert_eq!(decide(&both, "10.0.0.1"), Ok(()));
        assert_eq!(decide(&both, "2001:db8::1"), Ok(()));
        assert_eq!(decide(&both, "10.1.0.1"), Err(Denied::Listed));
        assert_eq!(decide(&both, "192.0.2.1"), Err(Denied::Unlisted));
        let deny = access(None, &["::/0"]);
        assert_eq!((decide(&deny, "10.0.0.1"), decide(&deny, "::1")), (Ok(()), Err(Denied::Listed)));
        assert_eq!(deny.expect("a list").decide(None), Err(Denied::Unknown));
        assert_eq!(access(None, &[]), None);
    }

    #[test]
    fn an_entry_is_a_network_or_a_file() {
        let read = |text| <NetworkEntry as Word>::read(text);
        for text in ["10.0.0.0/8", "10.0.0.1/32", "::/0", "@lists/a b.txt", "@/etc/banned"] {
            assert_eq!(read(text).map(|entry| entry.to_string()).as_deref(), Ok(text));
        }
        for (text, reported) in [
            ("@", "`@lists/partners.txt`"),
            ("lists/banned.txt", "`@FILE`"),
            ("banned.txt", "`@FILE`"),
            ("10.0.0.1/8", "`10.0.0.0/8`"),
            ("10.0.0", "not a valid network"),
            ("", "not a valid network"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(reported), "{text}: {error}");
        }
    }
}
