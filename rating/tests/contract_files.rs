//! Contract files: what is accepted, and how every mistake is shown, with its line.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use hydrometer_rating::terms::file::{Version, across, read};

fn mistakes(text: &str) -> Vec<String> {
    let mistakes = read(text.as_bytes()).expect_err("mistakes are expected");
    mistakes.iter().map(ToString::to_string).collect()
}

fn versions(text: &str) -> Vec<Version> {
    read(text.as_bytes()).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"))
}

const GOOD: &str = "\
contract: acme-1
effective: 2026-03-01T00:00:00-08:00
renter: acme
currency: USD
time_zone: America/Los_Angeles
charges:
  gpu:
    basis: allocated
    price: 2.50
suppliers:
  - supplier: dc-1
    share_percent: 80
";

/// The good document with some text replaced, which must be there.
fn with(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    GOOD.replacen(from, to, 1)
}

#[test]
fn scalars_stay_what_was_written() {
    let text = with("acme-1", "0123").replace("renter: acme", "renter: NO").replace("2.50", "2.500000000001");
    let version = versions(&text).remove(0);
    assert_eq!((version.terms.contract.as_str(), version.terms.renter.as_str()), ("0123", "NO"));
    assert_eq!(version.document.contract.charges["gpu"].price.as_ref().unwrap().0, "2.500000000001");
}

#[test]
fn json_is_read_like_yaml() {
    let yaml = versions(GOOD).remove(0);
    let json = serde_json::to_string_pretty(&yaml.document.contract).unwrap();
    assert_eq!(versions(&json).remove(0).terms, yaml.terms);
    let with_numbers = json.replace("\"2.50\"", "2.50");
    assert_ne!(with_numbers, json);
    assert_eq!(versions(&with_numbers).remove(0).terms, yaml.terms, "a number is as exact as its text");
}

