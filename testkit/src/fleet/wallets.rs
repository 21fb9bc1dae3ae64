//! Renters who pay in advance: what they sign and lease, and what their wallets are given. How much and when is chosen by looking ahead
//! at what their leases burn, so that wallets run dry in the middle of things.

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use super::event::{EventKind, GPU_HOURS, Grant, GrantKind, OnExpiry, Prepaid, RatingWindow, SimpleContract};
use super::random::Random;
use super::scenario::Draft;
use super::time::{SECOND_US, rfc3339};
use super::{Fault, Plan, random_streams};
use crate::oracle::{Dry, OracleError, burn_ahead, dry_ahead};

/// Who pays in advance. They lease the last servers of the fleet, and nobody else does; what happens on the other servers, and under the
/// other contracts, does not depend on them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wallets {
    #[default]
    Nobody,
    /// Five renters with a part to play. `prepaid-01` uses up a promotion and what it paid for two contracts, is suspended, tops up and
    /// goes on; `prepaid-02` never runs dry; `prepaid-03` has a grace, which passes; `prepaid-04` a credit, which it uses up; the first
    /// payment of `prepaid-05` is told late.
    Cast,
    /// One to three wallets with anything that may happen to them.
    Random,
}

/// The renters of the cast, and their servers.
pub const CAST_RENTERS: u32 = 5;
pub const CAST_SERVERS: u32 = 6;

impl Wallets {
    /// How many of a fleet's servers are theirs.
    pub(crate) fn servers(self, all: u32) -> u32 {
        match self {
            Wallets::Nobody => 0,
            Wallets::Cast => CAST_SERVERS,
            Wallets::Random => all - all / 3,
        }
    }
}

/// A renter's money in a currency, and the contracts that burn it.
pub(crate) struct Wallet {
    renter: String,
    currency: String,
    contracts: Vec<String>,
    grants: usize,
}

/// How long the grace of the cast lasts, and the use that its credit covers, in seconds.
const CAST_GRACE_S: i64 = 413;
const CAST_CREDIT_S: i128 = 500;

/// By how much the first payment of `prepaid-05` is late: told when its lease has long begun.
const CAST_LATE_S: u32 = 1_500;

/// Signs the contracts. What is leased from now on is leased under them.
pub(crate) fn sign(draft: &mut Draft) {
    draft.random = Random::new(draft.plan.seed, random_streams::WALLETS, 0);
    draft.contracts.clear();
    match draft.plan.wallets {
        Wallets::Nobody => {}
        Wallets::Cast => sign_cast(draft),
        Wallets::Random => sign_random(draft),
    }
}

fn sign_cast(draft: &mut Draft) {
    for number in 1..=CAST_RENTERS {
        let mut wallet = Wallet::new(number, "USD");
        for _ in 0..if number == 1 { 2 } else { 1 } {
            let price_e9 = i128::from(draft.random.between(300_000, 1_500_000));
            let rule = match number {
                3 => Prepaid::Grace { grace_s: CAST_GRACE_S },
                4 => {
                    let second = price_e9 * i128::from(draft.plan.gpus_per_server);
                    Prepaid::Credit { credit_limit: cents((CAST_CREDIT_S * second) as i64 / 10_000_000 + 1) }
                }
                _ => Prepaid::Suspend,
            };
            sign_one(draft, &mut wallet, price_e9, &rule);
        }
        draft.wallets.push(wallet);
    }
}

fn sign_random(draft: &mut Draft) {
    for number in 1..=1 + draft.random.below(3) {
        let currency = draft.random.pick(&["USD", "USD", "EUR"]);
        // The second one is another wallet of the first one's renter, unless both are the same.
        let renter = if number == 2 && draft.wallets[0].currency != currency { 1 } else { number };
        let mut wallet = Wallet::new(renter, currency);
        let credit = draft.random.chance(0.3);
        let credit_limit = cents(draft.random.between(1, 100));
        for _ in 0..1 + draft.random.below(if credit { 1 } else { 2 }) {
            let price_e9 = some_price(&mut draft.random);
            let rule = match draft.random.chance(0.6) {
                _ if credit => Prepaid::Credit { credit_limit: credit_limit.clone() },
                true => Prepaid::Suspend,
                false => Prepaid::Grace { grace_s: draft.random.between(1, 900) },
            };
            let contract = sign_one(draft, &mut wallet, price_e9, &rule);
            for _ in 0..draft.times_in_plan(Fault::PriceChange) {
                draft.tally.add(Fault::PriceChange);
                let price = price_of_hour(some_price(&mut draft.random));
                let second = draft.random.between(1, draft.seconds());
                let (contract, charge) = (contract.clone(), GPU_HOURS.to_owned());
                draft.record(second, EventKind::PriceChanged { contract, charge, price });
            }
        }
        draft.wallets.push(wallet);
    }
}

