//! Explanations as people read them.

use std::fmt::Write;

use serde_json::Value;

use super::draw::LEGEND;
use super::due::DueFact;
use super::facts::{Booking, CommitFact, EventFact, MinuteFact, RecordLine, StepFact, Totals};
use super::lease::LeaseExplanation;
use super::record::{Computation, RecordExplanation, Stored};
use super::transaction::TransactionExplanation;

/// Lines under headings.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn line(&mut self, text: impl AsRef<str>) {
        self.text.push_str(text.as_ref().trim_end());
        self.text.push('\n');
    }

    fn heading(&mut self, text: impl AsRef<str>) {
        self.text.push('\n');
        self.line(text);
    }

    fn field(&mut self, name: &str, value: impl AsRef<str>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "  {name:<12} {}", value.as_ref());
    }
}

pub fn record(e: &RecordExplanation) -> String {
    let mut page = Page::default();
    let (line, currency) = (&e.line, &e.currency);
    page.line(format!("record {}: {} of contract {}, revision {}", line.record, line.kind, e.contract, line.revision));
    page.field("renter", format!("{:>20} {currency}  {}", line.renter_amount, e.renter));
    page.field("supplier", format!("{:>20} {currency}  {}", line.supplier_amount, e.supplier));
    page.field("commission", format!("{:>20} {currency}", e.commission));
    page.field("window", format!("[{}, {})", line.window_start, line.window_end));
    page.field("lease", place(line, e.server.as_deref()));

    page.field("charge", format!("{}, billing period from {}", e.charge, e.period_start));
    if let Some(c) = &e.computation {
        computation(&mut page, e, c);
    }
    if let Some(d) = &e.due {
        due(&mut page, d);
    }
    booked(&mut page, e.booked.as_ref());
    if e.due.is_none() {
        page.heading("seconds");
        seconds(&mut page, &e.seconds);
    }
    minutes(&mut page, e);
    events(&mut page, &e.events);
    committed(&mut page, e.committed.iter());
    stored(&mut page, &e.stored);

    page.heading(format!("all revisions of this lease, slot, window and charge ({})", e.revisions.len()));
    records(&mut page, &e.revisions, Some(&line.record));
    page.field("together", sums(&e.window));
    page.text
}

pub fn transaction(e: &TransactionExplanation) -> String {
    let mut page = Page::default();
    page.line(format!("transaction {}: {}", e.booking.transaction, e.booking.description));
    booking(&mut page, &e.booking);
    for step in &e.steps {
        let resource = if step.resource.is_empty() { String::new() } else { format!(" of {}", step.resource) };
        page.heading(format!("step of {} / {}{resource}, from {}", step.contract, step.charge, step.period_start));
        self::step(&mut page, step);
    }
    if let Some(d) = &e.due {
        due(&mut page, d);
    }
    page.heading(format!("records that it books: {}, the largest {}", e.totals.records, e.records.len()));
    records(&mut page, &e.records, None);
    page.field("together", sums(&e.totals));
    committed(&mut page, e.commits.iter());
    next(&mut page, e.records.first());
    page.text
}

pub fn lease(e: &LeaseExplanation) -> String {
    let mut page = Page::default();
    let at = e.at.as_ref().map(|at| format!(" at {at}")).unwrap_or_default();
    page.line(format!("lease {}{at}", e.lease));
    match &e.terms {
        Some(terms) => {
            page.field("contract", &terms.contract);
            page.field("server", format!("{}, slots {:?}", terms.server, terms.slots));
            page.field("supplier", terms.supplier.as_deref().unwrap_or("not known yet"));
            page.field("leased", format!("[{}, {})", terms.from, terms.to.as_deref().unwrap_or("still going on")));
            for (from, to) in &terms.suspended {
                page.field("suspended", format!("[{from}, {})", to.as_deref().unwrap_or("still")));
            }
        }
        None => page.field("contract", "not known: no accepted event starts this lease"),
    }
    page.heading(format!("rated: {} records, the latest {}", e.totals.records, e.records.len()));
    records(&mut page, &e.records, None);
    page.field("together", sums(&e.totals));
    seconds(&mut page, &e.totals);
    events(&mut page, &e.events);
    next(&mut page, e.records.first());
    page.text
}

