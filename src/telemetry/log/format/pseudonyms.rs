//! Hides names and addresses behind hashes that show only which of them are the same.
//!
//! In:  what a client asked for, or where it comes from.
//! Out: `#` and 16 hexadecimal digits: the same for the same text from the start, or from midnight UTC, to the next
//!      midnight.
//! Source: RFC 2104 (HMAC), with SHA-256. Without the key, which never leaves the memory of the process and is replaced
//!         each day, the text cannot be found by trying all of them, as it could with a plain hash of an IPv4 address.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};

/// Hashes texts with a key of the day.
#[derive(Default)]
pub(super) struct Pseudonyms(Mutex<Option<(u64, hmac::Key)>>);

/// What is hashed. The same text in another role has another hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Name,
    Client,
}

/// A hash, as it is shown. `None`: there is no random key, so nothing is shown that could be guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pseudonym(Option<[u8; 8]>);

impl Pseudonyms {
    /// `now` decides which key is used.
    pub(super) fn of(&self, role: Role, text: impl AsRef<[u8]>, now: SystemTime) -> Pseudonym {
        let day = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / SECONDS_A_DAY;
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_none_or(|(of, _)| *of != day) {
            *current = new_key().map(|key| (day, key));
        }
        let Some((_, key)) = &*current else { return Pseudonym(None) };
        let mut context = hmac::Context::with_key(key);
        context.update(match role {
            Role::Name => b"name\0",
            Role::Client => b"client\0",
        });
        context.update(text.as_ref());
        Pseudonym(context.sign().as_ref().first_chunk().copied())
    }
}

fn new_key() -> Option<hmac::Key> {
    let mut secret = [0; 32];
    SystemRandom::new().fill(&mut secret).ok()?;
    Some(hmac::Key::new(hmac::HMAC_SHA256, &secret))
}

impl fmt::Display for Pseudonym {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(bytes) => write!(f, "#{:016x}", u64::from_be_bytes(bytes)),
            None => f.write_str("#"),
        }
    }
}

const SECONDS_A_DAY: u64 = 24 * 60 * 60;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_hash_is_the_same_for_a_day_and_for_one_role() {
        let (pseudonyms, midnight) = (Pseudonyms::default(), UNIX_EPOCH + Duration::from_secs(20_000 * SECONDS_A_DAY));
        let at =
            |role, text: &str, seconds| pseudonyms.of(role, text, midnight + Duration::from_secs(seconds)).to_string();
        let first = at(Role::Name, "a.test", 0);
        assert!(first.len() == 17 && first.starts_with('#') && !first.contains("test"), "{first}");
        assert_eq!(at(Role::Name, "a.test", SECONDS_A_DAY - 1), first);
        assert_ne!(at(Role::Name, "b.test", 5), first);
        assert_ne!(at(Role::Client, "a.test", 5), first);
        let next_day = at(Role::Name, "a.test", SECONDS_A_DAY);
        assert_ne!(next_day, first);
        assert_eq!(at(Role::Name, "a.test", SECONDS_A_DAY + 1), next_day);
        // The key of a day is gone for good.
        assert_ne!(at(Role::Name, "a.test", 0), first);
        assert_ne!(Pseudonyms::default().of(Role::Name, "a.test", midnight).to_string(), first, "of another process");
    }
}
