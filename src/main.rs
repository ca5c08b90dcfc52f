//! The program: everything is in the library.

fn main() -> std::process::ExitCode {
    job_monitor::main()
}
