//! Holds README.md and docs/ to what they state: commands run, files are valid, links lead somewhere, the reference is
//! current.
//!
//! The first line of a code block decides what a test does with it:
//!
//! | the block begins with | and |
//! |---|---|
//! | `sh` | is run in a fresh copy of the tree, with the others of its page, and must succeed |
//! | `sh,live` | the same, beside a snigate that serves `LIVE` |
//! | `sh,serve` | is started, and runs until the next one or the end of the page |
//! | `sh,skip REASON` | is not run, for this reason |
//! | `console` | is run as well, and prints what is shown; a line `…` stands for any lines |
//! | `yaml`, `yaml NAME` | is a routing file that `snigate check` takes; with a name, the commands of the page find it |
//! | `yaml,PROGRAM` | is a file of another program |
//! | `haproxy`, `nginx` | is a file that this program takes |
//! | `sniproxy` | is a file of it, which `snigate import` takes as that of the other two |

#[path = "../harness/mod.rs"]
mod harness;
#[path = "../hostile/namespace.rs"]
#[expect(dead_code, reason = "what is here is always possible, so nothing asks")]
mod namespace;

mod blocks;
mod commands;
mod files;
mod imports;
mod links;
mod reference;
