//! What an event's data must look like, beyond its types: names, slots, slices, spans. Whether it agrees with other events is a
//! question to the history.

use serde_json::Value;

use super::{GrantKind, Kind, SLICES_MAX, SLOTS_MAX, WalletKey, nanos, shorten};
use crate::IDENTITY_BYTES_MAX;
use crate::contract::{Contract, Decimal};
use crate::time::{Second, show_second};

/// Longest attribute of the envelope, in bytes.
const ATTRIBUTE_BYTES_MAX: usize = 256;

/// An attribute of the envelope that must be there.
pub(super) fn attribute(name: &str, value: Option<String>) -> Result<String, String> {
    let text = value.ok_or_else(|| format!("{name} is missing"))?;
    name_of(name, &text, ATTRIBUTE_BYTES_MAX)?;
    Ok(text)
}

impl Kind {
    pub(super) fn check(&self) -> Result<(), String> {
        match self {
            Kind::ServerRegistered { server, supplier, slots, slices_per_card } => {
                identity("server", server)?;
                identity("supplier", supplier)?;
                count("slots", *slots, SLOTS_MAX)?;
                slices_per_card.map_or(Ok(()), |slices| count("slices_per_card", slices, SLICES_MAX))
            }
            Kind::GpuRegistered { server, slot, gpu } => {
                identity("server", server)?;
                identity("gpu", gpu)?;
                slot_number(*slot)
            }
            Kind::ServerProvisioned { server }
            | Kind::ServerDecommissioned { server }
            | Kind::ServerUnreachable { server }
            | Kind::ServerReachable { server } => identity("server", server),
            Kind::GpuReplaced { server, slot, old, new } => {
                identity("server", server)?;
                identity("old", old)?;
                identity("new", new)?;
                slot_number(*slot)
            }
            Kind::GpuRecovered { server, gpu } => {
                identity("server", server)?;
                identity("gpu", gpu)
            }
            Kind::LeaseReserved { lease, contract, server, slots, slices, from, to } => {
                lease_terms(lease, contract, server, slots, *slices)?;
                stretch(*from, *to)
            }
            Kind::LeaseStarted { lease, contract, server, slots, slices } => {
                lease_terms(lease, contract, server, slots, *slices)
            }
            Kind::LeaseSuspended { lease } | Kind::LeaseResumed { lease } | Kind::LeaseEnded { lease } => {
                identity("lease", lease)
            }
            Kind::LeaseRepartitioned { lease, slices } => {
                identity("lease", lease)?;
                count("slices", *slices, SLICES_MAX)
            }
            Kind::MaintenanceAnnounced { maintenance, server, slots, from, to } => {
                identity("maintenance", maintenance)?;
                identity("server", server)?;
                optional_slots(slots)?;
                stretch(*from, *to)
            }
            Kind::MaintenanceStarted { maintenance, server, slots } => {
                identity("maintenance", maintenance)?;
                identity("server", server)?;
                optional_slots(slots)
            }
            Kind::MaintenanceEnded { maintenance } => identity("maintenance", maintenance),
            Kind::OutageOpened { outage, server, slots, fault: _ } => {
                identity("outage", outage)?;
                identity("server", server)?;
                optional_slots(slots)
            }
            Kind::OutageClosed { outage, .. } | Kind::OutageFaulted { outage, .. } => identity("outage", outage),
            Kind::ContractSigned { document } | Kind::ContractAmended { document } => self::document(document),
            Kind::ContractRenewed { contract, ends: _ } | Kind::ContractTerminated { contract } => {
                identity("contract", contract)
            }
            Kind::PriceChanged { contract, charge, price } => {
                identity("contract", contract)?;
                identity("charge", charge)?;
                identity("price", &price.0)
            }
            Kind::WalletGranted(grant) => {
                wallet(&grant.wallet)?;
                identity("grant", &grant.grant)?;
                amount(&grant.amount)?;
                match grant.kind {
                    GrantKind::Paid => source(&grant.source)?,
                    // Nothing is posted from it.
                    GrantKind::Promotional => identity("source", &grant.source)?,
                    GrantKind::Opening => {
                        return Err("an opening balance is taken over by a command, not by an event".into());
                    }
                }
                match (grant.counts_from, &grant.made_by) {
                    (None, None) => Ok(()),
                    _ => Err("counts_from and made_by are for Hydrometer to say; leave them out".into()),
                }
            }
            Kind::WalletDebited(_)
            | Kind::WalletExhausted { .. }
            | Kind::WalletCreditReached { .. }
            | Kind::WalletRestored(_) => {
                Err("events of this type are recorded by Hydrometer itself and not taken from a topic".into())
            }
        }
    }
}

