//! Transactions: sets of transfers that are posted whole, each under an id of its own for ever.

use std::collections::HashMap;
use std::fmt;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::{AccountSpec, Amount, LedgerError};

/// Names a transaction for ever. Made from what it stands for, so that a repeated posting carries the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId(pub Uuid);

impl TransactionId {
    /// The UUID (version 5) of a namespace and a list of parts. Each part goes in with its length,
    /// so `["a", "bc"]` and `["ab", "c"]` differ.
    pub fn derive(namespace: &Uuid, parts: &[&str]) -> Self {
        let mut name = Vec::new();
        for part in parts {
            name.extend_from_slice(part.len().to_string().as_bytes());
            name.push(b':');
            name.extend_from_slice(part.as_bytes());
        }
        TransactionId(Uuid::new_v5(namespace, &name))
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Moves one positive amount; both accounts are kept in one currency. A negative amount is a positive one with
/// debit and credit swapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    pub debit: AccountSpec,
    pub credit: AccountSpec,
    pub amount: Amount,
}

/// Transfers that are posted whole or not at all.
#[derive(Clone, Debug, PartialEq)]
pub struct Transaction {
    pub id: TransactionId,
    /// What it is, such as `usage` or `correction`; the ledger gives it no meaning.
    pub kind: String,
    /// When it counts; to the microsecond. When it was booked, the database says.
    pub effective_at: DateTime<Utc>,
    pub description: String,
    /// The transaction that this one corrects.
    pub corrects: Option<TransactionId>,
    /// The transaction that this one takes back, in whole or part: its transfers with debit and credit swapped. Nothing
    /// is reversed for more than it was.
    pub reverses: Option<TransactionId>,
    /// A JSON object; where it comes from, for whoever explains it.
    pub metadata: serde_json::Value,
    pub transfers: Vec<Transfer>,
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Posted,
    /// It had been posted before with the same body; nothing was changed.
    Repeated,
}

/// Refuses what the database would refuse, and says where it is; gives the accounts, each once.
pub(crate) fn validate<'a>(
    transactions: impl IntoIterator<Item = &'a Transaction>,
) -> Result<Vec<&'a AccountSpec>, LedgerError> {
    let mut accounts: HashMap<&str, &AccountSpec> = HashMap::new();
    for transaction in transactions {
        let refuse = |detail: String| LedgerError::Invalid {
            what: format!("transaction {} cannot be posted", transaction.id),
            detail,
            hint: "Nothing of the set was posted",
        };
        if let Some(fault) = transaction.fault() {
            return Err(refuse(fault));
        }
        for (index, transfer) in transaction.transfers.iter().enumerate() {
            let refuse = |detail: String| refuse(format!("line {}: {detail}", index + 1));
            if let Some(fault) = transfer.fault() {
                return Err(refuse(fault));
            }
            for account in [&transfer.debit, &transfer.credit] {
                match accounts.get(account.name.as_str()) {
                    Some(known) if *known == account => {}
                    Some(known) => {
                        return Err(refuse(format!("{account:?} is stated as {known:?} in the same set")));
                    }
                    None => {
                        if let Some(fault) = account.fault() {
                            return Err(refuse(format!("account {}: {fault}", account.name)));
                        }
                        accounts.insert(&account.name, account);
                    }
                }
            }
        }
    }
    Ok(accounts.into_values().collect())
}

impl Transaction {
    /// What takes this transaction back, whole: the same transfers with debit and credit swapped. To take back a part,
    /// lower its amounts or leave transfers out.
    pub fn reversal(&self, id: TransactionId, effective_at: DateTime<Utc>, description: &str) -> Transaction {
        let swapped = |t: &Transfer| Transfer { debit: t.credit.clone(), credit: t.debit.clone(), amount: t.amount };
        Transaction {
            id,
            kind: "reversal".to_owned(),
            effective_at,
            description: description.to_owned(),
            corrects: None,
            reverses: Some(self.id),
            metadata: serde_json::json!({}),
            transfers: self.transfers.iter().map(swapped).collect(),
        }
    }

    /// The accounts of its transfers, as often as they occur.
    pub(crate) fn accounts(&self) -> impl Iterator<Item = &AccountSpec> {
        self.transfers.iter().flat_map(|transfer| [&transfer.debit, &transfer.credit])
    }

    fn fault(&self) -> Option<String> {
        if self.transfers.is_empty() {
            Some("it has no transfer".to_owned())
        } else if self.kind.is_empty() || self.kind.contains(|c: char| c.is_ascii_control()) {
            Some(format!("its kind {:?} is empty or holds a control character", self.kind))
        } else if !self.metadata.is_object() {
            Some(format!("its metadata {} is not a JSON object", self.metadata))
        } else if self.description.contains('\0') {
            Some("its description holds a zero byte".to_owned())
        } else if self.corrects == Some(self.id) {
            Some("it corrects itself".to_owned())
        } else if self.reverses == Some(self.id) {
            Some("it reverses itself".to_owned())
        } else {
            None
        }
    }
}

impl Transfer {
    fn fault(&self) -> Option<String> {
        if !self.amount.is_positive() {
            Some(format!("the amount {} is not positive; swap debit and credit instead", self.amount))
        } else if self.amount > Amount::MAX_POSTABLE {
            Some(format!("the amount {} is beyond {}", self.amount, Amount::MAX_POSTABLE))
        } else if self.debit.name == self.credit.name {
            Some(format!("debit and credit are the same account, {}", self.debit.name))
        } else if self.debit.currency != self.credit.currency {
            Some(format!("{} and {} are kept in different currencies", self.debit.name, self.credit.name))
        } else {
            None
        }
    }
}
