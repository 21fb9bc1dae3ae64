//! One charge: which fields go with which basis, prices, tiers, times of the week, commitments.

use std::collections::BTreeMap;

use hydrometer_schemas::contract::{self, Basis, CommitmentPer, Decimal, OnChange, Scope, shorten};
use hydrometer_schemas::time::SECONDS_PER_HOUR;

use super::reader::Reader;
use super::{did_you_mean, shown};
use crate::money::Price;
use crate::terms::{Charge, Commitment, Micro, Overage, Pricing, Step, Tier, TimePrice};

const TIERS_MAX: usize = 100;
const TIMES_MAX: usize = 100;
const SLICES_MAX: u32 = 1_024;
/// A step or minimum of more than a year is a slip of the pen.
const STEP_S_MAX: u32 = 366 * 86_400;
const MINUTES_PER_DAY: u16 = 24 * 60;

/// `None` only where a mistake was noted.
pub(super) fn read(
    reader: &mut Reader,
    name: &str,
    document: &contract::Charge,
    all: &BTreeMap<String, contract::Charge>,
) -> Option<Charge> {
    let path = format!("charges.{name}");
    reader.identity(&path, name);
    let slices = document.slices_per_card.unwrap_or(7);
    if !(1..=SLICES_MAX).contains(&slices) {
        reader.say(format!("{path}.slices_per_card"), format!("{slices} slices"), format!("1 to {SLICES_MAX}"), "");
        return None;
    }
    let pieces_per_unit = pieces_per_unit(document.basis, slices);
    refuse_what_does_not_apply(reader, &path, document);
    let pricing = pricing(reader, &path, document, pieces_per_unit);
    let by_time = by_time(reader, &path, &document.by_time);
    let free = match &document.free {
        Some(free) => reader.units(&format!("{path}.free"), free, pieces_per_unit),
        None => Some(0),
    };
    let step = step(reader, &path, document);
    let commitment = match &document.commitment {
        Some(commitment) => self::commitment(reader, &path, document, commitment, pieces_per_unit).map(Some),
        None => Some(None),
    };
    let spend = reader.spend(&format!("{path}."), document.minimum_spend.as_ref(), document.maximum_spend.as_ref());
    if document.basis == Basis::Percentage {
        percentage_of(reader, name, document, all);
    }
    let (minimum_spend, maximum_spend) = spend?;
    Some(Charge {
        name: name.to_owned(),
        basis: document.basis,
        pieces_per_unit,
        pricing: pricing?,
        by_time: by_time?,
        free: free?,
        flat_at_zero: document.flat_at_zero.unwrap_or(false),
        step: step?,
        scope: document.scope.unwrap_or_default(),
        resets: document.on_change == Some(OnChange::Reset),
        commitment: commitment?,
        minimum_spend,
        maximum_spend,
        per: document.per.unwrap_or_default(),
        proration: document.proration.unwrap_or_default(),
        of: document.of.clone(),
    })
}

/// Counted pieces in a unit of price.
fn pieces_per_unit(basis: Basis, slices_per_card: u32) -> i128 {
    const HOUR: i128 = SECONDS_PER_HOUR as i128;
    const JOULES_PER_KWH: i128 = 3_600_000;
    const BYTES_PER_GIB: i128 = 1 << 30;
    match basis {
        Basis::Allocated | Basis::Observed | Basis::Busy | Basis::Suspended => HOUR,
        Basis::Slices => HOUR * i128::from(slices_per_card),
        Basis::Energy => JOULES_PER_KWH,
        Basis::Memory => HOUR * BYTES_PER_GIB,
        Basis::Recurring | Basis::OneOff | Basis::Percentage => 1,
    }
}

fn is_metered(basis: Basis) -> bool {
    !matches!(basis, Basis::Recurring | Basis::OneOff | Basis::Percentage)
}

/// Counted in plain seconds of one slot, so that a least time or a step of time means something.
fn is_seconds(basis: Basis) -> bool {
    matches!(basis, Basis::Allocated | Basis::Observed | Basis::Busy | Basis::Suspended)
}

/// Counted by leased time, so that "so many in each hour" means something.
fn is_leased_time(basis: Basis) -> bool {
    matches!(basis, Basis::Allocated | Basis::Observed | Basis::Busy | Basis::Slices)
}

