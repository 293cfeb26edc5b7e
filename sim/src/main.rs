//! The program `ashlar-sim`: see `ashlar-sim --help`.

fn main() -> std::process::ExitCode {
    ashlar_sim::program::main()
}
