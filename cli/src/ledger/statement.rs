//! `ledger statement`.

use clap::Args;
use hydrometer_ledger::{Amount, Statement};
use tokio_postgres::Client;

use super::moment::{By, show, time};
use super::{answer, snapshot, unknown_account};
use crate::CliError;
use crate::table::{Format, Kind, Rows};

const PAGE: u16 = 5_000;

#[derive(Debug, Args)]
pub(super) struct StatementArgs {
    account: String,
    /// The first time in it
    #[arg(long, value_name = "TIME")]
    from: String,
    /// The first time after it
    #[arg(long, value_name = "TIME")]
    to: String,
    /// Whether times are when something counts, or when it was booked
    #[arg(long, value_enum, default_value_t = By::Booked)]
    by: By,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Balances stand as in the table of balances: positive on the side on which the account grows.
pub(super) async fn run(args: StatementArgs, client: &mut Client) -> Result<u8, CliError> {
    let (from, to) = (time(&args.from)?, time(&args.to)?);
    let tx = snapshot(client).await?;
    let mut statement = match Statement::open(&tx, &args.account, args.by.into(), from, to).await {
        Ok(Some(statement)) => statement,
        Ok(None) => return Ok(unknown_account(&args.account)),
        Err(error) => return answer(error),
    };
    let debit_normal = statement.account.spec.kind.is_debit_normal();
    let natural = |net: Amount| {
        let natural = if debit_normal { Some(net) } else { net.checked_neg() };
        natural.map(|amount| amount.to_string()).unwrap_or_default()
    };
    let columns = [
        ("booked_at", Kind::Text),
        ("effective_at", Kind::Text),
        ("kind", Kind::Text),
        ("counterpart", Kind::Text),
        ("debit", Kind::Decimal),
        ("credit", Kind::Decimal),
        ("balance", Kind::Decimal),
        ("transaction", Kind::Text),
        ("description", Kind::Text),
    ];
    let mut rows = Rows::new(&columns);
    let edge = |what: &str, net: Amount| {
        let mut row = vec![None; columns.len()];
        row[2] = Some(what.to_owned());
        row[6] = Some(natural(net));
        row
    };
    rows.rows.push(edge("opening", statement.opening));
    loop {
        let lines = statement.next(PAGE).await.map_err(CliError::failed)?;
        if lines.is_empty() {
            break;
        }
        for line in lines {
            let (debit, credit) = match line.change.checked_neg() {
                Some(credit) if credit.is_positive() => (None, Some(credit.to_string())),
                _ => (Some(line.change.to_string()), None),
            };
            rows.rows.push(vec![
                Some(show(line.place.booked_at)),
                Some(show(line.effective_at)),
                Some(line.kind),
                Some(line.counterpart),
                debit,
                credit,
                Some(natural(line.balance)),
                Some(line.transaction.to_string()),
                Some(line.description),
            ]);
        }
    }
    rows.rows.push(edge("closing", statement.closing));
    rows.print(args.format)?;
    Ok(0)
}
