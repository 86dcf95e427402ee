//! Enumerates clients, one for each way in which the conditions that apply to a name can match.
//!
//! In:  two snapshots and a name.
//! Out: [`Cases`]: all combinations of protocols, networks and listeners that can make a difference for this name.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::Serialize;

use super::Side;
use crate::client_hello::Alpn;
use crate::config::Conditions;
use crate::ids::{ListenerIndex, RouteIndex};
use crate::route::NameForm;
use crate::server_name::Sni;
use crate::snapshot::RouteQuery;

/// The values to combine; each list has at least one.
pub(super) struct Cases<'a> {
    pub alpn: Vec<Protocols<'a>>,
    pub source: Vec<Addresses>,
    pub listener: Vec<Listeners<'a>>,
    pub forms: Vec<NameForm>,
}

/// A client that offers exactly these protocols.
pub(super) struct Protocols<'a> {
    pub offered: Vec<&'a [u8]>,
    pub alpn: Alpn,
}

/// A set of addresses for which all conditions give the same result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    pub example: IpAddr,
    /// The smallest network that contains them. `None`: they are in no network.
    pub network: Option<IpNet>,
}

/// The same listener in the old and the new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listeners<'a> {
    pub old: ListenerIndex,
    pub new: ListenerIndex,
    /// `None`: any listener that no condition names.
    pub name: Option<&'a str>,
}

/// Which clients are affected. A field that is not set makes no difference.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct When {
    /// They offer exactly these of the protocols that the conditions name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpn: Option<Vec<String>>,
    /// Their address is in this network; `other`: in none that the conditions name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// They connect to this listener; `other`: to one that no condition names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// Their name is sent in the `clear`, or `encrypted`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'static str>,
}

impl<'a> Cases<'a> {
    /// Finds what can make a difference for `sni`.
    pub(super) fn of(old: &'a Side, new: &'a Side, sni: &Sni) -> Self {
        let (before, after) = (conditions_on_the_way(old, sni), conditions_on_the_way(new, sni));
        let all = || before.iter().chain(&after);
        let mut protocols: Vec<&[u8]> = all().flat_map(|conditions| &conditions.alpn).map(|alpn| &**alpn).collect();
        protocols.sort_unstable();
        protocols.dedup();
        let networks: Vec<IpNet> = all().flat_map(|conditions| conditions.source.iter().copied()).collect();
        let named = |side: &'a Side, conditions: &[&Conditions]| -> Vec<&'a str> {
            let numbers = conditions.iter().flat_map(|conditions| &conditions.listeners);
            numbers.map(|number| &*side.config.listeners[*number].name).collect()
        };
        let listeners = [named(old, &before), named(new, &after)].concat();
        let forms = match all().any(|conditions| conditions.ech.is_set()) {
            true => vec![NameForm::Clear, NameForm::Encrypted],
            false => vec![NameForm::Clear],
        };
        let listener = shared_listeners(old, new, &listeners);
        Self { alpn: subsets(&protocols), source: apart(&networks), listener, forms }
    }
}

/// The conditions of all entries that some client with this name can reach.
///
/// A client that meets none of them reaches them all. If the networks of a condition cover all addresses, its entry
/// always matches, and later entries are unreachable.
fn conditions_on_the_way<'a>(side: &'a Side, sni: &Sni) -> Vec<&'a Conditions> {
    let mut seen: Vec<RouteIndex> = Vec::new();
    [NameForm::Clear, NameForm::Encrypted].into_iter().for_each(|form| see_all(side, sni, form, &mut seen));
    seen.iter().map(|route| &side.config.routes[route.0 as usize].conditions).collect()
}

/// The same for clients that send the name in one of both ways.
fn see_all(side: &Side, sni: &Sni, form: NameForm, seen: &mut Vec<RouteIndex>) {
    let alpn = Alpn::default();
    let mut inside: Vec<IpNet> = Vec::new();
    while let Some(outside) = apart(&inside).into_iter().find(|addresses| addresses.network.is_none()) {
        let mut last = None;
        let asked = RouteQuery {
            sni: Some(sni),
            alpn: &alpn,
            source: Some(outside.example),
            listener: ListenerIndex(usize::MAX),
            form,
        };
        side.snapshot.choose_watched(asked, |candidate| {
            last = Some(candidate);
            if !seen.contains(&candidate.route) {
                seen.push(candidate.route);
            }
        });
        let Some(taker) = last.filter(|last| last.unmet.is_none()) else { break };
        let conditions = &side.config.routes[taker.route.0 as usize].conditions;
        if conditions.source.is_empty() {
            break;
        }
        inside.extend(&conditions.source);
    }
}

