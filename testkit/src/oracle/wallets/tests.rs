use super::*;
use crate::fleet::{EventKind, Grant, RatingWindow, SimpleContract};
use crate::oracle::{Oracle, Truth};

/// 2026-03-01T10:00:00Z
const TEN: i64 = 1_772_359_200;
const END: i64 = 900;

/// Servers `s` of two slots and `t` of one, and a contract at 0.001 a second and GPU.
struct Case(Vec<(i64, EventKind)>);

impl Case {
    fn new(rule: Prepaid) -> Self {
        let registered = |server: &str, slots| {
            let (server, supplier) = (server.to_owned(), "supplier".to_owned());
            EventKind::ServerRegistered { server, supplier, slots }
        };
        let mut case = Case(vec![(-99, registered("s", 2)), (-99, registered("t", 1))]);
        case.signs("c", "3.60", &rule);
        case
    }

    fn signs(&mut self, contract: &str, price: &str, rule: &Prepaid) {
        let simple = SimpleContract {
            contract: contract.into(),
            renter: "r".into(),
            currency: "USD".into(),
            price_per_gpu_hour: price.into(),
            supplier_share_percent: "80".into(),
            rating_window: RatingWindow::Minute,
        };
        self.0.push((-90, simple.signed_prepaid((TEN - 90) * 1_000_000, rule)));
    }

    fn leases(&mut self, contract: &str, lease: &str, server: &str, slots: &[u32], (from, to): (i64, i64)) {
        let (lease, contract, server) = (lease.to_owned(), contract.to_owned(), server.to_owned());
        let started = EventKind::LeaseStarted { lease: lease.clone(), contract, server, slots: slots.into() };
        self.0.extend([(from, started), (to, EventKind::LeaseEnded { lease })]);
    }

    fn pays(&mut self, second: i64, amount: &str) {
        self.gets(second, paid(amount));
    }

    fn gets(&mut self, second: i64, grant: Grant) {
        self.0.push((second, EventKind::WalletGranted(grant)));
    }

    fn oracle(self) -> Oracle {
        let mut oracle = Oracle::new(TEN - 100, TEN + END);
        for (number, (second, kind)) in self.0.into_iter().enumerate().rev() {
            let time_us = (TEN + second) * 1_000_000 + 999_999;
            let event = Event { source: "test".into(), id: format!("e-{number:02}"), time_us, kind };
            oracle.event(event.clone());
            oracle.event(event);
        }
        oracle
    }

    fn truth(self) -> Truth {
        self.oracle().truth().unwrap()
    }

    fn wallet(self) -> WalletTruth {
        let mut wallets = self.truth().wallets;
        assert_eq!(wallets.len(), 1);
        wallets.remove(0)
    }
}

fn paid(amount: &str) -> Grant {
    Grant {
        renter: "r".into(),
        currency: "USD".into(),
        grant: "g".into(),
        amount: amount.into(),
        kind: GrantKind::Paid,
        priority: 0,
        expires: None,
        on_expiry: OnExpiry::Income,
        source: "cash".into(),
    }
}

fn at(second: i64) -> Option<String> {
    Some(crate::fleet::rfc3339((TEN + second) * 1_000_000))
}

/// Exhausted and restored, in seconds after ten.
fn dry(wallet: &WalletTruth) -> Vec<(i64, Option<i64>)> {
    wallet.dry.iter().map(|dry| (dry.exhausted - TEN, dry.restored.map(|at| at - TEN))).collect()
}

fn cut(wallet: &WalletTruth) -> Vec<(&str, i64, i64)> {
    wallet.cut_off.iter().map(|cut| (cut.lease.as_str(), cut.from - TEN, cut.to - TEN)).collect()
}

/// In millionths: paid in, consumed, expired, returned, left, promotional, receivable.
fn money(wallet: &WalletTruth) -> [i128; 7] {
    let WalletTruth {
        paid_in_e9, consumed_e9, expired_e9, returned_e9, left_e9, promotional_e9, receivable_e9, ..
    } = wallet;
    [paid_in_e9, consumed_e9, expired_e9, returned_e9, left_e9, promotional_e9, receivable_e9].map(|e9| e9 / 1_000)
}

