use super::*;
use crate::money::{Amount, Price};
use crate::terms::{MICRO, Overage, Pricing, RateId, SupplierSide, contradicts};
use hydrometer_schemas::contract::{CommitmentPer, Proration};
use hydrometer_schemas::time::show_second;
use serde_json::{Value, json};

fn base() -> Value {
    json!({
        "contract": "c", "effective": "2026-03-01T00:00:00-08:00", "renter": "r", "currency": "USD",
        "time_zone": "America/Los_Angeles",
        "charges": { "gpu": { "basis": "allocated", "price": "2.50" } }
    })
}

/// The base document with other values in some places; `null` takes a field away.
fn with(patches: &[(&str, Value)]) -> Contract {
    let mut document = base();
    for (pointer, value) in patches {
        let (parent, last) = pointer.rsplit_once('/').unwrap();
        let map = document.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        if value.is_null() {
            map.remove(last);
        } else {
            map.insert(last.to_owned(), value.clone());
        }
    }
    serde_json::from_value(document).unwrap()
}

fn terms(patches: &[(&str, Value)]) -> Terms {
    compile(&with(patches)).unwrap()
}

fn charge(document: Value) -> Contract {
    with(&[("/charges/gpu", document)])
}

/// The mistakes, each as `field: what`.
fn mistakes(document: &Contract) -> Vec<String> {
    let mistakes = compile(document).expect_err("a mistake is expected");
    for mistake in &mistakes {
        assert!(!mistake.field.is_empty() && !mistake.what.is_empty() && !mistake.expected.is_empty(), "{mistake}");
    }
    mistakes.iter().map(Mistake::to_string).collect()
}

/// One mistake, at `field`, that speaks of `part`.
#[track_caller]
fn refused(document: &Contract, field: &str, part: &str) {
    let mistakes = mistakes(document);
    assert_eq!(mistakes.len(), 1, "{mistakes:#?}");
    assert!(mistakes[0].starts_with(&format!("{field}: ")) && mistakes[0].contains(part), "{}", mistakes[0]);
}

#[test]
fn defaults_are_filled_in() {
    let terms = terms(&[("/time_zone", Value::Null)]);
    assert_eq!(show_second(terms.effective), "2026-03-01T08:00:00Z");
    assert_eq!(terms.calendar.zone, chrono_tz::UTC);
    assert_eq!((terms.calendar.day, terms.rating_window), (1, RatingWindow::Hour));
    assert_eq!(terms.unknown_tolerance, Share::parse_percent("1").unwrap());
    let charge = &terms.charges["gpu"];
    assert_eq!(charge.pricing, Pricing::PerUnit(Price::parse("2.5").unwrap()));
    assert_eq!((charge.pieces_per_unit, charge.proration), (3_600, Proration::Second));
    let rate = terms.rate("gpu", "anyone").unwrap();
    assert_eq!(rate.supplier, SupplierSide::Share(Share::from_scaled(0)));
    assert!(terms.rate("nothing", "anyone").is_none());
}

#[test]
fn a_prepaid_contract_is_rated_by_the_minute() {
    let prepaid = |window: Value| {
        terms(&[("/prepaid", json!({"on_exhaustion": "suspend"})), ("/rating_window", window)]).rating_window
    };
    assert_eq!(prepaid(Value::Null), RatingWindow::Minute);
    assert_eq!(prepaid(json!("hour")), RatingWindow::Hour);
}