/// All subsets of a few protocols; of many, only the empty set, each alone, and all.
fn subsets<'a>(protocols: &[&'a [u8]]) -> Vec<Protocols<'a>> {
    let count = protocols.len();
    let sets: Vec<Vec<&[u8]>> = if count <= MOST_COMBINED {
        let in_set = |set: usize| (0..count).filter(move |bit| set >> bit & 1 == 1);
        (0..1 << count).map(|set| in_set(set).map(|bit| protocols[bit]).collect()).collect()
    } else {
        let alone = protocols.iter().map(|protocol| vec![*protocol]);
        std::iter::once(Vec::new()).chain(alone).chain([protocols.to_vec()]).collect()
    };
    sets.into_iter().map(|offered| Protocols { alpn: Alpn::of(&offered), offered }).collect()
}

/// One address for each set of addresses that `networks` distinguish; the one outside all networks comes last.
///
/// Of two overlapping networks one contains the other, so the smallest network around an address determines which
/// others contain it. Every set begins at a network's first address, just after a network's last one, or at the lowest
/// address.
fn apart(networks: &[IpNet]) -> Vec<Addresses> {
    if networks.is_empty() {
        return vec![Addresses { example: ANYWHERE[0], network: None }];
    }
    let first = networks.iter().map(IpNet::network);
    let after = networks.iter().filter_map(|network| match network.broadcast() {
        IpAddr::V4(last) => u32::from(last).checked_add(1).map(|next| IpAddr::V4(next.into())),
        IpAddr::V6(last) => u128::from(last).checked_add(1).map(|next| IpAddr::V6(next.into())),
    });
    let mut sets: Vec<Addresses> = Vec::new();
    let mut known: HashMap<Option<IpNet>, usize> = HashMap::new();
    for example in first.chain(after).chain(ANYWHERE) {
        let around = networks.iter().filter(|network| network.contains(&example));
        let network = around.max_by_key(|network| network.prefix_len()).map(IpNet::trunc);
        known.entry(network).or_insert_with(|| {
            sets.push(Addresses { example, network });
            sets.len() - 1
        });
    }
    sets.sort_by_key(|set| set.network.is_none());
    sets
}

/// The listeners that both files have: those that conditions name, and one that stands for all others.
fn shared_listeners<'a>(old: &'a Side, new: &'a Side, named: &[&str]) -> Vec<Listeners<'a>> {
    let mut shared = Vec::new();
    for (index, listener) in new.config.listeners.iter().enumerate() {
        let Some(before) = old.snapshot.find_listener(&listener.name) else { continue };
        let name = named.contains(&&*listener.name).then_some(&*listener.name);
        if name.is_some() || shared.iter().all(|other: &Listeners<'_>| other.name.is_some()) {
            shared.push(Listeners { old: before, new: ListenerIndex(index), name });
        }
    }
    if shared.is_empty() {
        // All were renamed; compare the first of both files.
        shared.push(Listeners { old: ListenerIndex(0), new: ListenerIndex(0), name: None });
    }
    shared
}

const MOST_COMBINED: usize = 4;
const ANYWHERE: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    IpAddr::V6(Ipv6Addr::UNSPECIFIED),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().expect("a network")).collect()
    }

    #[test]
    fn addresses_are_apart_where_a_network_holds_one_and_not_the_other() {
        let sets = |texts: &[&str]| -> Vec<String> {
            let sets = apart(&networks(texts));
            sets.iter().map(|set| set.network.map_or("other".to_owned(), |network| network.to_string())).collect()
        };
        assert_eq!(sets(&[]), ["other"]);
        assert_eq!(sets(&["10.0.0.0/8", "10.1.0.0/16"]), ["10.0.0.0/8", "10.1.0.0/16", "other"]);
        assert_eq!(sets(&["0.0.0.0/0", "::/0"]), ["0.0.0.0/0", "::/0"]);
        // Nothing is left of the outer network.
        assert_eq!(sets(&["10.0.0.0/8", "10.0.0.0/9", "10.128.0.0/9"]), ["10.0.0.0/9", "10.128.0.0/9", "other"]);
    }

    #[test]
    fn few_protocols_are_combined_and_many_are_not() {
        let counts = |count: u8| {
            let names: Vec<[u8; 1]> = (0..count).map(|byte| [b'a' + byte]).collect();
            subsets(&names.iter().map(|name| &name[..]).collect::<Vec<_>>()).len()
        };
        assert_eq!([0, 1, 2, 4, 5].map(counts), [1, 2, 4, 16, 7]);
    }
}
