fn main() -> std::process::ExitCode {
    hydrometer_cli::main()
}