#[test]
fn quantities_become_millionths_of_pieces() {
    let document = charge(json!({
        "basis": "slices", "slices_per_card": 7, "free": "0.000001",
        "graduated": [{"up_to": "5.001", "price": "1"}, {"flat": "3"}],
        "commitment": {"quantity": "500", "per": "period", "overage_multiplier": "1.5"}
    }));
    let terms = compile(&document).unwrap();
    let charge = &terms.charges["gpu"];
    assert_eq!(charge.pieces_per_unit, 7 * 3_600);
    assert_eq!(charge.free, 7 * 3_600);
    let Pricing::Graduated(tiers) = &charge.pricing else { panic!("graduated") };
    assert_eq!(tiers[0].up_to, Some(5_001_000 * 7 * 3_600));
    assert_eq!((tiers[1].up_to, tiers[1].price.scaled(), tiers[1].flat), (None, 0, Price::parse("3").unwrap()));
    let commitment = charge.commitment.unwrap();
    assert_eq!(commitment.quantity, 500 * 7 * 3_600 * MICRO);
    assert_eq!((commitment.overage, commitment.per), (Overage::Multiplier(1_500_000), CommitmentPer::Period));
    assert!(commitment.true_up);
    for (basis, pieces) in [("energy", 3_600_000), ("memory", 3_600 << 30), ("busy", 3_600), ("suspended", 3_600)] {
        let terms = compile(&charge_of(basis)).unwrap();
        assert_eq!(terms.charges["gpu"].pieces_per_unit, pieces);
    }
}

fn charge_of(basis: &str) -> Contract {
    charge(json!({"basis": basis, "price": "1"}))
}

#[test]
fn every_mistake_is_named_at_once() {
    let document = with(&[
        ("/contract", json!("")),
        ("/effective", json!("2026-02-30T00:00:00Z")),
        ("/renter", json!("x".repeat(65))),
        ("/currency", json!("USd")),
        ("/time_zone", json!("America/Los_Angles")),
        ("/charges", json!({"a": {"basis": "allocated"}, "b": {"basis": "percentage", "percent": "101", "of": ["A"]}})),
        ("/sla", json!({"tiers": []})),
    ]);
    let fields: Vec<String> = compile(&document).unwrap_err().into_iter().map(|mistake| mistake.field).collect();
    let expected = [
        "currency",
        "contract",
        "effective",
        "renter",
        "time_zone",
        "charges.a",
        "charges.b.percent",
        "charges.b.of[0]",
        "sla.tiers",
    ];
    assert_eq!(fields, expected);
}

#[test]
fn names_and_times() {
    refused(&with(&[("/renter", json!("a\u{0}"))]), "renter", "control character");
    refused(&with(&[("/currency", json!("EUD"))]), "currency", "did you mean EUR?");
    refused(&with(&[("/currency", json!("XAU"))]), "currency", "not a currency in use");
    refused(&with(&[("/time_zone", json!("America/Los_Angles"))]), "time_zone", "did you mean America/Los_Angeles?");
    for (text, part) in [
        ("2026-03-01T00:00:00", "has no zone"),
        ("2026-03-01", "a date without a time"),
        ("2026-02-29T00:00:00Z", "no date and time of the calendar"),
        ("2026-03-01T24:00:00Z", "no date and time of the calendar"),
        ("2026-03-01T00:00:00.5Z", "whole second"),
        ("1969-12-31T23:59:59Z", "out of range"),
        ("next week", "not a time"),
    ] {
        refused(&with(&[("/effective", json!(text))]), "effective", part);
    }
    refused(&with(&[("/calendar", json!({"day": 29}))]), "calendar.day", "29");
    refused(&with(&[("/note", json!("a\u{0}"))]), "note", "control character");
}

