//! `wallet`: prepaid money: how it stands, what it was given, when it runs dry.

mod act;
mod show;

use clap::{Args, Subcommand};
use hydrometer_ledger::{Amount, wallet};
use hydrometer_pipeline::store::Database;
use hydrometer_pipeline::store::wallet::of;
use hydrometer_schemas::lifecycle::WalletKey;
use hydrometer_schemas::time::{FOREVER, SECONDS_PER_MINUTE, Second, parse_rfc3339, second_of};

use crate::table::Format;
use crate::{CliError, Connection};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hydrometer wallet list                                            every wallet, its balance, and when it runs dry\n  \
    hydrometer wallet show hooli                                      its grants and what is left of each\n  \
    hydrometer wallet statement hooli --limit 20\n  \
    hydrometer wallet grant hooli 500 --name invoice-881 --why 'bank transfer of 3 March'\n  \
    hydrometer wallet grant hooli 50 --promotional --priority -1 --expires 2026-04-01T00:00:00Z --why welcome\n  \
    hydrometer wallet refund hooli 7f0c… --key contract-17 --why 'contract ended'\n  \
    hydrometer wallet credit hooli 25 --who ana --why 'ticket 4711'   above the wallet's limit: a proposal\n  \
    hydrometer wallet approve 5b1e… --who bob --why 'checked with support'\n  \
    hydrometer wallet terms hooli --low 100,20 --topup-below 50 --topup-amount 500 --second-person-from 1000\n\n\
    What is given counts from now, or from --at if that is later: it never pays for time that has passed.")]
pub struct WalletArgs {
    #[command(subcommand)]
    command: WalletCommand,
}

#[derive(Debug, Subcommand)]
enum WalletCommand {
    /// Every wallet: balance, what it owes, when it runs dry
    List {
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// One wallet's grants, and how its use keeps to their plans
    Show {
        #[command(flatten)]
        of: Of,
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// What happened to a wallet, oldest first
    Statement {
        #[command(flatten)]
        of: Of,
        /// Only after the entry with this number
        #[arg(long, default_value_t = 0)]
        after: i64,
        /// At most so many
        #[arg(long, default_value_t = 50)]
        limit: u32,
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Give it money that was paid in, or a promise
    Grant(act::GrantArgs),
    /// Give back what is left of a paid grant
    Refund(act::RefundArgs),
    /// Credit it by hand
    Credit(act::CreditArgs),
    /// Debit it by hand
    Debit(act::DebitArgs),
    /// Credits, debits and terms that wait for a second person
    Proposals {
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Approve a proposal of somebody else's
    Approve(act::DecideArgs),
    /// Reject a proposal of somebody else's
    Reject(act::DecideArgs),
    /// What the wallet is to watch: thresholds, automatic top-ups, from which amount two persons are needed
    Terms(act::TermsArgs),
}

/// Which wallet.
#[derive(Debug, Args)]
struct Of {
    /// The renter
    renter: String,
    #[arg(long, default_value = "USD")]
    currency: String,
}

impl Of {
    fn key(&self) -> WalletKey {
        WalletKey { renter: self.renter.clone(), currency: self.currency.clone() }
    }

    fn id(&self) -> wallet::WalletId {
        of(&self.key()).id()
    }
}

/// Who, and why; both are recorded.
#[derive(Debug, Args)]
struct By {
    /// Who. Default: the user of the machine
    #[arg(long, value_name = "NAME", env = "USER", default_value = "unknown")]
    who: String,
    /// Why
    #[arg(long, value_name = "REASON")]
    why: String,
}

pub async fn run(args: WalletArgs, connection: &Connection) -> Result<u8, CliError> {
    let mut db = Database::connect(&connection.database_url).await.map_err(CliError::failed)?;
    match args.command {
        WalletCommand::List { format } => show::list(&db, format).await,
        WalletCommand::Show { of, format } => show::show(&db, &of, format).await,
        WalletCommand::Statement { of, after, limit, format } => show::statement(&db, &of, after, limit, format).await,
        WalletCommand::Proposals { format } => show::proposals(&db, format).await,
        WalletCommand::Grant(args) => act::grant(&mut db, args).await,
        WalletCommand::Refund(args) => act::refund(&mut db, args).await,
        WalletCommand::Credit(args) => act::credit(&mut db, args).await,
        WalletCommand::Debit(args) => act::debit(&mut db, args).await,
        WalletCommand::Approve(args) => act::decide(&mut db, args, true).await,
        WalletCommand::Reject(args) => act::decide(&mut db, args, false).await,
        WalletCommand::Terms(args) => act::terms(&mut db, args).await,
    }
}

fn amount(text: &str) -> Result<Amount, CliError> {
    text.parse().map_err(|error| CliError::usage(format!("{text:?} is no amount: {error}")))
}

fn second(text: &str) -> Result<Second, CliError> {
    let time = parse_rfc3339(text)
        .ok_or_else(|| CliError::usage(format!("{text:?} is no time; write it like 2026-03-01T10:20:30Z")))?;
    let second = second_of(time);
    // A grant's last minute is one whole.
    if !(0..FOREVER - SECONDS_PER_MINUTE).contains(&second) {
        return Err(CliError::usage(format!(
            "{text:?} does not lie between 1970 and 9999; leave it out where there is none"
        )));
    }
    Ok(second)
}
