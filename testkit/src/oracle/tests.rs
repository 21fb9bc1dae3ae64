use super::*;
use crate::fleet::{EventKind, GPU_HOURS, RatingWindow, SimpleContract};

/// 2026-03-01T10:00:00Z
const TEN: i64 = 1_772_359_200;

fn oracle_with(events: Vec<(i64, EventKind)>) -> Oracle {
    let mut oracle = Oracle::new(TEN - 60, TEN + 3600);
    // In the wrong order, and each twice: neither matters.
    for (number, (second, kind)) in events.into_iter().enumerate().rev() {
        let event = Event {
            source: "test".to_owned(),
            id: format!("e-{number}"),
            time_us: (TEN + second) * 1_000_000 + 999_999,
            kind,
        };
        oracle.event(event.clone());
        oracle.event(event);
    }
    oracle
}

/// A server of two slots, GPU `a` in slot 0, and a contract at 0.001 a second, 80 % of it to the supplier.
fn one_server() -> Vec<(i64, EventKind)> {
    vec![
        (-9, EventKind::ServerRegistered { server: "s".into(), supplier: "supplier".into(), slots: 2 }),
        (-9, seat(0, "a")),
        (
            -9,
            SimpleContract {
                contract: "c".into(),
                renter: "renter".into(),
                currency: "USD".into(),
                price_per_gpu_hour: "3.60".into(),
                supplier_share_percent: "80".into(),
                rating_window: RatingWindow::Minute,
            }
            .signed((TEN - 9) * 1_000_000),
        ),
    ]
}

fn seat(slot: u32, gpu: &str) -> EventKind {
    EventKind::GpuRegistered { server: "s".into(), slot, gpu: gpu.into() }
}

fn start(lease: &str, slots: &[u32]) -> EventKind {
    EventKind::LeaseStarted { lease: lease.into(), contract: "c".into(), server: "s".into(), slots: slots.into() }
}

fn end(lease: &str) -> EventKind {
    EventKind::LeaseEnded { lease: lease.into() }
}

fn price(contract: &str, price: &str) -> EventKind {
    EventKind::PriceChanged { contract: contract.into(), charge: GPU_HOURS.into(), price: price.into() }
}

fn open(fault: Option<Party>) -> EventKind {
    EventKind::OutageOpened { outage: "o".into(), server: "s".into(), slots: Some(vec![1]), fault }
}

fn close(fault: Option<Party>) -> EventKind {
    EventKind::OutageClosed { outage: "o".into(), fault }
}

/// GPU, used, idle, unknown, down, suspended, billed, paid.
type Row<'a> = (Option<&'a str>, [u64; 7]);

fn rows(truth: &Truth) -> Vec<Row<'_>> {
    let row = |it: &'_ LeaseSeconds| [it.used, it.idle, it.unknown, it.down, it.suspended, it.billed, it.paid];
    let seconds = truth.seconds.iter();
    seconds.map(|it| (it.gpu.as_deref(), row(it))).collect()
}

#[test]
fn ten_seconds_of_two_gpus() {
    let mut events = one_server();
    events.extend([
        (0, start("l", &[0, 1])),
        (3, seat(1, "b")), // until then the slot is leased empty
        (5, price("c", "7.20")),
        (6, open(None)),
        (8, close(Some(Party::Renter))),
        (8, EventKind::LeaseSuspended { lease: "l".into() }),
        (9, EventKind::LeaseResumed { lease: "l".into() }),
        (10, end("l")),
    ]);
    let mut oracle = oracle_with(events);
    for second in 0..7 {
        oracle.reading("s", "a", TEN + second, second < 5);
    }
    oracle.reading("s", "a", TEN + 4, false); // busy once is busy
    oracle.reading("s", "b", TEN + 2, true); // before it had a seat: leakage
    oracle.reading("s", "b", TEN + 4, true);
    oracle.lost();
    let truth = oracle.truth().unwrap();

    assert_eq!(
        rows(&truth),
        [(Some("a"), [5, 2, 2, 0, 1, 9, 9]), (None, [0, 0, 3, 0, 0, 3, 3]), (Some("b"), [1, 0, 3, 2, 1, 6, 6]),]
    );
    assert_eq!(truth.leakage_seconds, 1);
    assert_eq!(truth.metered_minutes, 2);
    assert_eq!((truth.readings_emitted, truth.readings_counted), (11, 10));
    // On either slot five seconds at 0.001 and four at 0.002.
    let charge = &truth.charges[0];
    assert_eq!(charge.renter_amount_e9, 26_000_000);
    assert_eq!(charge.suppliers[0].amount_e9, 20_800_000);
    assert_eq!(charge.commission_e9, 5_200_000);
    assert_eq!(charge.period_us, 1_772_323_200_000_000);
    assert!(truth.refused.is_empty());
}

#[test]
fn an_outage_is_paid_by_the_party_at_fault() {
    for (at_opening, at_closing, billed, paid) in [
        (None, None, 0, 0),
        (Some(Party::Supplier), None, 0, 0),
        (Some(Party::Platform), None, 0, 1),
        (None, Some(Party::Platform), 0, 1),
        (Some(Party::Supplier), Some(Party::Renter), 1, 1),
    ] {
        let mut events = one_server();
        events.extend([(0, start("l", &[1])), (1, open(at_opening)), (2, close(at_closing)), (3, end("l"))]);
        let mut oracle = oracle_with(events);
        oracle.reading("s", "a", TEN + 1, true);
        let truth = oracle.truth().unwrap();
        let expected = (None, [0, 0, 2, 1, 0, 2 + billed, 2 + paid]);
        assert_eq!(rows(&truth), [expected]);
        assert_eq!(truth.leakage_seconds, 1);
    }
}