/// 40 s of two GPUs, 60 of three, 25 of two: 0.08 + 0.18 + 0.05. After the top-up 100 s of three: 0.30, and 0.0011 do not pay another.
#[test]
fn a_wallet_of_two_servers_runs_dry_and_tops_up() {
    let mut case = Case::new(Prepaid::Suspend);
    case.pays(-60, "0.31");
    case.leases("c", "l", "s", &[0, 1], (0, 600));
    case.leases("c", "m", "t", &[0], (40, 100));
    case.leases("c", "n", "t", &[0], (200, 600)); // begins while it is dry
    case.pays(301, "0.3011");
    let truth = case.truth();
    let wallet = &truth.wallets[0];
    assert_eq!(dry(wallet), [(125, Some(301)), (401, None)]);
    assert_eq!(cut(wallet), [("l", 125, 301), ("l", 401, 600), ("n", 200, 301), ("n", 401, 600)]);
    assert_eq!(money(wallet), [611_100, 610_000, 0, 0, 1_100, 0, 0]);
    let seconds: Vec<_> =
        truth.seconds.iter().map(|it| (it.lease.as_str(), it.billed, it.paid, it.suspended)).collect();
    assert_eq!(seconds, [("l", 225, 225, 375), ("l", 225, 225, 375), ("m", 60, 60, 0), ("n", 100, 100, 300)]);
    let charge = &truth.charges[0];
    assert!(charge.is_prepaid);
    assert_eq!((charge.renter_amount_e9, charge.suppliers[0].amount_e9), (610_000_000, 488_000_000));
}

/// 50 s are paid, then 100 of grace are owed; so again after the top-up, which pays 20.
#[test]
fn a_grace_is_owed() {
    let mut case = Case::new(Prepaid::Grace { grace_s: 100 });
    case.pays(-60, "0.0505");
    case.leases("c", "l", "t", &[0], (0, 600));
    case.pays(207, "0.020");
    let wallet = case.wallet();
    assert_eq!(dry(&wallet), [(50, Some(207)), (227, None)]);
    assert_eq!(cut(&wallet), [("l", 150, 207), ("l", 327, 600)]);
    assert_eq!(money(&wallet), [70_500, 70_500, 0, 0, 0, 0, 199_500]);
}

/// The use of the minute in which it tops up is counted in the minute's last second: 0.047 of it are paid, and not 0.013.
#[test]
fn a_top_up_ends_a_grace_that_runs() {
    let mut case = Case::new(Prepaid::Grace { grace_s: 100 });
    case.pays(-60, "0.050");
    case.leases("c", "l", "t", &[0], (0, 180));
    case.pays(107, "0.200");
    let wallet = case.wallet();
    assert_eq!(dry(&wallet), [(50, Some(107))]);
    assert_eq!(cut(&wallet), []);
    assert_eq!(money(&wallet), [250_000, 50_000 + 120_000, 0, 0, 80_000, 0, 10_000]);
}

/// From second 50 on 30 times 0.001 are owed, which is the limit.
#[test]
fn a_credit_is_used_up() {
    let mut case = Case::new(Prepaid::Credit { credit_limit: "0.030".into() });
    case.pays(-60, "0.050");
    case.leases("c", "l", "t", &[0], (0, 600));
    let wallet = case.wallet();
    assert_eq!(dry(&wallet), [(50, None)]);
    assert_eq!(wallet.dry[0].credit_reached, BTreeMap::from([("c".to_owned(), TEN + 80)]));
    assert_eq!(cut(&wallet), [("l", 80, 600)]);
    assert_eq!(money(&wallet), [50_000, 50_000, 0, 0, 0, 0, 30_000]);
}

/// One contract is suspended at once, the other one has its grace.
#[test]
fn contracts_of_a_wallet_keep_their_own_rules() {
    let mut case = Case::new(Prepaid::Suspend);
    case.signs("d", "7.20", &Prepaid::Grace { grace_s: 30 });
    case.pays(-60, "0.030");
    case.leases("c", "l", "t", &[0], (0, 600));
    case.leases("d", "m", "s", &[0], (0, 600));
    let wallet = case.wallet();
    assert_eq!(dry(&wallet), [(10, None)]);
    assert_eq!(cut(&wallet), [("l", 10, 600), ("m", 40, 600)]);
    assert_eq!(money(&wallet), [30_000, 30_000, 0, 0, 0, 0, 60_000]);
}

/// Used first though it came last: 15 s of a promotion before its minute is over. Then 0.002 that go back when they expire, in a time of
/// suspension on record; then the oldest of the rest, though another was told before it.
#[test]
fn grants_are_used_in_their_order() {
    let mut case = Case::new(Prepaid::Suspend);
    case.gets(-10, Grant { source: "a".into(), ..paid("0.004") });
    case.gets(-30, Grant { source: "b".into(), ..paid("0.003") });
    case.gets(-40, Grant { expires: at(121), on_expiry: OnExpiry::Back, source: "c".into(), ..paid("0.060") });
    case.gets(-40, Grant { expires: at(240), source: "d".into(), ..paid("0.010") });
    let promotion = Grant { kind: GrantKind::Promotional, priority: -1, expires: at(20), ..paid("0.030") };
    case.gets(0, promotion);
    case.leases("c", "l", "t", &[0], (45, 600));
    case.0.push((118, EventKind::LeaseSuspended { lease: "l".into() }));
    case.0.push((200, EventKind::LeaseResumed { lease: "l".into() }));
    let wallet = case.wallet();
    // 58 s of c until it is suspended, 10 s of d, then b and a.
    assert_eq!(dry(&wallet), [(217, None)]);
    assert_eq!(money(&wallet), [77_000, 75_000, 0, 2_000, 0, 15_000, 0]);
    assert_eq!(wallet.promised_e9, 30_000_000);
    let sources: Vec<_> = wallet.sources.iter().map(|it| (it.source.as_str(), it.amount_e9)).collect();
    assert_eq!(sources, [("a", 4_000_000), ("b", 3_000_000), ("c", 58_000_000), ("d", 10_000_000)]);
}