fn sign_one(draft: &mut Draft, wallet: &mut Wallet, price_e9: i128, rule: &Prepaid) -> String {
    let contract = format!("contract-{}-{}-{}", wallet.renter, wallet.currency, wallet.contracts.len() + 1);
    let signed = draft.random.between(-3600, -1);
    let simple = SimpleContract {
        contract: contract.clone(),
        renter: wallet.renter.clone(),
        currency: wallet.currency.clone(),
        price_per_gpu_hour: price_of_hour(price_e9),
        supplier_share_percent: draft.random.pick(&["80", "72.5", "66.666667"]).to_owned(),
        rating_window: RatingWindow::Minute,
    };
    draft.record(signed, simple.signed_prepaid(draft.plan.start_us + signed * SECOND_US, rule));
    draft.contracts.push(contract.clone());
    wallet.contracts.push(contract.clone());
    contract
}

/// Of a GPU and second: whole, so that it is never in doubt which second can still be paid.
fn some_price(random: &mut Random) -> i128 {
    random.between(100_000, 2_500_000).into()
}

fn price_of_hour(price_e9: i128) -> String {
    decimal(price_e9 * 3600)
}

fn decimal(amount_e9: i128) -> String {
    format!("{}.{:09}", amount_e9 / 1_000_000_000, amount_e9 % 1_000_000_000)
}

/// A limit is a number of cents.
fn cents(amount: i64) -> String {
    format!("{}.{:02}", amount / 100, amount % 100)
}

/// Leases one of the cast's servers whole, for nearly all of the plan's time. `prepaid-01` has the first two, one under each contract.
pub(crate) fn lease_to_cast(draft: &mut Draft, place: usize, server: &str, slots: u32) {
    let contract = draft.contracts[place].clone();
    let lease = format!("lease-{server}-1");
    let from = draft.random.between(1, 300);
    let to = draft.seconds() - draft.random.between(1, 60);
    let server = server.to_owned();
    draft.record(from, EventKind::LeaseStarted { lease: lease.clone(), contract, server, slots: (0..slots).collect() });
    draft.record(to, EventKind::LeaseEnded { lease });
}

/// Fills the wallets, once it is known what is leased and what happens to it.
pub(crate) fn give(draft: &mut Draft) -> Result<(), OracleError> {
    draft.random = Random::new(draft.plan.seed, random_streams::WALLETS, 1);
    let mut wallets = std::mem::take(&mut draft.wallets);
    for (place, wallet) in wallets.iter_mut().enumerate() {
        match draft.plan.wallets {
            Wallets::Nobody => {}
            Wallets::Cast => give_cast(draft, wallet, place + 1)?,
            Wallets::Random => give_random(draft, wallet)?,
        }
    }
    Ok(())
}

fn give_cast(draft: &mut Draft, wallet: &mut Wallet, number: usize) -> Result<(), OracleError> {
    let seconds = draft.seconds();
    let burn = wallet.burn(draft)?;
    let before = |second: i64| burn[..second.clamp(0, seconds) as usize].iter().sum::<i128>();
    let whole = before(seconds);
    if number == 5 {
        let second = draft.random.between(-600, -300);
        draft.tally.add(Fault::LateGrant);
        wallet.give_late(draft, second, whole * 2, CAST_LATE_S);
        return Ok(());
    }
    let first = draft.random.between(-900, 0);
    let promotion_ends = last_of_minute(draft.plan, seconds / 5 + draft.random.between(0, seconds / 20));
    // In the first half of a second that burns something, and not at a minute's edge.
    let middle = seconds * 2 / 5 + draft.random.between(0, seconds / 10);
    let dry = (middle..seconds).find(|&second| burn[second as usize] > 0 && draft.of_minute(second) != 0);
    let dry = dry.unwrap_or(middle);
    let part_of_second = i128::from(draft.random.below(1 + burn[dry as usize] as u64 / 2));
    let promoted = match number {
        // More than it can use in time, or less.
        1 => before(promotion_ends) * 5 / 4,
        2 => before(promotion_ends) / 3,
        _ => 0,
    };
    if promoted > 0 {
        let expires = Some(draft.instant(promotion_ends - 23));
        let promotion = Grant {
            kind: GrantKind::Promotional,
            priority: -1,
            expires,
            ..wallet.grant(promoted, "platform:promotions")
        };
        draft.record(first, EventKind::WalletGranted(promotion));
    }
    let paid = match number {
        1 => before(dry) - before(promotion_ends),
        2 => whole * 3 / 2,
        _ => before(dry),
    };
    wallet.pay_in(draft, first, paid + part_of_second);
    if let Some(ran_dry) = wallet.dry(draft)?.first() {
        let wait = match number {
            1 => 443,
            3 => CAST_GRACE_S + 317,
            _ => CAST_CREDIT_S as i64 + 397,
        };
        let second = (ran_dry.exhausted - draft.start() + wait).min(seconds - 61);
        wallet.pay_in(draft, second, (whole - before(second)) * 3 / 2);
    }
    Ok(())
}