fn next(page: &mut Page, first: Option<&RecordLine>) {
    if let Some(line) = first {
        page.heading(format!("next: hydrometer explain {}", line.record));
    }
}

fn place(line: &RecordLine, server: Option<&str>) -> String {
    let Some(lease) = &line.lease else {
        let what = if line.kind == "adjustment" {
            "money of a step that no record carries"
        } else {
            "it fell due at a closing"
        };
        return format!("none: {what}");
    };
    let slot = line.slot.map(|slot| format!(" slot {slot}")).unwrap_or_default();
    let gpu = line.gpu.as_deref().unwrap_or("no GPU known");
    format!("{lease} on {}{slot}, {gpu}", server.unwrap_or("?"))
}

fn computation(page: &mut Page, e: &RecordExplanation, c: &Computation) {
    let time = if c.segment == 0 { String::new() } else { format!(", time of the week {}", c.segment) };
    page.heading(format!("how: {} by terms in force from {} (rate {}{time})", e.charge, c.version_from, c.rate));
    let counted = |quantity: i64| format!("{quantity} {}", e.line.basis);
    let unit = c.unit.unwrap_or("unit");
    let pieces = c.pieces_per_unit.as_deref().unwrap_or("1");
    let carried = |remainder: &Option<String>| match remainder.as_deref() {
        None | Some("0") => String::new(),
        Some(more) => format!(", {more} of the ninth decimal from the step's rounding"),
    };
    match (&c.price, &c.renter_exact) {
        (Some(price), Some(exact)) => {
            page.field("price", format!("{price} per {unit} of {pieces} {}", e.line.basis));
            let how = format!("{price} × {} ÷ {pieces} = {exact}", counted(e.line.quantity));
            page.field("renter", format!("{how}{}", carried(&c.renter_remainder)));
        }
        _ => {
            page.field("price", "depends on the place on the ladder");
            page.field("renter", format!("a share by quantity ({}) of the step below", counted(e.line.quantity)));
        }
    }
    match (&c.price, &c.supplier_share_percent, &c.supplier_exact) {
        (Some(price), Some(share), Some(exact)) => {
            let how = format!("{price} × {share} % × {} ÷ {pieces} = {exact}", counted(e.line.paid_quantity));
            page.field("supplier", format!("{how}{}", carried(&c.supplier_remainder)));
        }
        (_, Some(share), _) => {
            let how = format!(
                "a share by quantity ({}) of the step below, which is {share} %",
                counted(e.line.paid_quantity)
            );
            page.field("supplier", how);
        }
        _ => page.field("supplier", format!("by a rate of its own, for {}", counted(e.line.paid_quantity))),
    }
    let whose = if c.resource.is_empty() { "the whole contract's" } else { c.resource.as_str() };
    page.field("ladder", format!("of {whose} usage from {}, as it stands now:", c.ladder_start));
    for line in &c.ladder {
        let overage = if line.overage { ", beyond the commitment" } else { "" };
        let flat = if line.flat == "0" { String::new() } else { format!(" + {}", line.flat) };
        let (units, part, price, amount) = (&line.units, &line.part, &line.price, &line.renter_amount);
        page.field("", format!("{units:>14} {unit}s, {part}{overage}, @ {price}{flat} = {amount}"));
    }
    match &c.step {
        Some(step) => {
            page.line(format!("  the commit's step in this cell's total, shared by {} records:", c.records_of_step));
            self::step(page, step);
        }
        None => page.line(
            "  no step: nothing of it is billed or paid, or the commit's records of this cell cancel each other out",
        ),
    }
}

