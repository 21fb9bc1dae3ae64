//! What usage comes to under a contract, from its document, with big rationals: second by second in time, and price by price on a
//! ladder. The slow, obvious second implementation that the rating engine is held against; it shares no code with it.
//!
//! What it works out: the renter's total of each charge and billing period, each supplier's part of it, and of what falls due at the
//! end of a period true-ups, flat fees at zero, fees (cut by the second), minimum and maximum spend, percentages, and the suppliers'
//! minimum guarantees.

use std::collections::{BTreeMap, BTreeSet};

use hydrometer_schemas::contract::{
    Basis, Charge, CommitmentPer, Contract, MaintenanceRule, OnChange, Per, Rounding, Scope,
};
use num_rational::BigRational;
use num_traits::{Signed, Zero};

mod clock;
mod ladder;
mod numbers;

pub use clock::{Clock, second_of};
use ladder::Ladder;
pub use numbers::decimal;
use numbers::{fraction, largest_remainder, nano, round, whole};

/// Use of one GPU from one second to another.
#[derive(Debug, Clone)]
pub struct Use {
    pub from: i64,
    pub to: i64,
    pub lease: String,
    pub gpu: String,
    pub supplier: String,
    pub server: String,
    pub what: What,
}

#[derive(Debug, Clone)]
pub enum What {
    /// Millionths of a unit of the charge's price, evenly over the time, counted in whole millionths of a piece.
    Units { charge: String, micro_units: i128 },
    /// All seconds in one class: `used`, `idle`, `unknown`, `suspended`, `maintenance`, `down`, `down_supplier`, `down_platform`,
    /// `down_renter`; with `/used` or `/idle` behind it where there were readings all the same.
    Class(&'static str),
}

/// All amounts in units of the currency.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// By charge and billing period.
    pub renter: BTreeMap<(String, String), BigRational>,
    /// By charge, billing period and supplier.
    pub suppliers: BTreeMap<(String, String, String), BigRational>,
    /// By kind, charge, billing period and subject.
    pub dues: BTreeMap<(String, String, String, String), BigRational>,
    /// What suppliers lack of their guarantees, by billing period and supplier.
    pub guarantees: BTreeMap<(String, String), BigRational>,
}

/// Where a second of use lands: charge, billing period, hour (of hourly commitments), resource.
type Place = (String, String, Option<i64>, String);
/// Version, time of the week, supplier.
type Bucket = (usize, usize, String);
/// Billed and paid, in millionths of a piece.
type Counted = (i128, i128);
/// Lease, GPU, charge: what a minimum and a step are counted by.
type Counter = (String, String, String);
/// Use in order of time: by period or hour, version, time of the week and supplier.
type InOrder = BTreeMap<(i64, usize, usize, String), (Place, Counted)>;

/// `documents` in order of their effective time; `periods` are those that close.
pub fn outcome(documents: &[Contract], usage: &[Use], periods: &[String]) -> Outcome {
    let book = Book { documents, clock: Clock::of(&documents[0]) };
    let states = book.states(usage);
    let mut outcome = Outcome::default();
    for (place, cells) in &states {
        let (renter, suppliers) = book.amounts(&place.0, cells);
        *outcome.renter.entry((place.0.clone(), place.1.clone())).or_insert_with(BigRational::zero) += renter;
        for (supplier, amount) in suppliers {
            let of = (place.0.clone(), place.1.clone(), supplier);
            *outcome.suppliers.entry(of).or_insert_with(BigRational::zero) += amount;
        }
    }
    for period in periods {
        book.dues(period, usage, &states, &mut outcome);
        book.guarantees(usage, period, &mut outcome);
    }
    outcome.dues.retain(|_, amount| !amount.is_zero());
    outcome
}

struct Book<'a> {
    documents: &'a [Contract],
    clock: Clock,
}

