//! Keeps the last answer for each part of a name, and derives the addresses to connect to.
//!
//! In:  look-up results. A part is one family of one host: it can fail on its own, and then keeps its last answer.
//! Out: [`ResolvedAddress`], each address once, sorted, bounded; and the addresses that are rejected.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::lookup::{Host, LookupResult, Part};
use super::nameservers::{AnsweredBy, Kind};
use super::{Failure, ResolvedAddress};
use crate::settings::{Family, Resolve};

/// The last good answers.
#[derive(Default)]
pub(super) struct KnownAnswers {
    kept: Vec<Kept>,
}

struct Kept {
    host: Host,
    kind: Kind,
    addresses: Vec<IpAddr>,
    good_at: Instant,
    /// The last look-up of this part failed.
    failing: bool,
    by: AnsweredBy,
}

/// Why an address is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) address: SocketAddr,
    pub(super) why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Unspecified, multicast, broadcast, or an IPv6 link-local address, which is useless without its zone.
    NotUnicast,
    /// An IPv4 address in an AAAA record where only IPv6 is wanted.
    OtherFamily,
    OwnListener,
    /// Loopback, link-local, or where a cloud serves the credentials of its machines: a nameserver must not be able to
    /// route clients there.
    Reserved,
    TooMany,
}

impl KnownAnswers {
    /// Treats `found` as an answer that arrived `now`.
    pub(super) fn of(found: &[ResolvedAddress], now: Instant) -> Self {
        let kept = |found: &ResolvedAddress| {
            let ResolvedAddress { address, weight, backup } = *found;
            let host = Host { name: Arc::default(), port: address.port(), weight, backup };
            let kind = if address.is_ipv4() { Kind::A } else { Kind::Aaaa };
            Kept { host, kind, addresses: vec![address.ip()], good_at: now, failing: false, by: AnsweredBy::HostsFile }
        };
        Self { kept: found.iter().map(kept).collect() }
    }

    /// Records a look-up that ended `now`.
    pub(super) fn learn(&mut self, looked: &Result<LookupResult, Failure>, now: Instant) {
        match looked {
            Ok(LookupResult { parts, .. }) => {
                self.kept = parts.iter().filter_map(|part| self.renewed(part, parts, now)).collect()
            }
            Err(_) => self.kept.iter_mut().for_each(|kept| kept.failing = true),
        }
    }

    fn renewed(&self, part: &Part, all: &[Part], now: Instant) -> Option<Kept> {
        let Part { host, kind, addresses, by } = part;
        let kept = |addresses, good_at, failing, by| {
            Some(Kept { host: host.clone(), kind: *kind, addresses, good_at, failing, by })
        };
        let failure = match addresses {
            Ok(addresses) => return kept(addresses.clone(), now, false, *by),
            Err(failure) => failure,
        };
        // If a host has addresses of one family, a negative answer for the other family is definite.
        let of_host = |other: &&Part| other.host.is(host) && other.addresses.is_ok();
        if failure.is_final() && all.iter().any(|other| of_host(&other)) {
            return None;
        }
        let before = self.kept.iter().find(|kept| kept.host.is(host) && kept.kind == *kind)?;
        kept(before.addresses.clone(), before.good_at, true, before.by)
    }

    /// Drops failing parts older than `stale`.
    pub(super) fn forget(&mut self, now: Instant, stale: Duration) {
        self.kept.retain(|kept| !kept.failing || now < kept.good_at + stale);
    }

    /// When [`Self::forget`] next has something to drop.
    pub(super) fn forgets_at(&self, stale: Duration) -> Option<Instant> {
        self.kept.iter().filter(|kept| kept.failing).map(|kept| kept.good_at + stale).min()
    }

    /// How many addresses are kept.
    pub(super) fn len(&self) -> usize {
        self.kept.iter().map(|kept| kept.addresses.len()).sum()
    }

