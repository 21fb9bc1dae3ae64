use hydrometer_cli::{CliError, Connection, show};
#[path = "../src/verify.rs"]
mod verify;
use clap::Parser;
#[derive(Parser)]
struct Top { #[command(flatten)] args: verify::VerifyArgs }
fn main() {
    let t = Top::parse();
    let c = Connection { database_url: std::env::var("DB").unwrap(), warehouse_url: std::env::var("WH").unwrap() };
    let r = tokio::runtime::Runtime::new().unwrap().block_on(verify::run(t.args, &c));
    match r { Ok(s) => std::process::exit(s.into()), Err(e) => { eprintln!("error: {e}"); std::process::exit(e.status().into()) } }
}