/// A field that says nothing where it stands is a misunderstanding, and someone would rely on it: so it is refused.
fn refuse_what_does_not_apply(reader: &mut Reader, path: &str, document: &contract::Charge) {
    let basis = document.basis;
    let name = word(basis);
    let fields: [(&str, bool, bool, &str); 12] = [
        ("by_time", !document.by_time.is_empty(), is_metered(basis), "a metered basis: fees have no time of day"),
        ("free", document.free.is_some(), is_metered(basis), "a metered basis: fees have no units"),
        ("minimum_s", document.minimum_s.is_some(), is_seconds(basis), SECONDS),
        ("step_s", document.step_s.is_some(), is_seconds(basis), SECONDS),
        ("scope", document.scope.is_some(), is_metered(basis), "a metered basis: only quantities climb a ladder"),
        (
            "on_change",
            document.on_change.is_some(),
            is_metered(basis),
            "a metered basis: only quantities climb a ladder",
        ),
        (
            "commitment",
            document.commitment.is_some(),
            is_metered(basis),
            "a metered basis: a fee is a commitment itself",
        ),
        ("minimum_spend", document.minimum_spend.is_some(), is_metered(basis), SPEND),
        ("maximum_spend", document.maximum_spend.is_some(), is_metered(basis), SPEND),
        ("slices_per_card", document.slices_per_card.is_some(), basis == Basis::Slices, "basis `slices`"),
        ("per", document.per.is_some(), basis == Basis::Recurring, "basis `recurring`: what is metered knows its GPUs"),
        (
            "proration",
            document.proration.is_some(),
            basis == Basis::Recurring,
            "basis `recurring`: only a fee per period is cut",
        ),
    ];
    const SECONDS: &str = "basis `allocated`, `observed`, `busy` or `suspended`: only seconds are rounded";
    const SPEND: &str = "a metered basis; for all charges together there is the contract's own field";
    for (field, is_set, applies, expected) in fields {
        if is_set && !applies {
            reader.say(format!("{path}.{field}"), format!("does not go with basis `{name}`"), expected, "");
        }
    }
    if !document.of.is_empty() && basis != Basis::Percentage {
        let expected = "basis `percentage`: only percentages are of other charges";
        reader.say(format!("{path}.of"), format!("does not go with basis `{name}`"), expected, "");
    }

    let has_ladder = !document.graduated.is_empty()
        || !document.volume.is_empty()
        || document.package.is_some()
        || document.free.is_some()
        || document.commitment.is_some();
    let first_tier = document.graduated.first().or(document.volume.first());
    let without_ladder = [("scope", document.scope.is_some()), ("on_change", document.on_change.is_some())];
    for (field, is_set) in without_ladder {
        if is_set && is_metered(basis) && !has_ladder {
            let expected = "`graduated`, `volume`, `package`, `free` or `commitment` beside it";
            reader.say(format!("{path}.{field}"), "has nothing to act on: each unit costs the same", expected, "");
        }
    }
    if document.rounding.is_some() && document.step_s.is_none() {
        reader.say(format!("{path}.rounding"), "there is no step to round to", "`step_s` beside it", "");
    }
    if document.flat_at_zero.is_some() && first_tier.is_none_or(|tier| tier.flat.is_none()) {
        let expected = "`graduated` or `volume` whose first tier has a `flat` fee";
        reader.say(format!("{path}.flat_at_zero"), "there is no flat fee in a first tier", expected, "");
    }
    if !document.by_time.is_empty() && document.price.is_none() {
        let expected = "`price` beside it, for the rest of the week";
        reader.say(format!("{path}.by_time"), "times of the week go with a plain price only", expected, "");
    }
}