    /// The addresses to connect to, and those that are rejected.
    pub(super) fn found(
        &self,
        settings: &Resolve,
        is_ours: impl Fn(SocketAddr) -> bool,
    ) -> (Vec<ResolvedAddress>, Vec<Refused>) {
        let mut refused = Vec::new();
        let mut found: Vec<ResolvedAddress> = Vec::new();
        for Kept { host, addresses, by, .. } in &self.kept {
            for address in addresses {
                // An IPv4-mapped IPv6 address is the same listener, and the same backend.
                let address = SocketAddr::new(address.to_canonical(), host.port);
                match check(address, *by, settings, &is_ours) {
                    Some(why) => refused.push(Refused { address, why }),
                    None => found.push(ResolvedAddress { address, weight: host.weight, backup: host.backup }),
                }
            }
        }
        // Of duplicate addresses the better entry is kept: primary before backup, then the greater weight.
        found.sort_by_key(|found| (found.address, found.backup, std::cmp::Reverse(found.weight)));
        found.dedup_by_key(|found| found.address);
        found.sort_by_key(|found| (found.backup, found.address));
        if found.len() > MOST_ADDRESSES {
            refused.extend(
                found.drain(MOST_ADDRESSES..).map(|found| Refused { address: found.address, why: Why::TooMany }),
            );
        }
        scale(&mut found);
        refused.sort_by_key(|refused| refused.address);
        refused.dedup();
        (found, refused)
    }
}

fn check(address: SocketAddr, by: AnsweredBy, settings: &Resolve, is_ours: impl Fn(SocketAddr) -> bool) -> Option<Why> {
    let wanted = match settings.family {
        Family::Any => true,
        Family::V4 => address.is_ipv4(),
        Family::V6 => address.is_ipv6(),
    };
    let is_unicast = match address.ip() {
        IpAddr::V4(ip) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast(),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_unicast_link_local(),
    };
    let allowed = |ip: IpAddr| settings.allow.iter().any(|network| network.contains(&ip));
    match () {
        () if !is_unicast => Some(Why::NotUnicast),
        () if !wanted => Some(Why::OtherFamily),
        () if is_ours(address) => Some(Why::OwnListener),
        () if by == AnsweredBy::Nameserver && is_reserved(address.ip()) && !allowed(address.ip()) => {
            Some(Why::Reserved)
        }
        () => None,
    }
}

/// Loopback, link-local (RFC 3927, where most clouds serve metadata), and the other metadata addresses of clouds.
fn is_reserved(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local() || ip == ALIBABA_METADATA,
        IpAddr::V6(ip) => ip.is_loopback() || ip == AWS_METADATA || ip == GOOGLE_METADATA,
    }
}

/// SRV weights go up to 65535, a pool's to 1000: if one exceeds that, all are scaled down proportionally.
fn scale(found: &mut [ResolvedAddress]) {
    let greatest = found.iter().filter_map(|found| found.weight).max().unwrap_or(0);
    for weight in found.iter_mut().filter_map(|found| found.weight.as_mut()) {
        if greatest > MOST_WEIGHT {
            *weight =
                u32::try_from(u64::from(*weight) * u64::from(MOST_WEIGHT) / u64::from(greatest)).unwrap_or(MOST_WEIGHT);
        }
        *weight = (*weight).max(1);
    }
}

impl Why {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::NotUnicast => "not the address of a single host",
            Self::OtherFamily => "not of the family that `resolve.family` selects",
            Self::OwnListener => "one of our own listeners",
            Self::Reserved => "a loopback, link-local or metadata address; if it is right, add it to `resolve.allow`",
            Self::TooMany => "a name may have 256 addresses",
        }
    }
}

