//! Holds values of the raw structs that know their place, and goes on where serde would stop.
//!
//! In:  a [`Node`]; a type that derives `Deserialize`, whose values are all [`Located`].
//! Out: the type; what is of the wrong type or unknown is told and left out, the rest is read on.
//!
//! serde stops at the first error. Here it stops only at the nearest [`Located`], which tells the error, takes `None` for
//! its value, and lets the structs around it go on.

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::at::{At, Spot};
use super::deserializer::{LOCATED, NodeDeserializer};
use super::problem::Problems;
use super::yaml::Node;

/// A value of the file and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Located<T> {
    pub spot: Spot,
    /// `None`: it was of the wrong type, and that has been told.
    pub value: Option<T>,
}

/// The entries of a map whose keys are names that the operator chose, in the order of the file.
#[derive(Debug)]
pub(super) struct Named<T>(pub Vec<(Located<String>, Located<T>)>);

/// Reads `node` as a `T`; `None` if it is none at all.
pub(super) fn read<'t, T: Deserialize<'t>>(node: Node<'t>, at: &At<'_>, problems: &mut Problems) -> Option<T> {
    let sink = RefCell::new(std::mem::take(problems));
    let located = Located::deserialize(NodeDeserializer { at: at.moved(node.spot), node, sink: &sink });
    *problems = sink.into_inner();
    // `Located` hands no error on: it has told it.
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