/// Exactly one kind of price, and one that the basis can have.
fn pricing(reader: &mut Reader, path: &str, document: &contract::Charge, pieces_per_unit: i128) -> Option<Pricing> {
    let kinds = [
        ("price", document.price.is_some()),
        ("graduated", !document.graduated.is_empty()),
        ("volume", !document.volume.is_empty()),
        ("package", document.package.is_some()),
        ("percent", document.percent.is_some()),
    ];
    let fitting: &[&str] = match document.basis {
        Basis::Percentage => &["percent"],
        Basis::Recurring | Basis::OneOff => &["price"],
        _ => &["price", "graduated", "volume", "package"],
    };
    let expected = match fitting {
        [one] => format!("`{one}`, as basis `{}` has it", word(document.basis)),
        _ => "exactly one of `price`, `graduated`, `volume` and `package`".to_owned(),
    };
    let given: Vec<&str> = kinds.iter().filter(|(_, is_given)| *is_given).map(|(kind, _)| *kind).collect();
    let kind = match given.as_slice() {
        [kind] => *kind,
        [] => {
            reader.say(path, "has no price", expected, "");
            return None;
        }
        several => {
            reader.say(path, format!("has {} kinds of price: {}", several.len(), several.join(", ")), expected, "");
            return None;
        }
    };
    if !fitting.contains(&kind) {
        reader.say(
            format!("{path}.{kind}"),
            format!("does not go with basis `{}`", word(document.basis)),
            expected,
            "",
        );
        return None;
    }
    if let Some(percent) = &document.percent {
        return reader.share(&format!("{path}.percent"), percent).map(Pricing::Percent);
    }
    if let Some(package) = &document.package {
        let size = reader.units(&format!("{path}.package.size"), &package.size, pieces_per_unit);
        let price = reader.price(&format!("{path}.package.price"), &package.price);
        if size == Some(0) {
            reader.say(format!("{path}.package.size"), "a package of nothing", "more than 0 units", "");
            return None;
        }
        return Some(Pricing::Package { size: size?, price: price? });
    }
    let per_unit = || document.price.as_ref();
    if !is_metered(document.basis) {
        return reader.amount(&format!("{path}.price"), per_unit()?).map(Pricing::Fee);
    }
    ladder(reader, path, per_unit(), &document.graduated, &document.volume, pieces_per_unit)
}

/// A price, a graduated or a volume list: what both sides of a contract can have. Exactly one is given.
pub(super) fn ladder(
    reader: &mut Reader,
    path: &str,
    price: Option<&Decimal>,
    graduated: &[contract::Tier],
    volume: &[contract::Tier],
    pieces_per_unit: i128,
) -> Option<Pricing> {
    if let Some(price) = price {
        return reader.price(&format!("{path}.price"), price).map(Pricing::PerUnit);
    }
    if !graduated.is_empty() {
        return tiers(reader, &format!("{path}.graduated"), graduated, pieces_per_unit).map(Pricing::Graduated);
    }
    tiers(reader, &format!("{path}.volume"), volume, pieces_per_unit).map(Pricing::Volume)
}

/// Each tier begins where the one before it ends, so a gap can only be above the last, and an overlap only where bounds do not rise.
fn tiers(reader: &mut Reader, path: &str, list: &[contract::Tier], pieces_per_unit: i128) -> Option<Vec<Tier>> {
    if !reader.at_most(path, list.len(), TIERS_MAX) {
        return None;
    }
    let mut read = Vec::new();
    let mut below: Option<(Micro, &Decimal)> = None;
    for (i, tier) in list.iter().enumerate() {
        let path = format!("{path}[{i}]");
        let bound_path = format!("{path}.up_to");
        let is_last = i + 1 == list.len();
        let up_to = match &tier.up_to {
            Some(text) => reader.units(&bound_path, text, pieces_per_unit).map(|bound| Some((bound, text))),
            None => Some(None),
        };
        match up_to {
            Some(Some((_, text))) if is_last => reader.say(
                bound_path,
                format!("the last tier ends at {}: what is above has no price (a gap)", shown(text)),
                "a last tier without `up_to`",
                "leave `up_to` out, or add one more tier",
            ),
            Some(None) if !is_last => reader.say(
                path.clone(),
                "only the last tier has no `up_to`: this one overlaps all that follow",
                "`up_to`",
                "",
            ),
            Some(Some((bound, text))) => {
                match below {
                    Some((before, before_text)) if bound <= before => reader.say(
                        bound_path,
                        format!(
                            "{} is not above the tier before it, which ends at {} (an overlap)",
                            shown(text),
                            shown(before_text)
                        ),
                        format!("more than {}", shown(before_text)),
                        "tiers stand in rising order; a bound belongs to the tier that it ends",
                    ),
                    None if bound == 0 => reader.say(bound_path, "the first tier holds no unit", "more than 0", ""),
                    _ => (),
                }
                below = Some((bound, text));
            }
            _ => (),
        }
        if tier.price.is_none() && tier.flat.is_none() {
            reader.say(
                path.clone(),
                "has neither `price` nor `flat`",
                "one of them, or both",
                "a free tier has `price: 0`",
            );
        }
        let number = |reader: &mut Reader, field: &str, text: &Option<Decimal>| match text {
            Some(text) => reader.price(&format!("{path}.{field}"), text),
            None => Some(Price::from_scaled(0)),
        };
        let price = number(reader, "price", &tier.price);
        let flat = number(reader, "flat", &tier.flat);
        read.push((|| Some(Tier { up_to: up_to?.map(|(bound, _)| bound), price: price?, flat: flat? }))());
    }
    read.into_iter().collect()
}