#[test]
fn priority_goes_before_expiry() {
    let mut case = Case::new(Prepaid::Suspend);
    case.gets(-40, Grant { expires: at(59), ..paid("0.020") });
    case.gets(-30, Grant { priority: -1, ..paid("0.030") });
    case.leases("c", "l", "t", &[0], (0, 25));
    assert_eq!(money(&case.wallet()), [50_000, 25_000, 20_000, 0, 5_000, 0, 0]);
}

/// Up to the end of a minute it pays, and what is left is the platform's; the second after is not paid.
#[test]
fn a_grant_expires_at_a_minutes_end() {
    let mut case = Case::new(Prepaid::Suspend);
    case.gets(-40, Grant { expires: at(61), ..paid("1") });
    case.leases("c", "l", "t", &[0], (0, 600));
    let wallet = case.wallet();
    assert_eq!(dry(&wallet), [(120, None)]);
    assert_eq!(money(&wallet), [1_000_000, 120_000, 880_000, 0, 0, 0, 0]);
}

/// A wallet that was never given anything is dry when its first lease begins; 0.0004 do not pay the second that it lacked, 0.001 do.
#[test]
fn a_wallet_is_restored_when_it_can_pay_what_it_lacked() {
    let mut case = Case::new(Prepaid::Suspend);
    case.leases("c", "l", "t", &[0], (10, 600));
    case.pays(100, "0.0004");
    case.pays(150, "0.0006");
    let wallet = case.wallet();
    assert_eq!(dry(&wallet), [(10, Some(150)), (151, None)]);
    assert_eq!(cut(&wallet), [("l", 10, 150), ("l", 151, 600)]);
    assert_eq!(money(&wallet), [1_000, 1_000, 0, 0, 0, 0, 0]);
}

/// What it lacked is one lease's second; when it has that, there are two, which go on for the second in which it was restored.
#[test]
fn a_wallet_that_is_restored_has_a_second() {
    let mut case = Case::new(Prepaid::Suspend);
    case.leases("c", "l", "t", &[0], (10, 600));
    case.leases("c", "m", "s", &[0], (20, 600));
    case.pays(150, "0.001");
    let wallet = case.wallet();
    assert_eq!(dry(&wallet), [(10, Some(150)), (151, None)]);
    assert_eq!(cut(&wallet), [("l", 10, 150), ("l", 151, 600), ("m", 20, 150), ("m", 151, 600)]);
    assert_eq!(money(&wallet), [1_000, 1_000, 0, 0, 0, 0, 1_000]);
}

/// What is not billed by what is on record burns nothing; what only telemetry shows to be lost burns and is not billed.
#[test]
fn only_what_is_on_record_burns_less() {
    let mut case = Case::new(Prepaid::Suspend);
    case.pays(-60, "0.100");
    case.leases("c", "l", "t", &[0], (0, 600));
    let (outage, server) = ("o".to_owned(), "t".to_owned());
    case.0.push((
        20,
        EventKind::OutageOpened { outage: outage.clone(), server: server.clone(), slots: None, fault: None },
    ));
    case.0.push((50, EventKind::OutageClosed { outage, fault: None }));
    case.0.push((60, EventKind::ServerUnreachable { server: server.clone() }));
    case.0.push((65, EventKind::ServerReachable { server }));
    let wallet = case.wallet();
    assert_eq!(dry(&wallet), [(130, None)]);
    assert_eq!(money(&wallet), [100_000, 95_000, 0, 0, 5_000, 0, 0]);
}

/// Told late, it restores when it was told.
#[test]
fn a_late_grant_counts_from_when_it_came() {
    let mut case = Case::new(Prepaid::Suspend);
    case.leases("c", "l", "t", &[0], (10, 200));
    case.pays(-60, "1");
    let told = format!("e-{:02}", case.0.len() - 1);
    let mut oracle = case.oracle();
    oracle.counts_from("test", &told, TEN + 77);
    let wallet = oracle.truth().unwrap().wallets.remove(0);
    assert_eq!(dry(&wallet), [(10, Some(77))]);
    assert_eq!(money(&wallet), [1_000_000, 123_000, 0, 0, 877_000, 0, 0]);
}

#[test]
fn a_price_that_leaves_the_second_in_doubt_is_refused() {
    let mut case = Case::new(Prepaid::Suspend);
    case.signs("d", "1.00", &Prepaid::Suspend);
    let refused = case.oracle().truth().unwrap_err().to_string();
    assert!(refused.contains("d is prepaid") && refused.contains("0.0000036"), "{refused}");
}