fn due(page: &mut Page, due: &DueFact) {
    page.heading(format!("why: {}", due.why));
    page.field("kind", due.kind);
    for (name, text) in [("charge", &due.charge), ("subject", &due.subject), ("supplier", &due.supplier)] {
        if !text.is_empty() {
            page.field(name, text);
        }
    }
    page.field("of", format!("[{}, {}), billing period from {}", due.start, due.end, due.billing_start));
    page.field("booked", format!("in the billing period from {}", due.booked_start));
    page.field("renter", format!("{} → {}", due.renter_amount_before, due.renter_amount_after));
    page.field("supplier", format!("{} → {}", due.supplier_amount_before, due.supplier_amount_after));
    for step in &due.steps {
        let mark = if step.commit == due.commit { "*" } else { " " };
        let (at, renter, supplier) = (&step.at, &step.renter_amount_after, &step.supplier_amount_after);
        page.line(format!("{mark} {at}  renter {renter}  supplier {supplier}  {}", step.why));
    }
    page.heading(format!("rating states of the time, as they stand now ({})", due.states.len()));
    for s in &due.states {
        let resource = if s.resource.is_empty() { String::new() } else { format!(" of {}", s.resource) };
        page.line(format!(
            "  {}{resource} from {}: billed {}, paid {}, renter {}, supplier {}",
            s.charge, s.period_start, s.billed, s.paid, s.renter_amount, s.supplier_amount
        ));
    }
    page.heading(format!("leases of the billing period, as they stand now ({})", due.leases.len()));
    for l in &due.leases {
        page.line(format!(
            "  {} on {}: leased {} s, maintenance {}, suspended {}, down {} (the platform's fault {}, the renter's {})",
            l.lease, l.server, l.leased_s, l.maintenance_s, l.suspended_s, l.down_s, l.down_platform_s, l.down_renter_s
        ));
    }
    for c in &due.closings {
        page.heading(format!("closing {} of the period at {} by {}", c.number, c.at, c.closed_by));
        for accepted in c.accepted.as_array().into_iter().flatten().filter_map(Value::as_str) {
            page.field("accepted", accepted);
        }
        if let Some(why) = c.why.as_ref().filter(|why| !why.is_empty()) {
            page.field("because", why);
        }
    }
}

fn step(page: &mut Page, step: &StepFact) {
    page.field("billed", format!("{} → {}", step.billed_before, step.billed_after));
    page.field("", format!("{} → {}", step.renter_amount_before, step.renter_amount_after));
    page.field("paid", format!("{} → {}", step.paid_before, step.paid_after));
    page.field("", format!("{} → {}", step.supplier_amount_before, step.supplier_amount_after));
    page.field("booked", format!("in the billing period from {}", step.booked_start));
}

fn booked(page: &mut Page, booked: Option<&Booking>) {
    match booked {
        Some(b) => {
            page.heading(format!("booked by transaction {}", b.transaction));
            booking(page, b);
        }
        None => page.heading("booked: nothing, the step moved no money"),
    }
}

fn booking(page: &mut Page, b: &Booking) {
    page.field("kind", &b.kind);
    page.field("effective", &b.effective_at);
    page.field("booked", &b.booked_at);
    if let Some(corrects) = &b.corrects {
        page.field("corrects", format!("transaction {corrects}"));
    }
    for t in &b.transfers {
        page.field("transfer", format!("{:>20} {}  Dr {}  Cr {}", t.amount, t.currency, t.debit, t.credit));
    }
}

fn seconds(page: &mut Page, t: &Totals) {
    page.field(
        "leased",
        format!(
            "{} s = used {} + idle {} + unknown {} + maintenance {} + down {} + suspended {}; billed {}, paid {}",
            t.leased_s, t.used_s, t.idle_s, t.unknown_s, t.maintenance_s, t.down_s, t.suspended_s, t.billed_s, t.paid_s
        ),
    );
    if (t.down_platform_s, t.down_renter_s) != (0, 0) {
        let (platform, renter) = (t.down_platform_s, t.down_renter_s);
        page.field("", format!("of the down time {platform} s by the platform's fault, {renter} s by the renter's"));
    }
}

