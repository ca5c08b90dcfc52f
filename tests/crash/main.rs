//! The daemon broken in its work: killed before each of its system calls, with each of its system
//! calls failing, on a full disk, and cut off from the power. What SPEC 11.1 to 11.3 promise must
//! hold every time: no job lost, none begun twice, none reported done that was not, nothing left.
//!
//! `JOB_MONITOR_REQUIRE` (names with commas between) may have `strace`: then it is a failure, and
//! not a reason to skip, where processes cannot be traced.

mod change;
mod checked;
#[path = "../common/mod.rs"]
mod common;
mod faults;
mod full;
mod kill;
// What the end-to-end tests need of it and these do not.
#[allow(dead_code)]
#[path = "../common/machine.rs"]
mod machine;
mod power;
mod recovery;
// What the end-to-end tests need of their harness and these do not.
#[allow(dead_code)]
#[path = "../e2e/space.rs"]
mod space;
mod tracer;
mod world;
