use serde_json::json;

use super::*;

fn event(kind: &str, data: Value) -> Vec<u8> {
    json!({"specversion":"1.0","id":"e-1","source":"cp","type":kind,"time":"2026-03-01T10:00:00.7Z","data":data})
        .to_string()
        .into_bytes()
}

#[test]
fn reads_and_stores_an_event() {
    let data = json!({"lease":"l","contract":"c","server":"s","slots":[0,2],"extra":1});
    let read = Event::parse(&event("gpu.lease.started", data)).unwrap();
    assert_eq!(read.kind.rank(), 9);
    assert_eq!(read.key.time % 60, 0);
    let back = Event::from_stored(read.key.time, "cp".into(), "e-1".into(), read.body()).unwrap();
    assert_eq!(back, read);
}

#[test]
fn names_what_is_wrong() {
    let cases = [
        (event("gpu.lease.started", json!({"lease":"l"})), Reason::MalformedEvent, "contract"),
        (event("gpu.moon.landed", Value::Null), Reason::UnknownEvent, "gpu.moon.landed"),
        (b"{".to_vec(), Reason::MalformedEvent, "CloudEvent"),
        (event("gpu.lease.ended", json!({"lease":""})), Reason::MalformedEvent, "lease is empty"),
        (
            event(
                "gpu.wallet.granted",
                json!({"renter":"r","currency":"USD","grant":" ","amount":"1","source":"clearing"}),
            ),
            Reason::MalformedEvent,
            "grant is empty or blank",
        ),
        (
            event(
                "gpu.wallet.granted",
                json!({"renter":"r","currency":"USD","grant":"g","amount":"1","source":"rail:card:"}),
            ),
            Reason::MalformedEvent,
            "neither `clearing` nor",
        ),
        (
            event(
                "gpu.wallet.granted",
                json!({"renter":"r","currency":"USD","grant":"g","amount":"1","source":"bank: :cash"}),
            ),
            Reason::MalformedEvent,
            "neither `clearing` nor",
        ),
        (
            event("gpu.lease.started", json!({"lease":"l","contract":"c","server":"s","slots":[1,1]})),
            Reason::MalformedEvent,
            "twice",
        ),
        (
            event("gpu.price.changed", json!({"contract":"c","charge":"x","price":"1\u{0}"})),
            Reason::MalformedEvent,
            "control character",
        ),
    ];
    for (bytes, reason, part) in cases {
        let refusal = Event::parse(&bytes).unwrap_err();
        assert_eq!(refusal.reason, reason);
        assert!(refusal.detail.contains(part), "{}", refusal.detail);
    }
}
