//! Finds the entry of `allow` or `deny` that lets a client in or keeps it out.
//!
//! In:  the lists of a listener or a route, and the client's address.
//! Out: [`Decision`]. The lists in force keep no lines, so the files are read once more.

use std::net::IpAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::lists;
use crate::settings::{Access, Denied, NetworkEntry, NetworkList};

/// What the lists of a listener or of a route say about the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Decision {
    /// `listener NAME` or `route NAME`.
    pub of: String,
    /// `allow` or `deny`.
    pub list: String,
    /// Whether the client may come in.
    pub admitted: bool,
    /// The first entry that holds the address. `None`: the list has none, or its file has changed since.
    pub network: Option<String>,
    /// Where it stands: `file:line:column`.
    pub place: Option<String>,
}

/// What `access` decides about `client`. `main` is the main file.
pub(super) fn decide(access: &Access, of: String, client: IpAddr, main: &Path) -> Decision {
    let decided = access.decide(Some(client));
    let (list, entry) = match (decided, &access.allow) {
        (Ok(()), Some(allow)) => ("allow", entry(allow, client, main)),
        (Ok(()), None) => ("deny", None),
        (Err(Denied::Listed), _) => ("deny", entry(&access.deny, client, main)),
        (Err(Denied::Unlisted | Denied::Unknown), _) => ("allow", None),
    };
    let (network, place) = entry.unzip();
    Decision { of, list: list.to_owned(), admitted: decided.is_ok(), network, place }
}

fn entry(list: &NetworkList, client: IpAddr, main: &Path) -> Option<(String, String)> {
    list.entries.iter().zip(&list.places).find_map(|(entry, place)| match entry {
        NetworkEntry::Network(network) => network.contains(&client).then(|| (network.to_string(), place.to_string())),
        NetworkEntry::File(file) => {
            let (network, place) = lists::find(&lists::path(main, file), client)?;
            Some((network.to_string(), place.to_string()))
        }
    })
}