#[test]
fn amounts_are_no_finer_than_the_minor_unit() {
    let minimum =
        |currency: &str, amount: &str| with(&[("/currency", json!(currency)), ("/minimum_spend", json!(amount))]);
    refused(&minimum("JPY", "0.5"), "minimum_spend", "the minor unit of JPY has 0 digits");
    refused(&minimum("USD", "10.001"), "minimum_spend", "at most 2 digits");
    refused(&minimum("KWD", "10.0001"), "minimum_spend", "at most 3 digits");
    refused(&minimum("USD", "-1"), "minimum_spend", "out of range");
    refused(&minimum("USD", "1000000000000.01"), "minimum_spend", "out of range");
    refused(&minimum("USD", &"9".repeat(60)), "minimum_spend", "out of range");
    assert_eq!(compile(&minimum("KWD", "10.001")).unwrap().minimum_spend, Amount::parse("10.001").ok());
    assert_eq!(compile(&minimum("JPY", "500.00")).unwrap().minimum_spend, Amount::parse("500").ok());

    let price = |price: &str| charge(json!({"basis": "allocated", "price": price}));
    compile(&price("0.000000000001")).unwrap();
    compile(&price("1000000000")).unwrap();
    refused(&price("0.0000000000001"), "charges.gpu.price", "too many digits");
    refused(&price("1000000000.000000000001"), "charges.gpu.price", "out of range");
    refused(&price("1e3"), "charges.gpu.price", "not a plain decimal");
    refused(&charge(json!({"basis": "recurring", "price": "9.999"})), "charges.gpu.price", "at most 2 digits");
    refused(
        &with(&[("/maximum_spend", json!("1")), ("/minimum_spend", json!("2"))]),
        "maximum_spend",
        "below the least",
    );
    refused(&with(&[("/unknown_tolerance_percent", json!("100.1"))]), "unknown_tolerance_percent", "out of range");
}

#[test]
fn one_kind_of_price_that_fits_the_basis() {
    for (document, field, part) in [
        (json!({"basis": "allocated"}), "charges.gpu", "has no price"),
        (
            json!({"basis": "allocated", "price": "1", "package": {"size": "1", "price": "1"}}),
            "charges.gpu",
            "2 kinds of price: price, package",
        ),
        (
            json!({"basis": "recurring", "graduated": [{"price": "1"}]}),
            "charges.gpu.graduated",
            "does not go with basis `recurring`",
        ),
        (json!({"basis": "one_off", "percent": "5"}), "charges.gpu.percent", "does not go"),
        (json!({"basis": "allocated", "percent": "5"}), "charges.gpu.percent", "does not go"),
        (json!({"basis": "allocated", "package": {"size": "0", "price": "1"}}), "charges.gpu.package.size", "nothing"),
    ] {
        refused(&charge(document), field, part);
    }
}

#[test]
fn fields_go_with_a_basis() {
    for (basis, field, value) in [
        ("recurring", "free", json!("1")),
        ("recurring", "by_time", json!([{"from": "00:00", "to": "08:00", "price": "1"}])),
        ("energy", "step_s", json!(60)),
        ("slices", "minimum_s", json!(60)),
        ("one_off", "scope", json!("lease")),
        ("recurring", "on_change", json!("reset")),
        ("recurring", "commitment", json!({"quantity": "1", "per": "period"})),
        ("recurring", "minimum_spend", json!("1")),
        ("one_off", "maximum_spend", json!("1")),
        ("allocated", "slices_per_card", json!(7)),
        ("allocated", "per", json!("gpu")),
        ("one_off", "proration", json!("second")),
        ("allocated", "of", json!(["gpu"])),
    ] {
        let mut document = json!({"basis": basis, "price": "1"});
        document[field] = value;
        refused(&charge(document), &format!("charges.gpu.{field}"), &format!("does not go with basis `{basis}`"));
    }
    let plain = |field: &str, value: Value| {
        let mut document = json!({"basis": "allocated", "price": "1"});
        document[field] = value;
        charge(document)
    };
    refused(&plain("scope", json!("lease")), "charges.gpu.scope", "nothing to act on");
    refused(&plain("on_change", json!("reset")), "charges.gpu.on_change", "nothing to act on");
    refused(&plain("rounding", json!("down")), "charges.gpu.rounding", "no step");
    refused(&plain("flat_at_zero", json!(true)), "charges.gpu.flat_at_zero", "no flat fee");
    refused(&plain("step_s", json!(0)), "charges.gpu.step_s", "0 s");
    refused(
        &charge(json!({"basis": "slices", "price": "1", "slices_per_card": 0})),
        "charges.gpu.slices_per_card",
        "0 slices",
    );
}