fn by_time(reader: &mut Reader, path: &str, list: &[contract::TimePrice]) -> Option<Vec<TimePrice>> {
    if !reader.at_most(&format!("{path}.by_time"), list.len(), TIMES_MAX) {
        return None;
    }
    let mut read: Vec<Option<TimePrice>> = Vec::new();
    for (i, range) in list.iter().enumerate() {
        let path = format!("{path}.by_time[{i}]");
        let days = days(reader, &path, &range.days);
        let from = time_of_day(reader, &format!("{path}.from"), &range.from);
        let to = time_of_day(reader, &format!("{path}.to"), &range.to);
        let price = reader.price(&format!("{path}.price"), &range.price);
        let (Some(from), Some(to)) = (from, to) else {
            read.push(None);
            continue;
        };
        if to <= from {
            reader.say(
                format!("{path}.to"),
                format!("{} is not after {}", shorten(&range.to), shorten(&range.from)),
                "a later time of the same day",
                "a range over midnight is two: one to 24:00 and one from 00:00 on",
            );
            read.push(None);
            continue;
        }
        let overlapped = read
            .iter()
            .position(|other| other.is_some_and(|other| other.days & days != 0 && from < other.to && other.from < to));
        if let Some(other) = overlapped {
            reader.say(
                path,
                format!("overlaps `by_time[{other}]`: some seconds of the week have two prices"),
                "ranges that do not overlap on any day",
                "",
            );
        }
        read.push(price.map(|price| TimePrice { days, from, to, price }));
    }
    read.into_iter().collect()
}

/// Bit 0 is Monday; no day named means every day.
fn days(reader: &mut Reader, path: &str, list: &[contract::Day]) -> u8 {
    let mut days = 0;
    for (i, day) in list.iter().enumerate() {
        let bit = 1 << (*day as u8);
        if days & bit != 0 {
            reader.say(format!("{path}.days[{i}]"), "names a day twice", "each day once", "");
        }
        days |= bit;
    }
    if list.is_empty() { 0b111_1111 } else { days }
}

/// Minutes since midnight of `HH:MM`, 00:00 to 24:00.
fn time_of_day(reader: &mut Reader, field: &str, text: &str) -> Option<u16> {
    let two_digits = |part: &str| match part.as_bytes() {
        [a, b] if a.is_ascii_digit() && b.is_ascii_digit() => Some(u16::from(a - b'0') * 10 + u16::from(b - b'0')),
        _ => None,
    };
    let minutes = text.split_once(':').and_then(|(hours, minutes)| {
        let minutes = two_digits(minutes).filter(|minutes| *minutes < 60)?;
        two_digits(hours).map(|hours| hours * 60 + minutes).filter(|minutes| *minutes <= MINUTES_PER_DAY)
    });
    if minutes.is_none() {
        reader.say(field, format!("{:?} is not a time of day", shorten(text)), "HH:MM from 00:00 to 24:00", "");
    }
    minutes
}

/// Seconds are the pieces of every basis that may have a step.
fn step(reader: &mut Reader, path: &str, document: &contract::Charge) -> Option<Option<Step>> {
    let mut in_range = |field: &str, value: Option<u32>| {
        if let Some(value) = value.filter(|value| !(1..=STEP_S_MAX).contains(value)) {
            reader.say(format!("{path}.{field}"), format!("{value} s"), format!("1 to {STEP_S_MAX} s"), "");
            return false;
        }
        true
    };
    if !(in_range("minimum_s", document.minimum_s) & in_range("step_s", document.step_s)) {
        return None;
    }
    if document.minimum_s.is_none() && document.step_s.is_none() {
        return Some(None);
    }
    Some(Some(Step {
        minimum: i64::from(document.minimum_s.unwrap_or(0)),
        step: i64::from(document.step_s.unwrap_or(1)),
        rounding: document.rounding.unwrap_or_default(),
    }))
}

