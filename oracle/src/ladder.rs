//! What a stretch of units costs: each point on a ladder has a price, and each tier or package that is entered a fee.

use hydrometer_schemas::contract::{Charge, Decimal, SupplierRate, Tier};
use num_rational::BigRational;
use num_traits::Signed;

use crate::numbers::{decimal, whole};

pub struct Ladder {
    price: Option<BigRational>,
    /// Begin, price, flat.
    tiers: Vec<(BigRational, BigRational, BigRational)>,
    is_volume: bool,
    package: Option<(BigRational, BigRational)>,
    free: BigRational,
    /// Committed units, and what is beyond: times so much, or a price of its own.
    commitment: Option<(BigRational, Option<BigRational>, Option<BigRational>)>,
}

impl Ladder {
    pub fn of(charge: &Charge, time: usize) -> Ladder {
        let by_time = time.checked_sub(1).and_then(|n| charge.by_time.get(n)).map(|range| decimal(&range.price));
        let list = if charge.graduated.is_empty() { &charge.volume } else { &charge.graduated };
        Ladder {
            price: by_time.or(charge.price.as_ref().map(decimal)),
            tiers: tiers(list),
            is_volume: !charge.volume.is_empty(),
            package: charge.package.as_ref().map(|package| (decimal(&package.size), decimal(&package.price))),
            free: charge.free.as_ref().map_or(whole(0), decimal),
            commitment: charge.commitment.as_ref().map(|c| {
                let price = c.overage_price.as_ref().map(decimal);
                let times = c.overage_multiplier.as_ref().map(decimal).or(price.is_none().then(|| whole(1)));
                (decimal(&c.quantity), times, price)
            }),
        }
    }

    pub fn own(rate: &SupplierRate) -> Ladder {
        let list = if rate.graduated.is_empty() { &rate.volume } else { &rate.graduated };
        Ladder {
            price: rate.price.as_ref().map(decimal),
            tiers: tiers(list),
            is_volume: !rate.volume.is_empty(),
            package: None,
            free: whole(0),
            commitment: None,
        }
    }

    pub fn total(&self, x: &BigRational) -> BigRational {
        self.between(&whole(0), x, x) + self.volume_fee(x)
    }

    /// What the units from `a` to `b` cost, of `end` in all; without a volume tier's flat fee.
    pub fn between(&self, a: &BigRational, b: &BigRational, end: &BigRational) -> BigRational {
        let mut edges = vec![a.clone(), b.clone(), self.free.clone()];
        edges.extend(self.tiers.iter().map(|(begin, _, _)| begin + &self.free));
        edges.extend(self.commitment.iter().map(|(committed, _, _)| committed.clone()));
        edges.retain(|edge| a <= edge && edge <= b);
        edges.sort();
        let mut cost = whole(0);
        for pair in edges.windows(2) {
            let middle = (&pair[0] + &pair[1]) / whole(2);
            cost += (&pair[1] - &pair[0]) * self.price_at(&middle, end);
        }
        // What is entered in this stretch: at a point that it holds, and goes beyond.
        let fee = |at: BigRational, fee: &BigRational| {
            if *a <= at && at < *b { fee * self.times_at(&at) } else { whole(0) }
        };
        if !self.is_volume {
            for (begin, _, flat) in &self.tiers {
                cost += fee(begin + &self.free, flat);
            }
        }
        if let Some((size, price)) = &self.package {
            let mut k = ((a - &self.free) / size).floor().max(whole(0));
            while &k * size + &self.free < *b {
                cost += fee(&k * size + &self.free, price);
                k += whole(1);
            }
        }
        cost
    }

    pub fn volume_fee(&self, end: &BigRational) -> BigRational {
        match self.tier(&(end - &self.free)) {
            Some((_, _, flat)) if self.is_volume && *end > self.free => flat.clone(),
            _ => whole(0),
        }
    }

    fn price_at(&self, x: &BigRational, end: &BigRational) -> BigRational {
        if let Some((committed, _, Some(price))) = &self.commitment
            && x > committed
        {
            return price.clone();
        }
        if *x < self.free {
            return whole(0);
        }
        let at = if self.is_volume { end - &self.free } else { x - &self.free };
        let tier_price = || self.tier(&at).map(|(_, price, _)| price.clone());
        let price = self.price.clone().or_else(tier_price).unwrap_or_else(|| whole(0));
        price * self.times_at(x)
    }

    /// How often fees and prices count at a point.
    fn times_at(&self, x: &BigRational) -> BigRational {
        match &self.commitment {
            Some((committed, times, _)) if x >= committed => times.clone().unwrap_or_else(|| whole(0)),
            _ => whole(1),
        }
    }

    /// The tier of `x` units, which are above zero: the last one that begins below.
    fn tier(&self, x: &BigRational) -> Option<&(BigRational, BigRational, BigRational)> {
        self.tiers.iter().rev().find(|(begin, _, _)| begin < x || (!x.is_positive() && begin == x))
    }
}

fn tiers(list: &[Tier]) -> Vec<(BigRational, BigRational, BigRational)> {
    let number = |text: &Option<Decimal>| text.as_ref().map_or(whole(0), decimal);
    let mut begin = whole(0);
    let mut tiers = Vec::new();
    for tier in list {
        tiers.push((begin.clone(), number(&tier.price), number(&tier.flat)));
        begin = number(&tier.up_to);
    }
    tiers
}