#[test]
fn all_mistakes_of_a_file_are_shown_at_once_with_their_lines() {
    let text = "\
contract: acme-1
effective: 2026-03-01T00:00:00
renter: acme
currency: USD
colour: red
charges:
  gpu:
    basis: allocated
    graduated:
      - up_to: 100
        price: 2.50
      - up_to: 90
        price: 2.25
      - up_to: 1,000
        price: 2.00
  node:
    bassis: recurring
    price: 10.001
  support:
    basis: percentage
    percent: 120
  reserved:
    basis: allocated
    price: 2 EUR
    commitment:
      quantity: 500
      true_up: yes
minimum_spend: 0.005
maximum_spend:
suppliers:
  - share_percent: 80
  - supplier: dc-1
    share_percent: 80
  - supplier: dc-1
    share_percent: 30
postpaid:
  due_days: '30'
";
    let expected = [
        "2:12: effective: \"2026-03-01T00:00:00\" has no zone; expected RFC 3339 with a zone, such as 2026-03-01T00:00:00-08:00; hint: add Z for UTC, or an offset such as -08:00",
        "5:1: colour: there is no field \"colour\" here; expected one of `calendar`, `charges`, `contract`, `currency`, `degradation`, `effective`, `maintenance`, `maximum_spend`, `minimum_spend`, `note`, `postpaid`, `prepaid`, `rating_window`, `renter`, `sla`, `suppliers`, `tax`, `term`, `time_zone`, `unknown_tolerance_percent`",
        "12:16: charges.gpu.graduated[1].up_to: 90 is not above the tier before it, which ends at 100 (an overlap); expected more than 100; hint: tiers stand in rising order; a bound belongs to the tier that it ends",
        "14:16: charges.gpu.graduated[2].up_to: \"1,000\" is not a plain decimal number; expected a plain decimal number such as 2.50; hint: digits and a point, without separators of thousands",
        "17:5: charges.node.bassis: there is no field \"bassis\" here; expected one of `basis`, `by_time`, `commitment`, `flat_at_zero`, `free`, `graduated`, `maximum_spend`, `minimum_s`, `minimum_spend`, `of`, `on_change`, `package`, `per`, `percent`, `price`, `proration`, `rounding`, `scope`, `slices_per_card`, `step_s`, `volume`; hint: did you mean basis?",
        "21:14: charges.support.percent: 120 is out of range; expected 0 to 100 percent with at most 6 digits after the point",
        "24:12: charges.reserved.price: \"2 EUR\" is not a plain decimal number; expected a plain decimal number such as 2.50; hint: a number alone: the one currency of a contract stands in `currency`, units follow from the basis",
        "25:5: charges.reserved.commitment.per: is missing; expected one of `period`, `hour`; hint: `period` (the billing period) or `hour`.",
        "27:16: charges.reserved.commitment.true_up: \"yes\" is neither; expected true or false",
        "28:16: minimum_spend: 0.005 has too many digits after the point; expected 0 to 1000000000000 with at most 2 digits after the point; hint: the minor unit of USD has 2 digits (ISO 4217)",
        "29:1: maximum_spend: has no value; expected a plain decimal number such as 2.50; hint: leave the field out, or quote the word if it is a name",
        "31:5: suppliers[0].supplier: is missing; expected text; hint: The supplier's name, or `*` for every other one.",
        "34:15: suppliers[2].supplier: \"dc-1\" stands in `suppliers[1]` already, and its shares sum to 110 %, more than the renter pays; expected one entry for each supplier",
        "37:13: postpaid.due_days: \"30\" is not such a number; expected a whole number from 0 to 4294967295; hint: without quotes",
    ];
    let found = mistakes(text);
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn what_is_no_document_is_refused() {
    for (text, part) in [
        ("", "the file is empty"),
        ("# only a comment\n", "the file is empty"),
        ("just text", "is a single value; expected a map of fields"),
        ("- a\n- b\n", "is a list"),
        ("contract: [1", "is not YAML"),
        ("charges:\n\tgpu: 1", "is not YAML"),
        ("{contract: a}", "effective: is missing"),
    ] {
        let found = mistakes(text);
        assert!(found.iter().any(|mistake| mistake.contains(part)), "{text:?}: {found:#?}");
    }
    let not_text = read(b"contract: a\nrenter: \xff\n").unwrap_err();
    assert_eq!((not_text[0].place.line, not_text[0].place.column), (2, 9));
    assert!(read(&vec![b'#'; 1024 * 1024 + 1]).unwrap_err()[0].to_string().contains("at most 1048576"));
}

#[test]
fn nothing_is_expanded_and_nothing_is_said_twice() {
    let anchors = with("  gpu:\n", "  gpu: &x\n") + "note: *x\n";
    let found = mistakes(&anchors);
    assert!(
        found.iter().any(|m| m.contains("is an anchor")) && found.iter().any(|m| m.contains("is an alias")),
        "{found:?}"
    );
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b]\n";
    assert!(mistakes(bomb).len() < 30);
    assert!(mistakes(&with("2.50", "!!float 2.50"))[0].contains("is a tag"));
    let found = mistakes(&with("    price: 2.50\n", "    price: 2.50\n    price: 2.60\n"));
    assert_eq!(
        found,
        ["10:5: charges.gpu.price: stands here a second time; the first is in line 9; expected each field once"]
    );
    let found = mistakes(&format!("{GOOD}x: {}\n", "[".repeat(100)));
    assert!(found.iter().any(|mistake| mistake.contains("nested too deeply")), "{found:?}");
    let many = format!("{GOOD}suppliers2: [{}]\n", "1,".repeat(100_000));
    assert!(mistakes(&many).iter().any(|mistake| mistake.contains("too many values")));
    let unknown: String = (0..5_000).map(|i| format!("unknown_{i}: 1\n")).collect();
    assert_eq!(mistakes(&format!("{GOOD}{unknown}")).len(), 200, "no more are looked for");
}