fn commitment(
    reader: &mut Reader,
    path: &str,
    charge: &contract::Charge,
    document: &contract::Commitment,
    pieces_per_unit: i128,
) -> Option<Commitment> {
    let path = format!("{path}.commitment");
    let quantity = reader.units(&format!("{path}.quantity"), &document.quantity, pieces_per_unit);
    if quantity == Some(0) {
        reader.say(format!("{path}.quantity"), "commits to nothing", "more than 0 units", "");
    }
    let overage = match (&document.overage_multiplier, &document.overage_price) {
        (Some(_), Some(_)) => {
            let expected = "one of `overage_multiplier` and `overage_price`";
            reader.say(
                path.clone(),
                "overage has two prices",
                expected,
                "neither means: as much as the committed units",
            );
            None
        }
        (Some(factor), None) => reader.factor(&format!("{path}.overage_multiplier"), factor).map(Overage::Multiplier),
        (None, Some(price)) => reader.price(&format!("{path}.overage_price"), price).map(Overage::Price),
        (None, None) => Some(Overage::Multiplier(1_000_000)),
    };
    if document.per == CommitmentPer::Hour && is_metered(charge.basis) {
        let per = format!("{path}.per");
        if !is_leased_time(charge.basis) {
            let expected = "basis `allocated`, `observed`, `busy` or `slices`, or `per: period`";
            reader.say(
                per.clone(),
                format!("basis `{}` is not counted hour by hour", word(charge.basis)),
                expected,
                "",
            );
        }
        if charge.scope.is_some_and(|scope| scope != Scope::Contract) {
            let expected = "`scope: contract`, or `per: period`";
            reader.say(per.clone(), "a commitment by the hour is the whole contract's", expected, "");
        }
        let others = [
            ("graduated", !charge.graduated.is_empty()),
            ("volume", !charge.volume.is_empty()),
            ("package", charge.package.is_some()),
            ("free", charge.free.is_some()),
        ];
        for (field, _) in others.iter().filter(|(_, is_set)| *is_set) {
            let what = format!("each hour of the commitment is rated for itself, but `{field}` counts over the period");
            reader.say(per.clone(), what, "a plain `price`, or `per: period`", "");
        }
    }
    Some(Commitment {
        quantity: quantity?,
        per: document.per,
        overage: overage?,
        true_up: document.true_up.unwrap_or(true),
    })
}

/// Percentages are of charges that are not percentages themselves, so there are no cycles and no order among them.
fn percentage_of(
    reader: &mut Reader,
    name: &str,
    document: &contract::Charge,
    all: &BTreeMap<String, contract::Charge>,
) {
    for (i, of) in document.of.iter().enumerate() {
        let field = format!("charges.{name}.of[{i}]");
        let expected = "a charge of this contract that is no percentage";
        match all.get(of) {
            None => {
                let hint = did_you_mean(of, all.keys().map(String::as_str));
                reader.say(field, format!("there is no charge {:?}", shorten(of)), expected, hint);
            }
            Some(other) if other.basis == Basis::Percentage => {
                let what =
                    if of == name { "is a percentage of itself".to_owned() } else { format!("{of:?} is a percentage") };
                reader.say(field, what, expected, "");
            }
            Some(_) if document.of[..i].contains(of) => {
                reader.say(field, format!("names {of:?} twice"), "each charge once", "")
            }
            Some(_) => (),
        }
    }
    if document.of.is_empty() && !all.values().any(|charge| is_metered(charge.basis)) {
        reader.say(
            format!("charges.{name}.of"),
            "there is no metered charge to take a percentage of",
            "`of`, with names of charges",
            "",
        );
    }
}

fn word(basis: Basis) -> &'static str {
    match basis {
        Basis::Allocated => "allocated",
        Basis::Observed => "observed",
        Basis::Busy => "busy",
        Basis::Suspended => "suspended",
        Basis::Energy => "energy",
        Basis::Slices => "slices",
        Basis::Memory => "memory",
        Basis::Recurring => "recurring",
        Basis::OneOff => "one_off",
        Basis::Percentage => "percentage",
    }
}

/// What a charge of this document is counted in, for the supplier's own rates; `None` where it is not metered.
pub(super) fn metered_pieces_per_unit(document: &contract::Charge) -> Option<i128> {
    is_metered(document.basis).then(|| pieces_per_unit(document.basis, document.slices_per_card.unwrap_or(7)))
}
