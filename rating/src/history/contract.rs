//! One pass over the events of a contract, in their own order: its versions, gapless while it is in force, and a verdict on each event.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::sync::Arc;

use hydrometer_schemas::contract::Contract;
use hydrometer_schemas::lifecycle::{EventKey, Kind, WalletKey};
use hydrometer_schemas::time::{FOREVER, Second, show_second};

use super::Verdict;
use super::span::{Dated, Span};
use crate::terms::{Rate, RateId, Terms, compile, contradicts};

/// A contract's terms from one second to another. No second lies in two versions, and while the contract is in force none between two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub span: Span,
    pub terms: Arc<Terms>,
}

impl Version {
    /// The wallet that its use burns; none while it is postpaid.
    pub fn wallet(&self) -> Option<WalletKey> {
        let Terms { renter, currency, prepaid, .. } = &*self.terms;
        prepaid.map(|_| WalletKey { renter: renter.clone(), currency: currency.clone() })
    }
}

impl Dated for Version {
    fn span(&self) -> Span {
        self.span
    }
}

/// Longest reason that names a document's mistakes, in bytes.
const MISTAKES_BYTES_MAX: usize = 1_000;

/// Terms that were compiled once, since a document costs more than all the rest of a fold. Rates stay for good: the states of periods
/// long gone name those that an amendment has replaced.
#[derive(Debug, Default)]
pub(super) struct Compiled {
    by_event: HashMap<EventKey, Outcome>,
    rates: HashMap<RateId, Arc<Rate>>,
}

/// What an event made of the terms before it.
#[derive(Debug)]
struct Outcome {
    /// `None`: they had no say in it.
    before: Option<Arc<Terms>>,
    terms: Result<Arc<Terms>, String>,
}

impl Compiled {
    pub(super) fn rate(&self, id: RateId) -> Option<&Arc<Rate>> {
        self.rates.get(&id)
    }

    /// What an event makes of the terms before it (`None`: they have no say in it).
    fn terms(
        &mut self,
        key: &EventKey,
        before: Option<&Arc<Terms>>,
        compile: impl FnOnce() -> Result<Terms, String>,
    ) -> Result<Arc<Terms>, String> {
        if let Some(known) = self.by_event.get(key) {
            let is_same = match (&known.before, before) {
                (Some(known), Some(before)) => Arc::ptr_eq(known, before),
                (None, None) => true,
                _ => false,
            };
            if is_same {
                return known.terms.clone();
            }
        }
        let terms = compile().map(Arc::new);
        if let Ok(terms) = &terms {
            self.rates.extend(terms.rates().map(|rate| (rate.id, rate.clone())));
        }
        self.by_event.insert(key.clone(), Outcome { before: before.cloned(), terms: terms.clone() });
        terms
    }
}

/// Folds a contract. The versions are a function of its events alone; `compiled` only saves work.
pub(super) fn fold(
    events: &BTreeMap<EventKey, Kind>,
    compiled: &mut Compiled,
) -> (Vec<Version>, BTreeMap<EventKey, Verdict>) {
    let mut fold = Fold { versions: Vec::new(), compiled };
    let verdicts = events.iter().map(|(key, kind)| (key.clone(), fold.apply(key, kind).err())).collect();
    let mut versions = fold.versions;
    // Of versions that begin in one second only the last has any time.
    versions.retain(|version| version.span.from < version.span.to);
    (versions, verdicts)
}

struct Fold<'a> {
    versions: Vec<Version>,
    compiled: &'a mut Compiled,
}

