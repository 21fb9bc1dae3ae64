//! What events say of wallets. A wallet is a renter's money in one currency, for all of the renter's prepaid contracts in it.

use serde::{Deserialize, Serialize};

use super::instant;
use crate::contract::{Decimal, is_decimal};
use crate::time::Second;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WalletKey {
    pub renter: String,
    pub currency: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GrantKind {
    /// Money that was paid in.
    #[default]
    Paid,
    /// A promise of the platform: it costs when it is used.
    Promotional,
    /// What another system owed the renter when this one took over.
    Opening,
}

/// What becomes of money that was not used when its grant expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnExpiry {
    #[default]
    Income,
    /// It goes back to where it came from.
    Back,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalletGrant {
    #[serde(flatten)]
    pub wallet: WalletKey,
    /// Its name, unique in its wallet.
    pub grant: String,
    pub amount: Decimal,
    #[serde(default)]
    pub kind: GrantKind,
    /// The lower, the sooner it is used.
    #[serde(default)]
    pub priority: i32,
    /// It is used up to the end of this minute.
    #[serde(default, with = "optional_instant", skip_serializing_if = "Option::is_none")]
    pub expires: Option<Second>,
    #[serde(default)]
    pub on_expiry: OnExpiry,
    /// Where the money comes from: the purpose of the account that is debited, such as `rail:card:clearing`.
    #[serde(default = "clearing")]
    pub source: String,
    /// The later of its stated time and lifecycle time when it was recorded, so that it never pays for a second that is past. Said by
    /// Hydrometer.
    #[serde(default, with = "optional_instant", skip_serializing_if = "Option::is_none")]
    pub counts_from: Option<Second>,
    /// The operation of the ledger that made it, where that was one by hand; else the event makes it. Said by Hydrometer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_by: Option<String>,
}

fn clearing() -> String {
    "clearing".to_owned()
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalletDebit {
    #[serde(flatten)]
    pub wallet: WalletKey,
    /// Its name, unique in its wallet.
    pub debit: String,
    pub amount: Decimal,
    /// The grant that it is taken from; none: from whichever would be used next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
    #[serde(default, with = "optional_instant", skip_serializing_if = "Option::is_none")]
    pub counts_from: Option<Second>,
}

/// A positive amount in units of 1e-9, if it is one that the ledger can keep.
pub fn nanos(amount: &Decimal) -> Option<i128> {
    let (whole, fraction) = amount.0.split_once('.').unwrap_or((&amount.0, ""));
    if !is_decimal(&amount.0) || whole.len() > 29 || fraction.len() > 9 {
        return None;
    }
    let nanos: i128 = format!("{whole}{fraction:0<9}").parse().ok()?;
    (nanos > 0).then_some(nanos)
}

mod optional_instant {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::{Second, instant};

    #[allow(clippy::ref_option, reason = "serde's signature")]
    pub fn serialize<S: Serializer>(second: &Option<Second>, to: S) -> Result<S::Ok, S::Error> {
        match second {
            Some(second) => instant::serialize(second, to),
            None => to.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Second>, D::Error> {
        let text: Option<String> = Option::deserialize(from)?;
        text.map(|text| instant::parse(&text).map_err(D::Error::custom)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact_and_positive() {
        let of = |text: &str| nanos(&Decimal(text.to_owned()));
        assert_eq!(of("12.5"), Some(12_500_000_000));
        assert_eq!(of("0.000000001"), Some(1));
        assert_eq!(of("99999999999999999999999999999"), Some(99_999_999_999_999_999_999_999_999_999_000_000_000));
        for text in ["", "0", "0.0", "-1", "1e3", "1.", ".5", "0.0000000001", "1_0", "100000000000000000000000000000"] {
            assert_eq!(of(text), None, "{text:?}");
        }
    }
}