#[test]
fn tiers_have_no_gap_and_no_overlap() {
    let graduated = |tiers: Value| charge(json!({"basis": "allocated", "graduated": tiers}));
    refused(
        &graduated(json!([{"up_to": "10", "price": "1"}, {"up_to": "10.0", "price": "2"}, {"price": "3"}])),
        "charges.gpu.graduated[1].up_to",
        "overlap",
    );
    refused(&graduated(json!([{"up_to": "10", "price": "1"}])), "charges.gpu.graduated[0].up_to", "a gap");
    refused(&graduated(json!([{"price": "1"}, {"price": "2"}])), "charges.gpu.graduated[0]", "overlaps");
    refused(
        &graduated(json!([{"up_to": "0", "price": "1"}, {"price": "2"}])),
        "charges.gpu.graduated[0].up_to",
        "no unit",
    );
    refused(&graduated(json!([{"up_to": "1"}, {"price": "2"}])), "charges.gpu.graduated[0]", "neither");
    refused(
        &graduated(json!([{"up_to": "1.0000001", "price": "1"}, {"price": "2"}])),
        "charges.gpu.graduated[0].up_to",
        "too many digits",
    );
    let many: Vec<Value> = (1..=101).map(|i| json!({"up_to": i.to_string(), "price": "1"})).collect();
    refused(&graduated(json!(many)), "charges.gpu.graduated", "101 of them");
}

#[test]
fn times_of_the_week() {
    let by_time = |ranges: Value| charge(json!({"basis": "allocated", "price": "1", "by_time": ranges}));
    let terms = compile(&by_time(json!([
        {"days": ["mon", "fri"], "from": "08:00", "to": "20:00", "price": "2"},
        {"days": ["mon"], "from": "20:00", "to": "24:00", "price": "3"},
        {"days": ["tue"], "from": "08:00", "to": "20:00", "price": "4"}
    ])))
    .unwrap();
    let times = &terms.charges["gpu"].by_time;
    assert_eq!((times[0].days, times[0].from, times[0].to), (0b001_0001, 480, 1_200));
    assert_eq!((times[1].days, times[1].to), (1, 1_440));

    let range = |from: &str, to: &str| json!({"from": from, "to": to, "price": "2"});
    refused(&by_time(json!([range("22:00", "06:00")])), "charges.gpu.by_time[0].to", "over midnight");
    refused(&by_time(json!([range("08:00", "08:60")])), "charges.gpu.by_time[0].to", "HH:MM");
    refused(&by_time(json!([range("8:00", "09:00")])), "charges.gpu.by_time[0].from", "HH:MM");
    refused(&by_time(json!([range("08:00", "24:01")])), "charges.gpu.by_time[0].to", "HH:MM");
    refused(
        &by_time(json!([range("08:00", "10:00"), {"days": ["sun"], "from": "09:59", "to": "11:00", "price": "3"}])),
        "charges.gpu.by_time[1]",
        "overlaps `by_time[0]`",
    );
    refused(
        &by_time(json!([{"days": ["sun", "sun"], "from": "09:59", "to": "11:00", "price": "3"}])),
        "charges.gpu.by_time[0].days[1]",
        "twice",
    );
    let tiers = json!({"basis": "allocated", "graduated": [{"price": "1"}], "by_time": [range("08:00", "09:00")]});
    refused(&charge(tiers), "charges.gpu.by_time", "plain price only");
}

