//! Protocol `plain`: any command that takes a prompt on standard input. Its exit status is its verdict.

use super::{Dialect, Scratch, Sessions};
use crate::project::Protocol;

pub(super) const DIALECT: Dialect = Dialect {
    name: "",
    protocol: Protocol::Plain,
    ending: "out",
    sessions: Sessions::None,
    silent_on: "",
    costs: false,
    turns: false,
    skill_call: "",
    skills: &[],
    slash_commands: false,
    prompt_max: usize::MAX,
    env: &[],
    scratch: Scratch::None,
    args: |assignment, argv| argv.extend(assignment.own_args()),
    open: "",
    read: None,
    opens_with: "",
    results: &[],
    witness: None,
    fault: |_| None,
    login: |_| None,
    preflight: &[],
    keys: &[],
    install: "",
};
