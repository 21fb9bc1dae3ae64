//! Accounts: typed, and each of one party, one purpose and one currency.

use std::fmt;

/// What an account is in the book.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AccountType {
    Asset,
    Liability,
    Income,
    Expense,
    Equity,
}

impl AccountType {
    const ALL: [AccountType; 5] =
        [AccountType::Asset, AccountType::Liability, AccountType::Income, AccountType::Expense, AccountType::Equity];

    pub const fn as_str(self) -> &'static str {
        match self {
            AccountType::Asset => "asset",
            AccountType::Liability => "liability",
            AccountType::Income => "income",
            AccountType::Expense => "expense",
            AccountType::Equity => "equity",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// Whether debits make its balance grow.
    pub const fn is_debit_normal(self) -> bool {
        matches!(self, AccountType::Asset | AccountType::Expense)
    }
}

impl fmt::Display for AccountType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// An account as a posting states it. It is created by the first posting that names it, and never changes.
///
/// The name is its identity. The usual scheme is `party:purpose:currency`, such as `renter:R:unbilled:USD`: the
/// currency belongs to the name, since what a renter owes in two currencies is two debts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AccountSpec {
    pub name: String,
    pub kind: AccountType,
    pub party: String,
    pub purpose: String,
    pub currency: String,
}

impl AccountSpec {
    /// An account named by the usual scheme.
    pub fn new(kind: AccountType, party: &str, purpose: &str, currency: &str) -> Self {
        AccountSpec {
            name: format!("{party}:{purpose}:{currency}"),
            kind,
            party: party.to_owned(),
            purpose: purpose.to_owned(),
            currency: currency.to_owned(),
        }
    }

    /// `renter:R:unbilled:USD`: used and not yet on an invoice.
    pub fn renter_unbilled(renter: &str, currency: &str) -> Self {
        Self::new(AccountType::Asset, &format!("renter:{renter}"), "unbilled", currency)
    }

    /// `supplier:S:payable:USD`: earned and not yet paid out.
    pub fn supplier_payable(supplier: &str, currency: &str) -> Self {
        Self::new(AccountType::Liability, &format!("supplier:{supplier}"), "payable", currency)
    }

    /// `supplier:S:holdback:USD`: earned and held back for a time.
    pub fn supplier_holdback(supplier: &str, currency: &str) -> Self {
        Self::new(AccountType::Liability, &format!("supplier:{supplier}"), "holdback", currency)
    }

    /// `platform:sla_credits:USD`: what the platform bears of credits for missed uptime.
    pub fn platform_sla_credits(currency: &str) -> Self {
        Self::new(AccountType::Expense, "platform", "sla_credits", currency)
    }

    /// `platform:commission:USD`: what the platform keeps.
    pub fn platform_commission(currency: &str) -> Self {
        Self::new(AccountType::Income, "platform", "commission", currency)
    }

    /// `platform:rounding:USD`: what rounding leaves over.
    pub fn platform_rounding(currency: &str) -> Self {
        Self::new(AccountType::Expense, "platform", "rounding", currency)
    }

    /// Why the database would not take it.
    pub(crate) fn fault(&self) -> Option<String> {
        let currency_ok = (3..=12).contains(&self.currency.len())
            && self.currency.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
        if !currency_ok {
            return Some(format!("the currency {:?} is not 3 to 12 capital letters or digits", self.currency));
        }
        for (field, text) in [("name", &self.name), ("party", &self.party), ("purpose", &self.purpose)] {
            if text.is_empty() || text.contains(|c: char| c.is_ascii_control()) {
                return Some(format!("its {field} {text:?} is empty or holds a control character"));
            }
        }
        None
    }
}