#[test]
fn commitments() {
    let committed = |commitment: Value, more: Value| {
        let mut document = json!({"basis": "allocated", "price": "2", "commitment": commitment});
        for (field, value) in more.as_object().unwrap() {
            document[field] = value.clone();
        }
        charge(document)
    };
    let hourly = || json!({"quantity": "8", "per": "hour"});
    let terms = compile(&committed(hourly(), json!({}))).unwrap();
    assert!(terms.charges["gpu"].is_hourly());
    assert_eq!(terms.charges["gpu"].commitment.unwrap().overage, Overage::Multiplier(1_000_000));

    let field = "charges.gpu.commitment";
    let both = json!({"quantity": "8", "per": "period", "overage_multiplier": "1.5", "overage_price": "3"});
    refused(&committed(both, json!({})), field, "two prices");
    let nothing = json!({"quantity": "0", "per": "period"});
    refused(&committed(nothing, json!({})), "charges.gpu.commitment.quantity", "nothing");
    let per = "charges.gpu.commitment.per";
    refused(&committed(hourly(), json!({"scope": "lease"})), per, "whole contract");
    refused(&committed(hourly(), json!({"basis": "energy"})), per, "hour by hour");
    refused(&committed(hourly(), json!({"free": "3"})), per, "`free` counts over the period");
    let factor = json!({"quantity": "8", "per": "period", "overage_multiplier": "1001"});
    refused(&committed(factor, json!({})), "charges.gpu.commitment.overage_multiplier", "0 to 1000");
}

#[test]
fn percentages_have_no_cycles() {
    let support = |of: Value| with(&[("/charges/support", json!({"basis": "percentage", "percent": "10", "of": of}))]);
    compile(&support(json!(["gpu"]))).unwrap();
    compile(&support(json!([]))).unwrap();
    refused(&support(json!(["gp"])), "charges.support.of[0]", "did you mean gpu?");
    refused(&support(json!(["support"])), "charges.support.of[0]", "of itself");
    refused(&support(json!(["gpu", "gpu"])), "charges.support.of[1]", "twice");
    let nothing = with(&[("/charges", json!({"support": {"basis": "percentage", "percent": "10"}}))]);
    refused(&nothing, "charges.support.of", "no metered charge");
}

#[test]
fn suppliers_sides() {
    let suppliers = |list: Value| with(&[("/suppliers", list)]);
    let terms = compile(&suppliers(json!([
        {"supplier": "*", "share_percent": "70"},
        {"supplier": "s", "share_percent": "80", "rates": {"gpu": {"price": "1.90"}}}
    ])))
    .unwrap();
    assert_eq!(terms.rate("gpu", "other").unwrap().supplier, SupplierSide::Share(Share::parse_percent("70").unwrap()));
    let own = SupplierSide::Own(Pricing::PerUnit(Price::parse("1.9").unwrap()));
    assert_eq!(terms.rate("gpu", "s").unwrap().supplier, own, "a rate of its own comes before a share");

    let twice = json!([{"supplier": "s", "share_percent": "80"}, {"supplier": "s", "share_percent": "30"}]);
    refused(&suppliers(twice), "suppliers[1].supplier", "sum to 110 %");
    for (entry, field, part) in [
        (json!({"supplier": "s", "share_percent": "101"}), "share_percent", "out of range"),
        (json!({"supplier": "", "share_percent": "1"}), "supplier", "is empty"),
        (json!({"supplier": "s", "rates": {"gpus": {"price": "1"}}}), "rates.gpus", "did you mean gpu?"),
        (json!({"supplier": "s", "rates": {"gpu": {}}}), "rates.gpu", "has no price"),
        (
            json!({"supplier": "s", "rates": {"gpu": {"price": "1", "volume": [{"price": "1"}]}}}),
            "rates.gpu",
            "2 kinds",
        ),
        (json!({"supplier": "s", "share_percent": "1", "holdback_percent": "5"}), "holdback_days", "never be released"),
        (json!({"supplier": "s", "share_percent": "1", "holdback_days": 5}), "holdback_days", "nothing is held back"),
        (json!({"supplier": "s", "minimum_guarantee": "0.001"}), "minimum_guarantee", "too many digits"),
    ] {
        refused(&suppliers(json!([entry])), &format!("suppliers[0].{field}"), part);
    }
    refused(&suppliers(json!([{"supplier": "s"}])), "suppliers[0]", "does not say");
    let fee = with(&[
        ("/charges/fee", json!({"basis": "recurring", "price": "5"})),
        ("/suppliers", json!([{"supplier": "s", "rates": {"fee": {"price": "1"}}}])),
    ]);
    refused(&fee, "suppliers[0].rates.fee", "not metered");
}

