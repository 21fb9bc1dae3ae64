//! `ledger limit`: how far an account may be overdrawn, and who decided it.

use clap::{Args, Subcommand};
use hydrometer_ledger as ledger;
use tokio_postgres::Client;

use super::hand::{account, read_amount_or_zero};
use super::moment::show;
use super::{answer, committed, unknown_account};
use crate::CliError;
use crate::table::{Format, Kind, Rows};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hydrometer ledger limit show renter:acme:wallet:USD\n  \
    hydrometer ledger limit set renter:acme:wallet:USD 500 --why 'credit approved' --who kim\n  \
    hydrometer ledger limit set renter:acme:wallet:USD none --why 'on account' --who kim")]
pub(super) struct LimitArgs {
    #[command(subcommand)]
    command: LimitCommand,
}

#[derive(Debug, Subcommand)]
enum LimitCommand {
    /// The limits that an account had, oldest first
    Show {
        account: String,
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// What is available may fall to minus this from now on: nothing is undone, and what is less already stays
    Set {
        account: String,
        /// 0: it cannot be overdrawn; none: there is no limit
        limit: String,
        /// Why; it is kept
        #[arg(long, value_name = "REASON")]
        why: String,
        /// Who; it is kept. Default: the user of the machine
        #[arg(long, value_name = "NAME", env = "USER")]
        who: String,
    },
}

pub(super) async fn run(args: LimitArgs, client: &mut Client) -> Result<u8, CliError> {
    match args.command {
        LimitCommand::Show { account, format } => show_limits(client, &account, format).await,
        LimitCommand::Set { account: name, limit, why, who } => {
            let limit = if limit == "none" { None } else { Some(read_amount_or_zero(&limit)?) };
            let Some(spec) = account(client, &name).await? else { return Ok(unknown_account(&name)) };
            let tx = client.transaction().await.map_err(CliError::failed)?;
            if let Err(error) = ledger::set_limit(&tx, &spec, limit, &who, &why).await {
                return answer(error);
            }
            committed(tx).await?;
            eprintln!("{name}: the limit is {}", limit.map_or("none".to_owned(), |limit| limit.to_string()));
            Ok(0)
        }
    }
}

async fn show_limits(client: &Client, name: &str, format: Format) -> Result<u8, CliError> {
    if account(client, name).await?.is_none() {
        return Ok(unknown_account(name));
    }
    let mut rows =
        Rows::new(&[("set_at", Kind::Text), ("credit_limit", Kind::Decimal), ("who", Kind::Text), ("why", Kind::Text)]);
    for change in ledger::limits(client, name).await.map_err(CliError::failed)? {
        let limit = change.credit_limit.map(|limit| limit.to_string());
        rows.rows.push(vec![Some(show(change.set_at)), limit, Some(change.who), Some(change.why)]);
    }
    rows.print(format)?;
    Ok(0)
}
