mod common;
use hydrometer_testkit::fleet::Plan;
use hydrometer_audit::verify::verify;
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many() {
    let from: u64 = std::env::var("FROM").unwrap().parse().unwrap();
    let to: u64 = std::env::var("TO").unwrap().parse().unwrap();
    for seed in from..to {
        let mut plan = Plan::small(seed);
        if seed % 2 == 1 { plan = plan.shuffled(seed + 1000); }
        let f = common::fill(&plan).await;
        let s = f.copy().await;
        let r = verify(&s.url, &s.warehouse, &mut |_| ()).await.unwrap();
        let pend: Vec<_> = r.checks.iter().filter(|c| !c.pending.is_empty()).map(|c| (c.name, c.pending.clone())).collect();
        println!("seed {seed}: {} pending {pend:?} leak {} {}", r.holds(), r.lists.iter().find(|l| l.name=="leakage").unwrap().total, f.outcome.truth.leakage_seconds);
        for c in r.checks.iter().filter(|c| !c.holds()) { for v in c.violations.iter().take(4) { println!("   {} [{}] {}\n      exp {}\n      got {}", c.name, c.violated, v.subject, v.expected, v.found); } }
    }
}