const ALIBABA_METADATA: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);
const AWS_METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
const GOOGLE_METADATA: Ipv6Addr = Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254);
const MOST_ADDRESSES: usize = 256;
const MOST_WEIGHT: u32 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> Host {
        Host { name: name.into(), port: 443, weight: None, backup: false }
    }

    fn part(name: &str, kind: Kind, addresses: Result<&[&str], Failure>) -> Part {
        let parse = |addresses: &[&str]| addresses.iter().map(|address| address.parse().unwrap()).collect();
        Part { host: host(name), kind, addresses: addresses.map(parse), by: AnsweredBy::Nameserver }
    }

    fn settings(family: Family, allow: &[&str]) -> Resolve {
        let allow = allow.iter().map(|network| crate::settings::Text(network.parse().unwrap())).collect();
        Resolve { family, allow, ..Resolve::default() }
    }

    fn looked(parts: Vec<Part>) -> Result<LookupResult, Failure> {
        Ok(LookupResult { parts, ttl: Duration::ZERO })
    }

    fn addresses(memory: &KnownAnswers) -> Vec<String> {
        let (found, _) = memory.found(&settings(Family::Any, &[]), |_| false);
        found.iter().map(|found| found.address.ip().to_string()).collect()
    }

    const STALE: Duration = Duration::from_secs(60);

    #[test]
    fn addresses_are_sorted_and_stand_once() {
        let mut memory = KnownAnswers::default();
        let now = Instant::now();
        let v4 = part("a", Kind::A, Ok(&["10.0.0.2", "10.0.0.1", "10.0.0.2"]));
        let v6 = part("a", Kind::Aaaa, Ok(&["fd00::1", "::ffff:10.0.0.1"]));
        memory.learn(&looked(vec![v6, v4]), now);
        assert_eq!(addresses(&memory), ["10.0.0.1", "10.0.0.2", "fd00::1"]);
    }

    #[test]
    fn every_failure_keeps_the_last_answer_until_it_is_stale() {
        let now = Instant::now();
        for failure in [Failure::NoSuchName, Failure::NoData, Failure::TimedOut] {
            let mut memory = KnownAnswers::default();
            memory.learn(&looked(vec![part("a", Kind::A, Ok(&["10.0.0.1"]))]), now);
            assert_eq!(memory.forgets_at(STALE), None, "what is in order is not forgotten");
            memory.learn(&Err(failure), now + STALE / 2);
            memory.forget(now + STALE / 2, STALE);
            assert_eq!(addresses(&memory), ["10.0.0.1"]);
            assert_eq!(memory.forgets_at(STALE), Some(now + STALE));
            memory.forget(now + STALE, STALE);
            assert!(addresses(&memory).is_empty());
            assert_eq!(memory.forgets_at(STALE), None);
        }
    }

    #[test]
    fn a_family_that_fails_keeps_its_answer_beside_the_other() {
        let mut memory = KnownAnswers::default();
        let now = Instant::now();
        let both = vec![part("a", Kind::A, Ok(&["10.0.0.1"])), part("a", Kind::Aaaa, Ok(&["fd00::1"]))];
        memory.learn(&looked(both), now);
        let later = now + STALE / 2;
        let one = vec![part("a", Kind::A, Ok(&["10.0.0.2"])), part("a", Kind::Aaaa, Err(Failure::TimedOut))];
        memory.learn(&looked(one), later);
        assert_eq!(addresses(&memory), ["10.0.0.2", "fd00::1"]);
        memory.forget(now + STALE, STALE);
        assert_eq!(addresses(&memory), ["10.0.0.2"]);
    }

    #[test]
    fn a_family_without_records_is_gone_at_once_if_the_other_has_some() {
        let mut memory = KnownAnswers::default();
        let now = Instant::now();
        let both = vec![part("a", Kind::A, Ok(&["10.0.0.1"])), part("a", Kind::Aaaa, Ok(&["fd00::1"]))];
        memory.learn(&looked(both), now);
        let one = vec![part("a", Kind::A, Err(Failure::NoData)), part("a", Kind::Aaaa, Ok(&["fd00::1"]))];
        memory.learn(&looked(one), now);
        assert_eq!(addresses(&memory), ["fd00::1"]);
    }

    #[test]
    fn a_target_that_fails_keeps_its_answer_and_one_that_left_does_not() {
        let mut memory = KnownAnswers::default();
        let now = Instant::now();
        let three = ["a", "b", "c"].map(|name| {
            part(name, Kind::A, Ok(&[["10.0.0.1", "10.0.0.2", "10.0.0.3"][usize::from(name.as_bytes()[0] - b'a')]]))
        });
        memory.learn(&looked(three.into()), now);
        let two = vec![part("a", Kind::A, Ok(&["10.0.0.9"])), part("b", Kind::A, Err(Failure::NoSuchName))];
        memory.learn(&looked(two), now);
        assert_eq!(addresses(&memory), ["10.0.0.2", "10.0.0.9"]);
    }

    #[test]
    fn what_no_host_has_and_what_is_ours_is_refused() {
        let mut memory = KnownAnswers::default();
        let odd = ["0.0.0.0", "224.0.0.1", "255.255.255.255", "127.0.0.1", "169.254.169.254", "10.0.0.1"];
        let odder = ["::", "ff02::1", "fe80::1", "::ffff:127.0.0.1", "::1"];
        let parts = vec![part("a", Kind::A, Ok(&odd)), part("a", Kind::Aaaa, Ok(&odder))];
        memory.learn(&looked(parts), Instant::now());
        let ours: SocketAddr = "127.0.0.1:443".parse().unwrap();
        let every = settings(Family::Any, &["0.0.0.0/0", "::/0"]);
        let (found, refused) = memory.found(&every, |address| address == ours);
        let found: Vec<_> = found.iter().map(|found| found.address.ip().to_string()).collect();
        assert_eq!(found, ["10.0.0.1", "169.254.169.254", "::1"]);
        assert_eq!(refused.iter().filter(|refused| refused.why == Why::NotUnicast).count(), 6);
        assert_eq!(refused.iter().filter(|refused| refused.why == Why::OwnListener).count(), 1);
        let (_, refused) = memory.found(&settings(Family::V6, &[]), |_| false);
        assert!(refused.iter().any(|refused| refused.why == Why::OtherFamily));
    }

    #[test]
    fn a_nameserver_leads_to_reserved_addresses_only_if_they_are_allowed_and_the_hosts_file_anywhere() {
        let v4 = ["127.0.0.1", "127.9.9.9", "169.254.169.254", "169.254.0.1", "100.100.100.200"];
        let v6 = ["::1", "fd00:ec2::254", "fd20:ce::254", "::ffff:127.0.0.1", "::ffff:169.254.169.254"];
        let usual = ["10.0.0.1", "100.100.100.201", "192.168.0.1", "2001:db8::1", "fd00:ec2::253"];
        let found = |by, allow: &[&str]| {
            let part = |kind, addresses: &[&str]| Part { by, ..part("a", kind, Ok(addresses)) };
            let (v4, v6) = ([&v4[..], &usual[..3]].concat(), [&v6[..], &usual[3..]].concat());
            let mut memory = KnownAnswers::default();
            memory.learn(&looked(vec![part(Kind::A, &v4), part(Kind::Aaaa, &v6)]), Instant::now());
            let (found, refused) = memory.found(&settings(Family::Any, allow), |_| false);
            assert!(refused.iter().all(|refused| refused.why == Why::Reserved));
            found.iter().map(|found| found.address.ip().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(found(AnsweredBy::Nameserver, &[]), usual);
        assert_eq!(found(AnsweredBy::Nameserver, &["127.0.0.0/8", "::/0"]).len(), usual.len() + 5);
        assert_eq!(found(AnsweredBy::Nameserver, &["169.254.169.254/32"]).len(), usual.len() + 1);
        assert_eq!(found(AnsweredBy::HostsFile, &[]).len(), usual.len() + 8);
    }

    #[test]
    fn a_name_has_a_bounded_number_of_addresses_and_backups_go_first() {
        let mut memory = KnownAnswers::default();
        let many = |third: u8| (0..=199).map(|last| IpAddr::from([10, 0, third, last])).collect();
        let parts = [(1, true), (2, false)].map(|(third, backup)| Part {
            host: Host { backup, port: third.into(), ..host("a") },
            kind: Kind::A,
            addresses: Ok(many(third)),
            by: AnsweredBy::Nameserver,
        });
        memory.learn(&looked(parts.into()), Instant::now());
        let (found, refused) = memory.found(&settings(Family::Any, &[]), |_| false);
        assert_eq!(found.len(), MOST_ADDRESSES);
        assert_eq!(found.iter().filter(|found| found.backup).count(), MOST_ADDRESSES - 200);
        assert!(refused.iter().all(|refused| refused.why == Why::TooMany && refused.address.port() == 1));
        assert_eq!(refused.len(), 400 - MOST_ADDRESSES);
    }

    #[test]
    fn weights_keep_their_ratio_within_a_pools_bounds() {
        let found =
            |weight| ResolvedAddress { address: "10.0.0.1:1".parse().unwrap(), weight: Some(weight), backup: false };
        let mut weights = [65_535, 32_768, 0, 10].map(found);
        scale(&mut weights);
        assert_eq!(weights.map(|found| found.weight), [1000, 500, 1, 1].map(Some));
        let mut weights = [100, 0, 33].map(found);
        scale(&mut weights);
        assert_eq!(weights.map(|found| found.weight), [100, 1, 33].map(Some));
    }
}