#[test]
fn payment_term_and_service_level() {
    for (field, value, at, part) in [
        ("prepaid", json!({"on_exhaustion": "grace"}), "prepaid.grace_s", "how long"),
        ("prepaid", json!({"on_exhaustion": "suspend", "grace_s": 5}), "prepaid.grace_s", "no grace"),
        ("prepaid", json!({"on_exhaustion": "credit"}), "prepaid.credit_limit", "how much"),
        ("prepaid", json!({"on_exhaustion": "suspend", "credit_limit": "5"}), "prepaid.credit_limit", "no credit"),
        ("postpaid", json!({"credit_limit": "5.001"}), "postpaid.credit_limit", "too many digits"),
        ("term", json!({"ends": "2026-03-01T00:00:00-08:00"}), "term.ends", "ends before"),
        ("term", json!({"ends": "2027-03-01T00:00:00"}), "term.ends", "no zone"),
        ("term", json!({"ends": "2027-03-01T00:00:00Z", "renewal": "automatic"}), "term.renewal_months", "how long"),
        ("term", json!({"ends": "2027-03-01T00:00:00Z", "renewal_months": 12}), "term.renewal_months", "no automatic"),
        ("term", json!({"ends": "2027-03-01T00:00:00Z", "notice_days": 30}), "term.notice_days", "no notice"),
        (
            "term",
            json!({"ends": "2027-03-01T00:00:00Z", "early_termination": {}}),
            "term.early_termination",
            "no price",
        ),
        (
            "term",
            json!({"ends": "2027-03-01T00:00:00Z", "early_termination": {"fee": "1", "remaining_percent": "1"}}),
            "term.early_termination",
            "two prices",
        ),
        ("maintenance", json!({"announced": "allowance"}), "maintenance.allowance_hours", "how much"),
        (
            "maintenance",
            json!({"announced": "free", "allowance_hours": "4"}),
            "maintenance.allowance_hours",
            "no allowance",
        ),
        (
            "maintenance",
            json!({"announced": "allowance", "allowance_hours": "0.0001"}),
            "maintenance.allowance_hours",
            "whole number",
        ),
        (
            "sla",
            json!({"tiers": [{"below_percent": "99", "credit_percent": "10"}, {"below_percent": "99.9", "credit_percent": "15"}]}),
            "sla.tiers[1].below_percent",
            "not below",
        ),
        (
            "sla",
            json!({"tiers": [{"below_percent": "99.9", "credit_percent": "10"}, {"below_percent": "99", "credit_percent": "5"}]}),
            "sla.tiers[1].credit_percent",
            "credited less",
        ),
        ("tax", json!({"name": "VAT", "percent": "-1", "jurisdiction": "DE"}), "tax.percent", "out of range"),
    ] {
        refused(&with(&[(&format!("/{field}"), value)]), at, part);
    }
    let both = with(&[("/prepaid", json!({"on_exhaustion": "suspend"})), ("/postpaid", json!({}))]);
    refused(&both, "postpaid", "both");
    let terms = terms(&[("/maintenance", json!({"announced": "allowance", "allowance_hours": "0.5"}))]);
    assert_eq!(terms.maintenance_allowance, 1_800);
}

#[test]
fn equal_terms_have_equal_ids() {
    let id = |patches: &[(&str, Value)]| terms(patches).rate("gpu", "s").unwrap().id;
    let base = id(&[]);
    assert_eq!(id(&[("/effective", json!("2027-01-01T00:00:00Z")), ("/renter", json!("x"))]), base);
    assert_eq!(id(&[("/charges/gpu/price", json!("2.500"))]), base);
    assert_eq!(RateId::parse(&base.to_string()), Some(base));
    let others = [
        id(&[("/charges/gpu/price", json!("2.51"))]),
        id(&[("/currency", json!("EUR"))]),
        id(&[("/charges/gpu/basis", json!("busy"))]),
        id(&[("/suppliers", json!([{"supplier": "s", "share_percent": "80"}]))]),
        id(&[("/suppliers", json!([{"supplier": "s", "rates": {"gpu": {"price": "80"}}}]))]),
        id(&[("/suppliers", json!([{"supplier": "s", "rates": {"gpu": {"volume": [{"price": "80"}]}}}]))]),
    ];
    let mut distinct: Vec<RateId> = others.into_iter().chain([base]).collect();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), others.len() + 1);
}

