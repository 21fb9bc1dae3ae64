//! The numbers of accounts, kept by a process that posts often.

use std::collections::{HashMap, HashSet};
use std::sync::{PoisonError, RwLock};

use tokio_postgres::{Client, GenericClient};

use crate::post::{Answers, Chain, Set, open_accounts, post_known};
use crate::transaction::validate;
use crate::{AccountSpec, LedgerError};

/// The numbers of accounts that are committed, by all that was stated of them. Accounts never change, so what it knows
/// stays true. It spares a posting the look-up of every name.
#[derive(Debug, Default)]
pub struct Accounts(RwLock<HashMap<AccountSpec, i64>>);

impl Accounts {
    /// Learns the numbers of these accounts, and creates those that are missing, in a transaction of its own.
    pub async fn open<'a>(
        &self,
        client: &Client,
        accounts: impl IntoIterator<Item = &'a AccountSpec>,
    ) -> Result<(), LedgerError> {
        let unknown: HashSet<&AccountSpec> = {
            let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
            accounts.into_iter().filter(|account| !known.contains_key(account)).collect()
        };
        if unknown.is_empty() {
            return Ok(());
        }
        let unknown: Vec<&AccountSpec> = unknown.into_iter().collect();
        let ids = open_accounts(client, &unknown).await?;
        self.0.write().unwrap_or_else(PoisonError::into_inner).extend(unknown.into_iter().cloned().zip(ids));
        Ok(())
    }

    /// As [`post_each`](crate::post_each), for chains whose accounts are all open here. On a client outside of a
    /// transaction the set is committed when its answers are there.
    pub async fn post(&self, client: &impl GenericClient, chains: &[Chain<'_>]) -> Result<Answers, LedgerError> {
        validate(chains.iter().flat_map(|chain| chain.transactions))?;
        let set = {
            let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
            Set::of(chains, |account| known.get(account).copied())?
        };
        post_known(client, chains, &set).await
    }
}
