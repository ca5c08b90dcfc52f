//! Protocol `plain`: any command that takes a prompt on standard input. Its exit status is its verdict.

use super::{Dialect, Sessions};
use crate::project::Protocol;

pub(super) const DIALECT: Dialect = Dialect {
    name: "",
    protocol: Protocol::Plain,
    ending: "out",
    sessions: Sessions::None,
    silent_on: "",
    costs: false,
    turns: false,
    skill_call: None,
    skills: &[],
    slash_commands: false,
    prompt_max: None,
    env: &[],
    scratch: None,
    args: |assignment, argv| argv.extend(assignment.own_args()),
    open: |_| Vec::new(),
    read: None,
    opens_with: "",
    results: &[],
    witness: None,
    fault: |_| None,
    login: |_| None,
};