/// The id is stored in rating states: a change of the canonical text would orphan them.
#[test]
fn ids_are_for_ever() {
    assert_eq!(terms(&[]).rate("gpu", "*").unwrap().id.to_string(), "599709127237fe750008f45119e48b9d");
}

#[test]
fn a_change_of_price_is_a_version() {
    let before = terms(&[]);
    let after = before.with_price("gpu", "2.20", before.effective + 1_230).unwrap();
    assert_eq!(after.charges["gpu"].pricing, Pricing::PerUnit(Price::parse("2.2").unwrap()));
    assert_eq!(after.effective, before.effective + 1_230);
    assert!(contradicts(&before, &after).is_empty());
    assert!(before.with_price("nothing", "1", 0).unwrap_err().what.contains("no such charge"));
    assert_eq!(before.with_price("gpu", "-1", 0).unwrap_err().field, "charges.gpu.price");
    let tiers = compile(&charge(json!({"basis": "busy", "volume": [{"price": "1"}]}))).unwrap();
    assert!(tiers.with_price("gpu", "1", 0).unwrap_err().what.contains("tiers"));
}

#[test]
fn an_amendment_may_not_contradict_its_predecessor() {
    let before = terms(&[("/term", json!({"ends": "2027-03-01T00:00:00-08:00"}))]);
    let fields = |patches: &[(&str, Value)]| -> Vec<String> {
        contradicts(&before, &terms(patches)).into_iter().map(|mistake| mistake.field).collect()
    };
    let inside = ("/effective", json!("2026-03-10T00:00:00-07:00"));
    let boundary = ("/effective", json!("2026-04-01T00:00:00-07:00"));
    let others = [("/contract", json!("d")), ("/renter", json!("q")), ("/currency", json!("EUR")), boundary.clone()];
    assert_eq!(fields(&others), ["contract", "renter", "currency"]);
    assert_eq!(fields(&[("/time_zone", json!("Asia/Tokyo")), inside.clone()]), ["time_zone"]);
    assert_eq!(fields(&[("/calendar", json!({"day": 15})), inside.clone()]), ["calendar"]);
    assert_eq!(fields(&[("/calendar", json!({"period": "quarter"})), boundary.clone()]), Vec::<String>::new());
    // A period of the old calendar begins, but none of the new one.
    assert_eq!(fields(&[("/calendar", json!({"day": 15})), boundary.clone()]), ["calendar"]);
    let energy = ("/charges/gpu", json!({"basis": "energy", "price": "1"}));
    assert_eq!(fields(&[energy.clone(), inside.clone()]), ["charges.gpu.basis"]);
    assert_eq!(fields(&[energy, boundary]), Vec::<String>::new());
    let by_lease = |on_change: Value| {
        let ladder =
            json!({"basis": "allocated", "volume": [{"price": "1"}], "scope": "lease", "on_change": on_change});
        ("/charges/gpu", ladder)
    };
    assert_eq!(fields(&[by_lease(json!("carry")), inside.clone()]), ["charges.gpu.scope"]);
    assert_eq!(fields(&[by_lease(json!("reset")), inside]), Vec::<String>::new());
    assert_eq!(fields(&[("/effective", json!("2027-03-01T00:00:00-08:00"))]), Vec::<String>::new());
    assert_eq!(fields(&[("/effective", json!("2027-03-01T00:00:01-08:00"))]), ["effective"]);
}