impl Book<'_> {
    /// The version in force.
    fn version(&self, second: i64) -> Option<usize> {
        (0..self.documents.len()).rev().find(|&n| second_of(&self.documents[n].effective) <= second)
    }

    fn states(&self, usage: &[Use]) -> BTreeMap<Place, BTreeMap<Bucket, Counted>> {
        // By lease, GPU and charge, since steps are counted there; then by period or hour, version and time of the week, which is
        // the order in which a lease's pieces are stepped.
        let mut raw: BTreeMap<Counter, InOrder> = BTreeMap::new();
        let mut maintenance: BTreeMap<(String, String, String), i64> = BTreeMap::new();
        let mut rows: Vec<&Use> = usage.iter().collect();
        rows.sort_by_key(|row| row.from);
        for row in rows {
            for second in row.from..row.to {
                let Some(version) = self.version(second) else { continue };
                let document = &self.documents[version];
                let period = self.clock.period(second);
                let mut is_billed_maintenance = false;
                if matches!(row.what, What::Class(class) if class.starts_with("maintenance")) {
                    let taken = maintenance.entry((row.lease.clone(), row.gpu.clone(), period.clone())).or_default();
                    is_billed_maintenance = match &document.maintenance {
                        Some(rule) => match rule.announced {
                            MaintenanceRule::Billed => true,
                            MaintenanceRule::Free => false,
                            MaintenanceRule::Allowance => {
                                let hours = rule.allowance_hours.as_ref().map_or_else(BigRational::zero, decimal);
                                whole(i128::from(*taken)) < hours * whole(3_600)
                            }
                        },
                        None => false,
                    };
                    *taken += 1;
                }
                for (name, charge) in document.charges.iter().filter(|(_, charge)| is_metered(charge)) {
                    let counted = count(row, second, name, charge, is_billed_maintenance);
                    let is_hourly = charge.commitment.as_ref().is_some_and(|c| c.per == CommitmentPer::Hour);
                    let hour = is_hourly.then(|| second.div_euclid(3_600));
                    let resource = match charge.scope.unwrap_or_default() {
                        Scope::Contract => String::new(),
                        Scope::Lease => row.lease.clone(),
                        Scope::Gpu => format!("{}/{}", row.lease, row.gpu),
                        Scope::Server => row.server.clone(),
                    };
                    let at = hour.unwrap_or_else(|| self.clock.period_number(second));
                    let time = self.clock.time_of_week(charge, second);
                    // An hour is committed as a whole: in some zones it lies across the edge of two periods, and counts in its first.
                    let period = hour.map_or(period.clone(), |hour| self.clock.period(hour * 3_600));
                    let place = (name.clone(), period, hour, resource);
                    let of = (row.lease.clone(), row.gpu.clone(), name.clone());
                    let piece = (at, version, time, row.supplier.clone());
                    let (_, sum) = raw.entry(of).or_default().entry(piece).or_insert((place, (0, 0)));
                    *sum = (sum.0 + counted.0, sum.1 + counted.1);
                }
            }
        }
        let mut states: BTreeMap<Place, BTreeMap<Bucket, Counted>> = BTreeMap::new();
        for ((_, _, name), pieces) in raw {
            let mut before = (0, 0);
            for ((_, version, time, supplier), (place, piece)) in pieces {
                let charge = &self.documents[version].charges[&name];
                if charge.minimum_s.is_none() && charge.step_s.is_none() {
                    let sum = states.entry(place).or_default().entry((version, time, supplier)).or_insert((0, 0));
                    *sum = (sum.0 + piece.0, sum.1 + piece.1);
                    continue;
                }
                let after = (before.0 + piece.0, before.1 + piece.1);
                let sum = states.entry(place).or_default().entry((version, time, supplier)).or_insert((0, 0));
                sum.0 += stepped(charge, after.0) - stepped(charge, before.0);
                sum.1 += stepped(charge, after.1) - stepped(charge, before.1);
                before = after;
            }
        }
        states
    }

    /// The renter's rounded total, and each supplier's.
    fn amounts(&self, name: &str, cells: &BTreeMap<Bucket, Counted>) -> (BigRational, BTreeMap<String, BigRational>) {
        let billed: BTreeMap<&Bucket, i128> = cells.iter().map(|(bucket, counted)| (bucket, counted.0)).collect();
        let paid: BTreeMap<&Bucket, i128> = cells.iter().map(|(bucket, counted)| (bucket, counted.1)).collect();
        let renter = self.shared_out(name, &billed).values().fold(BigRational::zero(), |sum, part| sum + part);

        let is_linear = paid.iter().filter(|(_, quantity)| **quantity != 0).all(|(bucket, _)| {
            let charge = &self.documents[bucket.0].charges[name];
            let is_plain = charge.price.is_some() && charge.free.as_ref().is_none_or(|f| decimal(f).is_zero());
            self.own_rate(name, bucket).is_some() || (is_plain && charge.commitment.is_none())
        });
        let gross = self.shared_out(name, &paid);
        let mut suppliers = BTreeMap::new();
        for supplier in cells.keys().map(|bucket| &bucket.2).collect::<BTreeSet<_>>() {
            let mut sum = self.own_amounts(name, supplier, &paid);
            for (bucket, &quantity) in paid.iter().filter(|(bucket, _)| bucket.2 == *supplier) {
                if self.own_rate(name, bucket).is_some() || quantity == 0 {
                    continue;
                }
                let charge = &self.documents[bucket.0].charges[name];
                let worth = if is_linear {
                    Ladder::of(charge, bucket.1).between(&whole(0), &units(charge, quantity), &units(charge, quantity))
                } else {
                    gross[*bucket].clone()
                };
                sum += worth * self.share(bucket);
            }
            suppliers.insert(supplier.clone(), round(&sum));
        }
        (renter, suppliers)
    }

    /// What quantities cost on the renter's ladder: rounded once, shared over segments, then over each one's suppliers.
    fn shared_out<'b>(&self, name: &str, quantities: &BTreeMap<&'b Bucket, i128>) -> BTreeMap<&'b Bucket, BigRational> {
        let mut segments: BTreeMap<(usize, usize), Vec<(&Bucket, i128)>> = BTreeMap::new();
        for (&bucket, &quantity) in quantities.iter().filter(|(_, quantity)| **quantity != 0) {
            segments.entry((bucket.0, bucket.1)).or_default().push((bucket, quantity));
        }
        // A ladder begins anew with a version that says so.
        let mut runs: Vec<Vec<(usize, usize)>> = Vec::new();
        for &segment in segments.keys() {
            let resets = self.documents[segment.0].charges[name].on_change == Some(OnChange::Reset);
            match runs.last_mut() {
                Some(run) if !(resets && run[run.len() - 1].0 != segment.0) => run.push(segment),
                _ => runs.push(vec![segment]),
            }
        }
        let mut costs = Vec::new();
        for run in &runs {
            let charge_of = |segment: &(usize, usize)| &self.documents[segment.0].charges[name];
            let units_of = |segment: &(usize, usize)| {
                units(charge_of(segment), segments[segment].iter().map(|(_, quantity)| quantity).sum())
            };
            let end = run.iter().fold(whole(0), |sum, segment| sum + units_of(segment));
            let mut position = whole(0);
            for (n, segment) in run.iter().enumerate() {
                let ladder = Ladder::of(charge_of(segment), segment.1);
                let to = &position + units_of(segment);
                let mut cost = ladder.between(&position, &to, &end);
                if n + 1 == run.len() {
                    cost += ladder.volume_fee(&end);
                }
                costs.push(cost);
                position = to;
            }
        }
        let total = costs.iter().fold(BigRational::zero(), |sum, cost| sum + cost);
        let shares = largest_remainder(&round(&total), &costs);
        let mut result: BTreeMap<&Bucket, BigRational> = quantities.keys().map(|bucket| (*bucket, whole(0))).collect();
        for (members, share) in segments.into_values().zip(shares) {
            let all: i128 = members.iter().map(|(_, quantity)| quantity).sum();
            let parts: Vec<BigRational> =
                members.iter().map(|(_, quantity)| &share * fraction(*quantity, all)).collect();
            for ((bucket, _), part) in members.iter().zip(largest_remainder(&share, &parts)) {
                result.insert(bucket, part);
            }
        }
        result
    }

    /// What a supplier earns by rates of its own, over its own quantity.
    fn own_amounts(&self, name: &str, supplier: &str, paid: &BTreeMap<&Bucket, i128>) -> BigRational {
        let mut runs: Vec<Vec<(&Bucket, i128)>> = Vec::new();
        for (&bucket, &quantity) in paid.iter().filter(|(bucket, quantity)| bucket.2 == supplier && **quantity != 0) {
            if self.own_rate(name, bucket).is_none() {
                continue;
            }
            let resets = self.documents[bucket.0].charges[name].on_change == Some(OnChange::Reset);
            match runs.last_mut() {
                Some(run) if !(resets && run[run.len() - 1].0.0 != bucket.0) => run.push((bucket, quantity)),
                _ => runs.push(vec![(bucket, quantity)]),
            }
        }
        let mut sum = whole(0);
        for run in runs {
            let units_of = |bucket: &Bucket, quantity| units(&self.documents[bucket.0].charges[name], quantity);
            let end = run.iter().fold(whole(0), |sum, (bucket, quantity)| sum + units_of(bucket, *quantity));
            let mut position = whole(0);
            for (n, (bucket, quantity)) in run.iter().enumerate() {
                let Some(ladder) = self.own_rate(name, bucket) else { continue };
                let to = &position + units_of(bucket, *quantity);
                sum += ladder.between(&position, &to, &end);
                if n + 1 == run.len() {
                    sum += ladder.volume_fee(&end);
                }
                position = to;
            }
        }
        sum
    }

    fn own_rate(&self, name: &str, bucket: &Bucket) -> Option<Ladder> {
        let suppliers = &self.documents[bucket.0].suppliers;
        let terms =
            suppliers.iter().find(|s| s.supplier == bucket.2).or(suppliers.iter().find(|s| s.supplier == "*"))?;
        terms.rates.get(name).map(Ladder::own)
    }

    fn share(&self, bucket: &Bucket) -> BigRational {
        let suppliers = &self.documents[bucket.0].suppliers;
        let terms = suppliers.iter().find(|s| s.supplier == bucket.2).or(suppliers.iter().find(|s| s.supplier == "*"));
        let percent = terms.and_then(|terms| terms.share_percent.as_ref()).map_or_else(BigRational::zero, decimal);
        percent / whole(100)
    }

    fn dues(
        &self,
        period: &str,
        usage: &[Use],
        states: &BTreeMap<Place, BTreeMap<Bucket, Counted>>,
        outcome: &mut Outcome,
    ) {
        // How many seconds of the period each version is in force.
        let seconds = self.clock.seconds(period);
        let all = whole(i128::from(seconds.1 - seconds.0));
        let mut in_force: BTreeMap<usize, i64> = BTreeMap::new();
        for n in 0..self.documents.len() {
            let from = second_of(&self.documents[n].effective).max(seconds.0);
            let to = self.documents.get(n + 1).map_or(seconds.1, |next| second_of(&next.effective).min(seconds.1));
            if from < to {
                in_force.insert(n, to - from);
            }
        }
        let names: BTreeSet<&String> = in_force.keys().flat_map(|&n| self.documents[n].charges.keys()).collect();
        // By charge and version, for percentages.
        let mut spent: BTreeMap<(String, usize), BigRational> = BTreeMap::new();
        for (place, cells) in states.iter().filter(|(place, _)| place.1 == period) {
            let billed: BTreeMap<&Bucket, i128> = cells.iter().map(|(bucket, counted)| (bucket, counted.0)).collect();
            for (bucket, amount) in self.shared_out(&place.0, &billed) {
                *spent.entry((place.0.clone(), bucket.0)).or_insert_with(BigRational::zero) += amount;
            }
        }
        let owe = |kind: &str, charge: &str, subject: &str, amount: BigRational, outcome: &mut Outcome| {
            let of = (kind.to_owned(), charge.to_owned(), period.to_owned(), subject.to_owned());
            *outcome.dues.entry(of).or_insert_with(BigRational::zero) += amount;
        };

        for &name in &names {
            // The versions that climb one ladder together: in the period, or in each hour of an hourly commitment.
            let mut ladders: Vec<(Option<i64>, Vec<usize>)> = Vec::new();
            let is_hourly = |charge: &Charge| charge.commitment.as_ref().is_some_and(|c| c.per == CommitmentPer::Hour);
            let hours = seconds.0.div_euclid(3_600)..(seconds.1 + 3_599).div_euclid(3_600);
            let stretches = hours
                .filter(|hour| hour * 3_600 >= seconds.0)
                .map(|hour| (Some(hour), hour * 3_600, (hour + 1) * 3_600));
            for (hour, begin, end) in stretches.chain([(None, seconds.0, seconds.1)]) {
                let mut own: Vec<Vec<usize>> = Vec::new();
                for n in 0..self.documents.len() {
                    let from = second_of(&self.documents[n].effective).max(begin);
                    let to = self.documents.get(n + 1).map_or(end, |next| second_of(&next.effective).min(end));
                    let Some(charge) = self.documents[n].charges.get(name).filter(|charge| is_metered(charge)) else {
                        continue;
                    };
                    if from >= to || is_hourly(charge) != hour.is_some() {
                        continue;
                    }
                    match own.last_mut() {
                        Some(ladder) if charge.on_change != Some(OnChange::Reset) => ladder.push(n),
                        _ => own.push(vec![n]),
                    }
                }
                ladders.extend(own.into_iter().map(|ladder| (hour, ladder)));
            }
            for (hour, ladder) in ladders {
                let last = ladder[ladder.len() - 1];
                let charge = &self.documents[last].charges[name];
                let resources: BTreeSet<String> = if charge.scope.unwrap_or_default() == Scope::Contract {
                    BTreeSet::from([String::new()])
                } else {
                    let is_used = |cells: &BTreeMap<Bucket, Counted>| {
                        cells.iter().any(|(bucket, counted)| counted.0 != 0 && ladder.contains(&bucket.0))
                    };
                    let with_usage = states.iter().filter(|(p, cells)| p.0 == *name && p.1 == period && is_used(cells));
                    let with_usage = with_usage.map(|(p, _)| p.3.clone());
                    with_usage.chain(self.leased(usage, charge, &ladder, seconds, period)).collect()
                };
                for resource in resources {
                    let place = (name.clone(), period.to_owned(), hour, resource.clone());
                    let cells = states.get(&place);
                    let here = cells.into_iter().flatten().filter(|(bucket, _)| ladder.contains(&bucket.0));
                    let used = units(charge, here.map(|(_, counted)| counted.0).sum());
                    let function = Ladder::of(charge, 0);
                    let mut due = whole(0);
                    if let Some(commitment) = charge.commitment.as_ref().filter(|c| c.true_up != Some(false)) {
                        let committed = decimal(&commitment.quantity);
                        if used < committed {
                            due = round(&(function.total(&committed) - function.total(&used)));
                        }
                    }
                    if due.is_positive() {
                        owe("true_up", name, &resource, due.clone(), outcome);
                        *spent.entry((name.clone(), last)).or_insert_with(BigRational::zero) += due;
                    } else if charge.flat_at_zero == Some(true)
                        && used <= charge.free.as_ref().map_or(whole(0), decimal)
                    {
                        let first = charge.graduated.first().or(charge.volume.first());
                        let flat = first.and_then(|tier| tier.flat.as_ref()).map_or(whole(0), decimal);
                        owe("flat_at_zero", name, &resource, round(&flat), outcome);
                        *spent.entry((name.clone(), last)).or_insert_with(BigRational::zero) += round(&flat);
                    }
                }
            }
        }

        for fee in self.fees(usage, seconds) {
            let amount = round(&fee.amount);
            owe("fee", &fee.charge, &fee.subject, amount.clone(), outcome);
            *spent.entry((fee.charge, fee.version)).or_insert_with(BigRational::zero) += amount;
        }

        let share = |n: &usize| whole(i128::from(in_force[n])) / &all;
        let bound = |spent: &BigRational, least: Vec<Option<BigRational>>, most: Vec<Option<BigRational>>| {
            let minimum = least.into_iter().flatten().fold(whole(0), |sum, part| sum + part);
            if minimum > *spent {
                return Some(("minimum_spend", round(&(minimum - spent))));
            }
            let maximum = most.into_iter().collect::<Option<Vec<_>>>().filter(|parts| !parts.is_empty())?;
            let maximum = maximum.into_iter().fold(whole(0), |sum, part| sum + part);
            (maximum < *spent).then(|| ("maximum_spend", round(&(maximum - spent))))
        };
        for &name in &names {
            let having: Vec<usize> =
                in_force.keys().copied().filter(|n| self.documents[*n].charges.contains_key(name)).collect();
            let of = |field: fn(&Charge) -> Option<&hydrometer_schemas::contract::Decimal>| {
                let part =
                    |n: &usize| field(&self.documents[*n].charges[name]).map(|amount| decimal(amount) * share(n));
                having.iter().map(part).collect::<Vec<_>>()
            };
            let sum = spent.iter().filter(|((of, _), _)| of == name).fold(whole(0), |sum, (_, amount)| sum + amount);
            if let Some((kind, amount)) =
                bound(&sum, of(|c| c.minimum_spend.as_ref()), of(|c| c.maximum_spend.as_ref()))
            {
                owe(kind, name, "", amount.clone(), outcome);
                *spent.entry((name.clone(), having[having.len() - 1])).or_insert_with(BigRational::zero) += amount;
            }
        }
        let sum = spent.values().fold(whole(0), |sum, amount| sum + amount);
        let least =
            in_force.keys().map(|n| self.documents[*n].minimum_spend.as_ref().map(|a| decimal(a) * share(n))).collect();
        let most =
            in_force.keys().map(|n| self.documents[*n].maximum_spend.as_ref().map(|a| decimal(a) * share(n))).collect();
        if let Some((kind, amount)) = bound(&sum, least, most) {
            owe(kind, "", "", amount, outcome);
        }
        for &n in in_force.keys() {
            for (name, charge) in self.documents[n].charges.iter().filter(|(_, c)| c.basis == Basis::Percentage) {
                let is_of = |other: &String| {
                    if charge.of.is_empty() {
                        self.documents[n].charges.get(other).is_some_and(is_metered)
                    } else {
                        charge.of.contains(other)
                    }
                };
                let base =
                    spent.iter().filter(|((of, v), _)| *v == n && is_of(of)).fold(whole(0), |sum, (_, a)| sum + a);
                let percent = charge.percent.as_ref().map_or_else(BigRational::zero, decimal);
                owe("percentage", name, "", round(&(base * percent / whole(100))), outcome);
            }
        }
    }

    /// Recurring fees for the seconds of each version (of a lease, for those that it was held), and one-off ones where they begin.
    fn fees(&self, usage: &[Use], period: (i64, i64)) -> Vec<Fee> {
        let mut fees = Vec::new();
        for (version, document) in self.documents.iter().enumerate() {
            let begins = second_of(&document.effective);
            let from = begins.max(period.0);
            let to = self.documents.get(version + 1).map_or(period.1, |n| second_of(&n.effective).min(period.1));
            if from >= to {
                continue;
            }
            for (charge, terms) in &document.charges {
                let price = terms.price.as_ref().map_or(whole(0), decimal);
                let part = |seconds: i64| &price * fraction(i128::from(seconds), i128::from(period.1 - period.0));
                let mut add = |subject: &str, amount: BigRational| {
                    fees.push(Fee { charge: charge.clone(), version, subject: subject.to_owned(), amount });
                };
                match (terms.basis, terms.per.unwrap_or_default()) {
                    (Basis::Recurring, Per::Contract) => add("", part(to - from)),
                    (Basis::Recurring, per) => {
                        for (lease, (begin, end, slots)) in leases(usage) {
                            let held = end.min(to) - begin.max(from);
                            if held > 0 {
                                let times = if per == Per::Gpu { slots.len() as i128 } else { 1 };
                                add(lease, part(held) * whole(times));
                            }
                        }
                    }
                    (Basis::OneOff, _) => {
                        let is_first = !self.documents[..version].iter().any(|d| d.charges.contains_key(charge));
                        if is_first && begins >= period.0 {
                            add("", price);
                        }
                    }
                    _ => {}
                }
            }
        }
        fees
    }

    /// What each supplier lacks of what it is promised for a period, by the seconds that each version is in force.
    fn guarantees(&self, usage: &[Use], period: &str, outcome: &mut Outcome) {
        let seconds = self.clock.seconds(period);
        let all = i128::from(seconds.1 - seconds.0);
        let leases = leases(usage);
        let is_there =
            |row: &&Use| leases[row.lease.as_str()].0 < seconds.1 && seconds.0 < leases[row.lease.as_str()].1;
        let mut suppliers: BTreeSet<&str> = usage.iter().filter(is_there).map(|row| row.supplier.as_str()).collect();
        suppliers.extend(self.documents.iter().flat_map(|d| &d.suppliers).map(|terms| terms.supplier.as_str()));
        suppliers.remove("*");
        for supplier in suppliers {
            let mut promised = whole(0);
            for (n, document) in self.documents.iter().enumerate() {
                let from = second_of(&document.effective).max(seconds.0);
                let to = self.documents.get(n + 1).map_or(seconds.1, |n| second_of(&n.effective).min(seconds.1));
                let named = document.suppliers.iter().find(|terms| terms.supplier == supplier);
                let terms = named.or(document.suppliers.iter().find(|terms| terms.supplier == "*"));
                if let Some(least) = terms.and_then(|terms| terms.minimum_guarantee.as_ref()).filter(|_| from < to) {
                    promised += decimal(least) * fraction(i128::from(to - from), all);
                }
            }
            let earned = outcome.suppliers.iter().filter(|((_, of, who), _)| of == period && who == supplier);
            let missing = earned.fold(promised, |missing, (_, amount)| missing - amount);
            if missing.is_positive() {
                outcome.guarantees.insert((period.to_owned(), supplier.to_owned()), round(&missing));
            }
        }
    }

    /// The resources of leases that reach into a ladder's time.
    fn leased(
        &self,
        usage: &[Use],
        charge: &Charge,
        ladder: &[usize],
        seconds: (i64, i64),
        period: &str,
    ) -> BTreeSet<String> {
        let from = second_of(&self.documents[ladder[0]].effective).max(seconds.0);
        let next = self.documents.get(ladder[ladder.len() - 1] + 1);
        let to = next.map_or(seconds.1, |next| second_of(&next.effective).min(seconds.1));
        let mut resources = BTreeSet::new();
        for row in usage {
            let rows = usage.iter().filter(|other| other.lease == row.lease);
            let span = rows.fold((i64::MAX, i64::MIN), |span, r| (span.0.min(r.from), span.1.max(r.to)));
            let is_known = usage
                .iter()
                .any(|r| r.lease == row.lease && [r.from, r.to - 1].iter().any(|s| self.clock.period(*s) == period));
            if is_known && span.0 < to && from < span.1 {
                resources.insert(match charge.scope.unwrap_or_default() {
                    Scope::Contract => continue,
                    Scope::Lease => row.lease.clone(),
                    Scope::Gpu => format!("{}/{}", row.lease, row.gpu),
                    Scope::Server => row.server.clone(),
                });
            }
        }
        resources
    }
}