fn sums(t: &Totals) -> String {
    format!(
        "renter {}, supplier {}, commission {}; billed {} s, paid {} s",
        t.renter_amount, t.supplier_amount, t.commission, t.billed_s, t.paid_s
    )
}

fn minutes(page: &mut Page, e: &RecordExplanation) {
    let Some(gpu) = &e.line.gpu else { return };
    page.heading(format!("minutes of {gpu} ({LEGEND})"));
    for minute in &e.minutes {
        page.line(minute_line(minute));
    }
}

/// The hour and minute, the drawing, the counts, and where the bits came from.
fn minute_line(m: &MinuteFact) -> String {
    let origins: Vec<String> = m
        .origins
        .iter()
        .map(|o| {
            let revision = if o.revision > 0 { format!(" r{}", o.revision) } else { String::new() };
            format!("{}/{} {}..{}{revision}", o.topic, o.partition, o.first_offset, o.last_offset)
        })
        .collect();
    let clock = m.minute.get(11..16).unwrap_or(&m.minute);
    format!("  {clock} {} {:>2}+ {:>2}#  {}", m.drawn, m.present_s, m.busy_s, origins.join(", "))
}

fn events(page: &mut Page, events: &[EventFact]) {
    page.heading(format!("lifecycle events ({})", events.len()));
    for e in events {
        let verdict = e.verdict.as_ref().map(|v| format!("  NOT APPLIED: {v}")).unwrap_or_default();
        page.line(format!(
            "  {} {:<22} {}  {}/{} offset {}  {}{verdict}",
            e.time,
            e.kind.strip_prefix("gpu.").unwrap_or(&e.kind),
            e.id,
            e.topic,
            e.partition,
            e.offset,
            short(&e.data)
        ));
    }
}

/// `lease=l-1 slots=[0,1]`
fn short(data: &Value) -> String {
    let Value::Object(fields) = data else { return data.to_string() };
    let parts = fields.iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| match value {
        Value::String(text) => format!("{name}={text}"),
        other => format!("{name}={other}"),
    });
    parts.collect::<Vec<_>>().join(" ")
}

fn committed<'a>(page: &mut Page, commits: impl Iterator<Item = &'a CommitFact>) {
    for commit in commits {
        page.heading(format!("committed {} by {} ({}), commit {}", commit.at, commit.worker, commit.kind, commit.id));
        for p in commit.partitions.as_array().into_iter().flatten() {
            let number = |name: &str| p.get(name).and_then(Value::as_i64).unwrap_or_default();
            page.line(format!(
                "  {}/{} epoch {} round {}, offsets [{}, {}), frontier {} → {}",
                p.get("topic").and_then(Value::as_str).unwrap_or("?"),
                number("partition"),
                number("epoch"),
                number("round"),
                number("next_from"),
                number("next_to"),
                hydrometer_schemas::time::show_second(number("frontier_from")),
                hydrometer_schemas::time::show_second(number("frontier_to")),
            ));
        }
    }
}

fn stored(page: &mut Page, stored: &[Stored]) {
    page.heading("stored");
    for s in stored {
        let until = s.object.as_deref().unwrap_or("the commit point");
        match (&s.file, s.published) {
            (Some(file), true) => page.field("file", file),
            (Some(file), false) => page.field("owed", format!("{file}, until then in {until}")),
            (None, _) => page.field("staged", until),
        }
    }
}

fn records(page: &mut Page, records: &[RecordLine], this: Option<&str>) {
    for r in records {
        let mark = if this == Some(r.record.as_str()) { '*' } else { ' ' };
        let slot = r.slot.map(|slot| format!("slot {slot}")).unwrap_or_default();
        page.line(format!(
            "{mark} {} {:<10} {} r{} [{}, {}) {slot:<7} {:>6} {}  renter {:>16}  supplier {:>16}  {}",
            r.record,
            r.kind,
            r.charge,
            r.revision,
            r.window_start,
            r.window_end,
            r.quantity,
            r.basis,
            r.renter_amount,
            r.supplier_amount,
            r.gpu.as_deref().unwrap_or("")
        ));
    }
}