/// A mistake of shape hides what only follows from it, and nothing else.
#[test]
fn one_slip_is_one_mistake() {
    for (from, to, field) in [
        ("price: 2.50", "prise: 2.50", "charges.gpu.prise"),
        ("price: 2.50", "price: cheap", "charges.gpu.price"),
        ("basis: allocated", "basis: alocated", "charges.gpu.basis"),
        ("currency: USD", "currency: [USD, EUR]", "currency"),
        ("effective: 2026-03-01T00:00:00-08:00", "effective:", "effective"),
        ("  gpu:\n    basis: allocated\n    price: 2.50\n", "  gpu: 2.50\n", "charges.gpu"),
    ] {
        let found = mistakes(&with(from, to));
        let at_field = found.iter().filter(|mistake| mistake.contains(&format!(" {field}: "))).count();
        assert_eq!((found.len(), at_field), (1, 1), "{to}: {found:#?}");
    }
}

#[test]
fn versions_of_one_contract_follow_each_other() {
    let later = with("2026-03-01T00:00:00-08:00", "2026-03-15T10:20:30-07:00").replace("2.50", "2.20");
    let both = versions(&format!("{later}---\n{GOOD}"));
    assert_eq!(
        both.iter().map(|v| v.document.begins.line).collect::<Vec<_>>(),
        [14, 1],
        "in order of time, not of text"
    );

    let found = mistakes(&format!("{GOOD}---\n{GOOD}"));
    assert_eq!(
        found,
        [
            "15:12: effective: two versions begin at 2026-03-01T08:00:00Z; expected a second of its own for each version; hint: the other one begins in line 1 of its file"
        ]
    );
    let other = later.replace("renter: acme", "renter: other").replace("currency: USD", "currency: EUR");
    let found = mistakes(&format!("{GOOD}---\n{other}"));
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].starts_with("16:9: renter: \"other\" contradicts the version before it"), "{}", found[0]);
    assert!(found[1].starts_with("17:11: currency: \"EUR\" contradicts"), "{}", found[1]);
}

#[test]
fn versions_in_several_files_follow_each_other() {
    let later = with("2026-03-01T00:00:00-08:00", "2026-03-15T10:20:30-07:00");
    let other_renter = later.replace("renter: acme", "renter: other");
    let other_contract = other_renter.replace("acme-1", "acme-2");
    let files = [versions(&other_renter), versions(&other_contract), versions(GOOD)];
    let found: Vec<(usize, String)> = across(&files).into_iter().map(|(file, m)| (file, m.to_string())).collect();
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].0 == 0 && found[0].1.starts_with("3:9: renter: "), "{found:#?}");
    assert!(across(&[versions(GOOD), versions(&later)]).is_empty());
    assert_eq!(across(&[versions(GOOD), versions(GOOD)])[0].0, 1, "the same version twice");
}

/// The blocks of the reference are contracts, or charges of one.
#[test]
fn the_reference_shows_what_is_accepted() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/contracts.md")).unwrap();
    let blocks: Vec<&str> = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.len() >= 5);
    for block in blocks {
        let head = "contract: c\neffective: 2026-03-01T00:00:00Z\nrenter: r\ncurrency: USD\n";
        let text = if block.starts_with("charges:") { format!("{head}{block}") } else { block.to_owned() };
        assert!(read(text.as_bytes()).is_ok(), "{:#?}\n{block}", read(text.as_bytes()).err());
    }
    let missing: Vec<String> = field_names().into_iter().filter(|name| !page.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "the reference does not name {missing:?}");
}

/// Every field and every word that a contract can have.
fn field_names() -> Vec<String> {
    let schema = hydrometer_schemas::contract::json_schema();
    let defs = schema["$defs"].as_object().unwrap();
    let mut names: Vec<String> = Vec::new();
    for def in defs.values().chain([schema]) {
        names.extend(def["properties"].as_object().into_iter().flatten().map(|(name, _)| name.clone()));
        for choice in def["oneOf"].as_array().into_iter().flatten().chain([def]) {
            names.extend(choice["const"].as_str().map(str::to_owned));
            names.extend(choice["enum"].as_array().into_iter().flatten().filter_map(|w| w.as_str().map(str::to_owned)));
        }
    }
    names
}