struct Fee {
    charge: String,
    version: usize,
    subject: String,
    amount: BigRational,
}

/// From when to when each lease was held, and its slots.
fn leases(usage: &[Use]) -> BTreeMap<&str, (i64, i64, BTreeSet<&str>)> {
    let mut leases: BTreeMap<&str, (i64, i64, BTreeSet<&str>)> = BTreeMap::new();
    for row in usage {
        let lease = leases.entry(&row.lease).or_insert((row.from, row.to, BTreeSet::new()));
        (lease.0, lease.1) = (lease.0.min(row.from), lease.1.max(row.to));
        lease.2.insert(&row.gpu);
    }
    leases
}

fn is_metered(charge: &Charge) -> bool {
    !matches!(charge.basis, Basis::Recurring | Basis::OneOff | Basis::Percentage)
}

/// What one second of a row counts, in millionths of a piece.
fn count(row: &Use, second: i64, name: &str, charge: &Charge, is_billed_maintenance: bool) -> Counted {
    let class = match &row.what {
        What::Units { charge: of, micro_units } if of == name => {
            let all = micro_units * pieces(charge);
            let until = |second: i64| all * i128::from(second - row.from) / i128::from(row.to - row.from);
            let quantity = until(second + 1) - until(second);
            return (quantity, quantity);
        }
        What::Units { .. } => return (0, 0),
        What::Class(class) => *class,
    };
    let (class, said) = class.split_once('/').unwrap_or((class, class));
    let is_counted = match charge.basis {
        Basis::Allocated => class != "suspended",
        Basis::Observed => matches!(said, "used" | "idle"),
        Basis::Busy => said == "used",
        Basis::Suspended => class == "suspended",
        _ => false,
    };
    let (billed, paid) = match class {
        _ if !is_counted => (0, 0),
        "used" | "idle" | "unknown" | "down_renter" | "suspended" => (1, 1),
        "maintenance" if is_billed_maintenance => (1, 1),
        "down_platform" => (0, 1),
        _ => (0, 0),
    };
    (billed * 1_000_000, paid * 1_000_000)
}

