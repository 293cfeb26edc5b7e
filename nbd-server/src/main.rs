//! The program `ashlar`.

mod program;

fn main() -> std::process::ExitCode {
    program::run()
}