fn give_random(draft: &mut Draft, wallet: &mut Wallet) -> Result<(), OracleError> {
    let seconds = draft.seconds();
    let burn = wallet.burn(draft)?;
    let after = |second: i64| burn[second.clamp(0, seconds) as usize..].iter().sum::<i128>();
    for _ in 0..draft.random.below(4) {
        let second = draft.random.between(-600, seconds / 3);
        let amount = after(0) * i128::from(draft.random.between(1, 500)) / 1_000;
        let mut grant = wallet.grant(amount, draft.random.pick(&["rail:card:clearing", "rail:ach:clearing"]));
        grant.priority = draft.random.pick(&[-1, 0, 0, 0, 2]);
        if draft.random.chance(0.35) {
            grant.kind = GrantKind::Promotional;
            grant.source = "platform:promotions".to_owned();
        }
        if draft.random.chance(0.4) {
            let expires = draft.random.between(second.max(0) + 61, seconds);
            grant.expires = Some(draft.instant(expires));
            grant.on_expiry = draft.random.pick(&[OnExpiry::Income, OnExpiry::Back]);
        }
        // One that expires counts from its own time: late, it might count from no time at all.
        let is_late = grant.expires.is_none() && draft.happens(Fault::LateGrant);
        let late_s = if is_late { draft.random.between(60, 1_200) as u32 } else { 0 };
        draft.record_grant(second, grant, late_s);
    }
    for _ in 0..6 {
        let dry = wallet.dry(draft)?;
        let Some(Dry { exhausted, restored: None, .. }) = dry.last() else { break };
        let wait = draft.random.pick(&[1, 59, 60, 61, 300, 1_000]);
        let second = exhausted - draft.start() + draft.random.between(1, wait + 1);
        if second >= seconds || draft.random.chance(0.15) {
            break;
        }
        let part = draft.random.between(1, 900).into();
        // At times not even a second's worth.
        let amount = if draft.random.chance(0.15) { part } else { after(second) * part / 1_000 };
        let late_s = if draft.happens(Fault::LateGrant) { draft.random.between(60, 600) as u32 } else { 0 };
        wallet.give_late(draft, second, amount, late_s);
    }
    Ok(())
}

/// The first second of the minute that comes after a second's.
fn last_of_minute(plan: &Plan, second: i64) -> i64 {
    let start = plan.start_us / SECOND_US;
    (start + second).div_euclid(60) * 60 + 60 - start
}

impl Wallet {
    fn new(renter: impl std::fmt::Display, currency: &str) -> Self {
        let (renter, currency) = (format!("prepaid-{renter:0>2}"), currency.to_owned());
        Wallet { renter, currency, contracts: Vec::new(), grants: 0 }
    }

    fn key(&self) -> (String, String) {
        (self.renter.clone(), self.currency.clone())
    }

    /// What its leases burn in each second of the plan, if they are never cut off.
    fn burn(&self, draft: &Draft) -> Result<Vec<i128>, OracleError> {
        burn_ahead(&draft.events, &self.key(), draft.start(), draft.start() + draft.seconds())
    }

    fn dry(&self, draft: &Draft) -> Result<Vec<Dry>, OracleError> {
        dry_ahead(&draft.events, &self.key(), draft.start() + draft.seconds())
    }

    fn grant(&mut self, amount_e9: i128, source: &str) -> Grant {
        self.grants += 1;
        Grant {
            renter: self.renter.clone(),
            currency: self.currency.clone(),
            grant: format!("grant-{}", self.grants),
            amount: decimal(amount_e9.max(1)),
            kind: GrantKind::Paid,
            priority: 0,
            expires: None,
            on_expiry: OnExpiry::Income,
            source: source.to_owned(),
        }
    }

    fn pay_in(&mut self, draft: &mut Draft, second: i64, amount_e9: i128) {
        self.give_late(draft, second, amount_e9, 0);
    }

    fn give_late(&mut self, draft: &mut Draft, second: i64, amount_e9: i128, late_s: u32) {
        let grant = self.grant(amount_e9, "rail:card:clearing");
        draft.record_grant(second, grant, late_s);
    }
}

impl Draft<'_> {
    /// A grant and how many seconds later than its own time it arrives.
    fn record_grant(&mut self, second: i64, grant: Grant, late_s: u32) {
        self.record(second, EventKind::WalletGranted(grant));
        if let (Some(event), 1..) = (self.events.last(), late_s) {
            self.late.insert((event.source.clone(), event.id.clone()), late_s);
        }
    }

    fn start(&self) -> i64 {
        self.plan.start_us / SECOND_US
    }

    /// The place of a second in its minute.
    fn of_minute(&self, second: i64) -> i64 {
        (self.start() + second).rem_euclid(60)
    }

    fn instant(&self, second: i64) -> String {
        rfc3339(self.plan.start_us + second * SECOND_US)
    }
}