/// What is counted of the first `x` millionths of a piece.
fn stepped(charge: &Charge, x: i128) -> i128 {
    if x <= 0 || (charge.minimum_s.is_none() && charge.step_s.is_none()) {
        return x;
    }
    let step = i128::from(charge.step_s.unwrap_or(1)) * 1_000_000;
    let rounded = match charge.rounding.unwrap_or_default() {
        Rounding::Up => (x + step - 1) / step,
        Rounding::Down => x / step,
        Rounding::Nearest => (2 * x + step) / (2 * step),
    };
    (rounded * step).max(i128::from(charge.minimum_s.unwrap_or(0)) * 1_000_000)
}

/// Pieces in a unit of price.
fn pieces(charge: &Charge) -> i128 {
    match charge.basis {
        Basis::Allocated | Basis::Observed | Basis::Busy | Basis::Suspended => 3_600,
        Basis::Energy => 3_600_000,
        Basis::Slices => 3_600 * i128::from(charge.slices_per_card.unwrap_or(7)),
        Basis::Memory => 3_600 * 1_024 * 1_024 * 1_024,
        Basis::Recurring | Basis::OneOff | Basis::Percentage => 1,
    }
}

fn units(charge: &Charge, micros: i128) -> BigRational {
    fraction(micros, pieces(charge) * 1_000_000)
}

/// An amount in units of 1e-9, to compare with.
pub fn nanos(amount: &BigRational) -> i128 {
    nano(amount)
}
