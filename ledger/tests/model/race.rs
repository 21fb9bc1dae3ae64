//! Many clients at one wallet: what is spent never exceeds what was there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hydrometer_ledger::{Amount, LedgerError, RefusalReason, funds, post, verify};

use crate::book::{running_balances, set_limit};
use crate::common::{self, Database, Random, account, transaction, transfer};
use crate::server::Server;

const CLIENTS: u64 = 64;
const TRIES: u64 = 12;
const FUNDS: i128 = 20_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_clients_never_spend_more_than_there_was() {
    let mut random = Random::seeded();
    let server = Server::create();
    let database = Database::create_on(&server.superuser()).await;
    let mut app = database.app().await;
    common::post(&mut app, &[transaction("fund", vec![transfer("wallet", "bank", FUNDS)])]).await.unwrap();
    set_limit(&database.owner().await, &account("wallet"), "0").await;
    let name = account("wallet").name;

    let over = Arc::new(AtomicBool::new(false));
    let sampler = {
        let (client, name, over) = (database.app().await, name.clone(), over.clone());
        tokio::spawn(async move {
            let mut samples = 0;
            while !over.load(Ordering::Relaxed) {
                let now = funds(&client, &name).await.unwrap();
                assert!(now[0].available >= Amount::ZERO, "overdrawn: {:?}", now[0]);
                assert_eq!(now[0].debits.nanos(), FUNDS);
                samples += 1;
            }
            samples
        })
    };
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let mut client = database.app().await;
        let mut random = Random(random.below(u64::MAX));
        clients.push(tokio::spawn(async move {
            let (mut spent, mut refused) = (0, 0);
            for n in 0..TRIES {
                let amount = 1 + i128::from(random.below(100));
                // To and fro between shops beside it, so that sets meet on several accounts in any order.
                let mut lines = vec![transfer(&random.below(8).to_string(), "wallet", amount)];
                let (from, to) = (random.below(8), random.below(8));
                if from != to {
                    lines.push(transfer(&from.to_string(), &to.to_string(), 1));
                }
                let set = [transaction(&format!("{number}/{n}"), lines)];
                loop {
                    let tx = client.transaction().await.unwrap();
                    match post(&tx, &set).await {
                        Ok(_) => {
                            tx.commit().await.unwrap();
                            spent += amount;
                        }
                        Err(LedgerError::Refused(refusal)) => {
                            let RefusalReason::Limit(short) = &refusal.reason else { panic!("{refusal}") };
                            assert!(short.available.nanos() + short.change.nanos() < 0, "there was enough: {refusal}");
                            refused += 1;
                        }
                        // A deadlock would be one of these: tried again, and no lack of funds.
                        Err(error) if error.is_transient() => continue,
                        Err(error) => panic!("{error}"),
                    }
                    break;
                }
            }
            (spent, refused)
        }));
    }
    let (mut spent, mut refused) = (0, 0);
    for client in clients {
        let (own_spent, own_refused) = client.await.unwrap();
        spent += own_spent;
        refused += own_refused;
    }
    over.store(true, Ordering::Relaxed);
    assert!(sampler.await.unwrap() > 0);
    println!("spent {spent} of {FUNDS}, refused {refused} of {}", CLIENTS * TRIES);
    assert!(spent <= FUNDS && refused > 0, "spent {spent} of {FUNDS}, refused {refused}");
    let left = funds(&app, &name).await.unwrap();
    assert_eq!(left[0].available.nanos(), FUNDS - spent);
    assert!(running_balances(&app, &name).await.iter().all(|net| *net >= 0));
    assert_eq!(verify(&app).await.unwrap(), []);
}
