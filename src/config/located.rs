//! Values of the raw structs with their places, and error recovery that serde does not have.
//!
//! In:  a [`Node`]; a type that derives `Deserialize`, whose values are all [`Located`].
//! Out: the type. Values of the wrong type and unknown keys are reported and left out; the rest is still read.
//!
//! serde stops at the first error. Here it stops only at the nearest [`Located`], which reports the error, sets its
//! value to `None`, and lets the surrounding structs continue.

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::at::{At, Spot};
use super::deserializer::{LOCATED, NodeDeserializer};
use super::problem::Problems;
use super::yaml::Node;

/// A value of the file and its place.
#[derive(Clone, Debug)]
pub(super) struct Located<T> {
    pub spot: Spot,
    /// `None`: it was of the wrong type, which has been reported.
    pub value: Option<T>,
}

/// The entries of a map whose keys are user-defined names, in the order of the file.
#[derive(Debug)]
pub(super) struct Named<T>(pub Vec<(Located<String>, Located<T>)>);

/// Deserializes `node` as a `T`; `None` if that is not possible at all.
pub(super) fn read<'t, T: Deserialize<'t>>(node: Node<'t>, at: &At<'_>, problems: &mut Problems) -> Option<T> {
    let sink = RefCell::new(std::mem::take(problems));
    let located = Located::deserialize(NodeDeserializer { at: at.moved(node.spot), node, sink: &sink });
    *problems = sink.into_inner();
    // `Located` never returns an error: it has reported it.
    located.ok().and_then(|located| located.value)
}

impl<'t, T: Deserialize<'t>> Deserialize<'t> for Located<T> {
    fn deserialize<D: Deserializer<'t>>(deserializer: D) -> Result<Self, D::Error> {
        struct Parts<T>(PhantomData<T>);

        impl<'t, T: Deserialize<'t>> Visitor<'t> for Parts<T> {
            type Value = Located<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value and its place")
            }

            fn visit_seq<A: SeqAccess<'t>>(self, mut parts: A) -> Result<Located<T>, A::Error> {
                let line = parts.next_element()?.unwrap_or_default();
                let column = parts.next_element()?.unwrap_or_default();
                Ok(Located { spot: Spot { line, column }, value: parts.next_element()? })
            }
        }

        deserializer.deserialize_tuple_struct(LOCATED, 3, Parts(PhantomData))
    }
}

impl<'t, T: Deserialize<'t>> Deserialize<'t> for Named<T> {
    fn deserialize<D: Deserializer<'t>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);

        impl<'t, T: Deserialize<'t>> Visitor<'t> for Entries<T> {
            type Value = Named<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of names")
            }

            fn visit_map<A: MapAccess<'t>>(self, mut map: A) -> Result<Named<T>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Named(entries))
            }
        }

        deserializer.deserialize_map(Entries(PhantomData))
    }
}