impl Fold<'_> {
    fn apply(&mut self, key: &EventKey, kind: &Kind) -> Result<(), String> {
        let at = key.time;
        match kind {
            Kind::ContractSigned { document } => {
                if let Some(version) = self.in_force(at).filter(|version| version.span.from < at) {
                    let since = show_second(version.span.from);
                    return Err(format!("the contract is in force since {since}: a change is a gpu.contract.amended"));
                }
                let terms = self.read(key, document)?;
                self.begin(at, terms)
            }
            Kind::ContractAmended { document } => {
                let terms = self.read(key, document)?;
                let before = self.in_force(at).ok_or_else(|| self.not_in_force(at))?;
                let contradictions = contradicts(&before.terms, &terms);
                if !contradictions.is_empty() {
                    return Err(in_one_line("the amendment contradicts the contract", &contradictions));
                }
                self.begin(at, terms)
            }
            Kind::PriceChanged { charge, price, .. } => {
                let before = self.in_force(at).cloned().ok_or_else(|| self.not_in_force(at))?;
                let change = || before.terms.with_price(charge, &price.0, at).map_err(|m| in_one_line("", &[m]));
                let terms = self.compiled.terms(key, Some(&before.terms), change)?;
                self.push(Version { span: Span { from: at, to: before.span.to }, terms });
                Ok(())
            }
            Kind::ContractRenewed { ends, .. } => self.renew(at, *ends),
            Kind::ContractTerminated { .. } => {
                if self.in_force(at).is_none() {
                    return Err(self.not_in_force(at));
                }
                if let Some(last) = self.versions.last_mut() {
                    last.span.to = at;
                }
                Ok(())
            }
            _ => Err("not an event of a contract".into()),
        }
    }

    /// The terms of a document, which begin when its event says.
    fn read(&mut self, key: &EventKey, document: &Contract) -> Result<Arc<Terms>, String> {
        let read = || compile(document).map_err(|mistakes| in_one_line("the document has mistakes", &mistakes));
        let terms = self.compiled.terms(key, None, read)?;
        if terms.effective == key.time {
            Ok(terms)
        } else {
            let (event, document) = (show_second(key.time), show_second(terms.effective));
            Err(format!("the event's time ({event}) is not the document's `effective` ({document})"))
        }
    }

    fn in_force(&self, at: Second) -> Option<&Version> {
        self.versions.last().filter(|version| version.span.holds(at))
    }

    fn not_in_force(&self, at: Second) -> String {
        match self.versions.last() {
            Some(last) if last.span.to <= at => format!("the contract ended at {}", show_second(last.span.to)),
            _ => "the contract is not signed before this time".into(),
        }
    }

    fn begin(&mut self, at: Second, terms: Arc<Terms>) -> Result<(), String> {
        let to = end_of(&terms);
        if to <= at {
            return Err(format!("its term ends at {}, before it begins", show_second(to)));
        }
        self.push(Version { span: Span { from: at, to }, terms });
        Ok(())
    }

    fn push(&mut self, next: Version) {
        if let Some(last) = self.versions.last_mut() {
            last.span.to = last.span.to.min(next.span.from);
        }
        self.versions.push(next);
    }

    /// The version in force goes on: its text stays, only its end moves. In the very second of its end it can still be renewed.
    fn renew(&mut self, at: Second, ends: Second) -> Result<(), String> {
        let refusal = self.not_in_force(at);
        let in_time = |version: &&mut Version| version.span.from <= at && at <= version.span.to;
        let last = self.versions.last_mut().filter(in_time).ok_or(refusal)?;
        let Some(term) = last.terms.term else {
            return Err("the contract has no term: it runs until it is terminated".into());
        };
        if ends <= term.ends || ends <= at {
            let known = show_second(term.ends.max(at));
            return Err(format!("the term would end at {}, which is not after {known}", show_second(ends)));
        }
        let mut terms = Terms::clone(&last.terms);
        terms.term = Some(crate::terms::Term { ends, ..term });
        if let Some(written) = &mut terms.document.term {
            written.ends = show_second(ends);
        }
        last.span.to = end_of(&terms);
        last.terms = Arc::new(terms);
        Ok(())
    }
}

/// When a version ends if nothing else happens. An automatic renewal extends it again and again.
fn end_of(terms: &Terms) -> Second {
    terms.term.filter(|term| term.renewal_months.is_none()).map_or(FOREVER, |term| term.ends)
}

/// All mistakes, or as many as a reason has room for.
fn in_one_line<M: Display>(introduction: &str, mistakes: &[M]) -> String {
    let mut line = String::new();
    let mut named = 0;
    for mistake in mistakes {
        let text: String = mistake.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if line.len() + text.len() > MISTAKES_BYTES_MAX {
            break;
        }
        line += if named == 0 { "" } else { "; " };
        line += &text;
        named += 1;
    }
    let left = mistakes.len() - named;
    let more = if left > 0 { format!("{}{left} more", if named == 0 { "" } else { "; and " }) } else { String::new() };
    let separator = if introduction.is_empty() { "" } else { ": " };
    format!("{introduction}{separator}{line}{more}")
}