fn wallet(wallet: &WalletKey) -> Result<(), String> {
    identity("renter", &wallet.renter)?;
    let currency = &wallet.currency;
    if (3..=12).contains(&currency.len()) && currency.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit()) {
        Ok(())
    } else {
        Err(format!("currency {currency:?} is not a code such as USD"))
    }
}

/// The most that an event may grant, in units of the currency: so that no number of them comes near what the ledger can add up.
const GRANT_MAX: i128 = 1_000_000_000_000_000;

fn amount(amount: &Decimal) -> Result<(), String> {
    match nanos(amount).filter(|nanos| *nanos <= GRANT_MAX * 1_000_000_000) {
        Some(_) => Ok(()),
        None => Err(format!(
            "amount {:?} is not a positive decimal of at most 9 decimals, up to {GRANT_MAX}",
            shorten(amount.0.clone())
        )),
    }
}

/// Accounts that money can come from by an event: those of rails and banks, which nothing else opens as another type of account.
fn source(source: &str) -> Result<(), String> {
    identity("source", source)?;
    let parts: Vec<&str> = source.split(':').collect();
    let is_rail = matches!(parts.first(), Some(&("rail" | "bank")))
        && parts.len() >= 3
        && parts.iter().all(|part| !part.trim().is_empty());
    if is_rail || source == "clearing" {
        Ok(())
    } else {
        Err(format!(
            "source {source:?} is neither `clearing` nor an account such as rail:card:clearing or bank:first:cash"
        ))
    }
}

fn lease_terms(lease: &str, contract: &str, server: &str, slots: &[u32], slices: Option<u32>) -> Result<(), String> {
    identity("lease", lease)?;
    identity("contract", contract)?;
    identity("server", server)?;
    slot_list(slots)?;
    slices.map_or(Ok(()), |slices| count("slices", slices, SLICES_MAX))
}

fn identity(field: &str, text: &str) -> Result<(), String> {
    name_of(field, text, IDENTITY_BYTES_MAX)
}

fn name_of(field: &str, text: &str, bytes_max: usize) -> Result<(), String> {
    if text.trim().is_empty() {
        Err(format!("{field} is empty or blank"))
    } else if text.len() > bytes_max {
        Err(format!("{field} is longer than {bytes_max} bytes"))
    } else if text.bytes().any(|b| b.is_ascii_control()) {
        // PostgreSQL's text holds no NUL, and nobody's names should hold the like.
        Err(format!("{field} holds a control character"))
    } else {
        Ok(())
    }
}

fn count(field: &str, number: u32, most: u32) -> Result<(), String> {
    if (1..=most).contains(&number) { Ok(()) } else { Err(format!("{field} must be 1 to {most}, not {number}")) }
}

fn slot_number(slot: u32) -> Result<(), String> {
    if slot < SLOTS_MAX { Ok(()) } else { Err(format!("slot {slot} is not below {SLOTS_MAX}")) }
}

fn optional_slots(slots: &Option<Vec<u32>>) -> Result<(), String> {
    slots.as_deref().map_or(Ok(()), slot_list)
}

fn slot_list(slots: &[u32]) -> Result<(), String> {
    if slots.is_empty() {
        return Err("slots is empty".into());
    }
    slots.iter().try_for_each(|slot| slot_number(*slot))?;
    let mut sorted = slots.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() == slots.len() { Ok(()) } else { Err("slots names a slot twice".into()) }
}

fn stretch(from: Second, to: Second) -> Result<(), String> {
    if from < to {
        Ok(())
    } else {
        Err(format!("to ({}) does not lie after from ({})", show_second(to), show_second(from)))
    }
}

/// The names by which everything else refers to a contract, and what no database takes. The rest is the contract's own check, whose
/// outcome is a verdict: a document with a mistake is kept as it came.
fn document(document: &Contract) -> Result<(), String> {
    identity("document.contract", &document.contract)?;
    identity("document.renter", &document.renter)?;
    let value = serde_json::to_value(document).map_err(|e| format!("document: {e}"))?;
    if holds_nul(&value) { Err("document holds a NUL character".into()) } else { Ok(()) }
}

fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(holds_nul),
        Value::Object(fields) => fields.iter().any(|(name, value)| name.contains('\0') || holds_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}