#[test]
fn maintenance_is_free_when_it_was_announced_and_lost_when_not() {
    let at = |second: i64| chrono::DateTime::from_timestamp(TEN + second, 0).unwrap().to_rfc3339();
    let announced = |maintenance: &str, from, to| EventKind::MaintenanceAnnounced {
        maintenance: maintenance.into(),
        server: "s".into(),
        from: at(from),
        to: at(to),
    };
    let begun =
        |maintenance: &str| EventKind::MaintenanceStarted { maintenance: maintenance.into(), server: "s".into() };
    let ended = |maintenance: &str| EventKind::MaintenanceEnded { maintenance: maintenance.into() };
    let mut events = one_server();
    events.extend([
        (0, start("l", &[0])),
        (0, announced("as said", 1, 3)),
        (1, announced("otherwise", 5, 8)),
        (6, begun("otherwise")),
        (9, ended("otherwise")),
        (9, announced("too late", 9, 20)),
        (10, begun("sudden")),
        (12, ended("sudden")),
        (15, end("l")),
    ]);
    let truth = oracle_with(events).truth().unwrap();
    // Two and three seconds of maintenance, two lost, the rest unknown.
    assert_eq!(rows(&truth), [(Some("a"), [0, 0, 8, 2, 0, 8, 8])]);
    assert_eq!(truth.seconds[0].maintenance, 5);
    assert_eq!(truth.seconds[0].leased(), 15);
    assert_eq!(truth.refused.len(), 1);
}

#[test]
fn silence_is_lost_with_a_witness_and_without_a_peer() {
    let mut events = one_server();
    events.extend([
        (-9, seat(1, "b")),
        (0, start("l", &[0])),
        (2, EventKind::ServerUnreachable { server: "s".into() }),
        (8, EventKind::ServerReachable { server: "s".into() }),
        (10, end("l")),
    ]);
    let mut oracle = oracle_with(events);
    oracle.reading("s", "a", TEN + 3, false);
    oracle.reading("s", "b", TEN + 4, false);
    oracle.reading("s", "stranger", TEN + 5, false);
    let truth = oracle.truth().unwrap();
    assert_eq!(rows(&truth), [(Some("a"), [0, 1, 5, 4, 0, 6, 6])]);
}

#[test]
fn a_replaced_gpu_leaves_the_lease() {
    let mut events = one_server();
    events.extend([
        (0, start("l", &[0])),
        (5, EventKind::GpuReplaced { server: "s".into(), slot: 0, old: "a".into(), new: "b".into() }),
        (10, end("l")),
    ]);
    let mut oracle = oracle_with(events);
    for second in 0..8 {
        oracle.reading("s", "a", TEN + second, true);
    }
    for second in 6..12 {
        oracle.reading("s", "b", TEN + second, false);
    }
    let truth = oracle.truth().unwrap();
    assert_eq!(rows(&truth), [(Some("a"), [5, 0, 0, 0, 0, 5, 5]), (Some("b"), [0, 4, 1, 0, 0, 5, 5]),]);
    assert_eq!(truth.leakage_seconds, 3 + 2);
}

#[test]
fn contradictions_are_refused() {
    let mut events = one_server();
    events.extend([
        (0, start("l", &[0])),
        (1, start("m", &[1, 0])),
        (2, end("m")),
        (3, end("l")),
        (4, end("l")),
        (5, EventKind::LeaseResumed { lease: "l".into() }),
        (6, price("d", "1")),
        (7, seat(0, "b")),
        (8, seat(2, "b")),
        (9, close(None)),
    ]);
    let truth = oracle_with(events).truth().unwrap();
    assert_eq!(rows(&truth), [(Some("a"), [0, 0, 3, 0, 0, 3, 3])]);
    let reasons: Vec<&str> = truth.refused.iter().map(|it| it.reason.as_str()).collect();
    assert_eq!(
        reasons,
        [
            "a slot is leased",
            "no such lease",
            "the lease has ended",
            "the lease has ended",
            "no such contract",
            "the slot is taken",
            "no such slot",
            "no such outage",
        ]
    );
}

#[test]
fn an_hour_and_a_month_end_where_they_end() {
    let april = 1_775_001_600;
    let shift = april - TEN;
    let mut events = one_server();
    events.extend([(shift - 2, start("l", &[0])), (shift + 3, end("l"))]);
    let mut oracle = Oracle::new(april - 10, april + 10);
    std::mem::swap(&mut oracle.events, &mut oracle_with(events).events);
    let truth = oracle.truth().unwrap();
    let hours: Vec<(i64, u64)> = truth.seconds.iter().map(|it| (it.hour_us, it.unknown)).collect();
    assert_eq!(hours, [((april - 3600) * 1_000_000, 2), (april * 1_000_000, 3)]);
    let amounts: Vec<i128> = truth.charges.iter().map(|it| it.renter_amount_e9).collect();
    assert_eq!(amounts, [2_000_000, 3_000_000]);
}

#[test]
fn rounds_half_to_even() {
    let rounded: Vec<i128> = [0, 4, 5, 6, 14, 15, 16, 25, 26].map(|tenths| half_even(tenths, 10)).into();
    assert_eq!(rounded, [0, 0, 0, 1, 1, 2, 2, 2, 3]);
}

#[test]
fn knows_the_months() {
    let leap_day = 1_709_164_800; // 2024-02-29
    assert_eq!(month_of(leap_day).unwrap(), 1_706_745_600_000_000);
}
