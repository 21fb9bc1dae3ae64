//! What a proof says: checks with what they looked at and what does not hold, and lists of what is worth knowing.

use serde_json::{Value, json};

/// How many violations of one check are kept; the rest is only counted.
const KEPT: usize = 20;

/// Something that does not hold, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The row: a file, a record, a lease and window, an account …
    pub subject: String,
    pub expected: String,
    pub found: String,
}

#[derive(Debug, Clone)]
pub struct Check {
    pub name: &'static str,
    /// What it proves.
    pub proves: &'static str,
    /// How much was looked at: (of what, how many).
    pub checked: Vec<(&'static str, u64)>,
    /// What waits for work that is owed: (what, how many).
    pub pending: Vec<(&'static str, u64)>,
    /// The first ones.
    pub violations: Vec<Violation>,
    /// All of them.
    pub violated: u64,
}

impl Check {
    pub fn holds(&self) -> bool {
        self.violated == 0
    }

    pub(super) fn count(&mut self, what: &'static str, many: u64) {
        add(&mut self.checked, what, many);
    }

    pub(super) fn wait(&mut self, what: &'static str, many: u64) {
        add(&mut self.pending, what, many);
    }

    pub(super) fn violation(
        &mut self,
        subject: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) {
        self.violated += 1;
        if self.violations.len() < KEPT {
            let violation = Violation { subject: subject.into(), expected: expected.into(), found: found.into() };
            self.violations.push(violation);
        }
    }
}

fn add(counts: &mut Vec<(&'static str, u64)>, what: &'static str, many: u64) {
    match counts.iter_mut().find(|count| count.0 == what) {
        Some(count) => count.1 += many,
        None => counts.push((what, many)),
    }
}

/// What is no violation and still worth knowing.
#[derive(Debug, Clone)]
pub struct List {
    pub name: &'static str,
    /// What the numbers count.
    pub unit: &'static str,
    pub total: u64,
    pub entries: Vec<(String, u64)>,
}

#[derive(Debug, Clone)]
pub struct Report {
    pub checks: Vec<Check>,
    pub lists: Vec<List>,
}

/// Every check, in the order of the way of the data.
const CHECKS: [(&str, &str); 18] = [
    ("history", "what is applied follows from the events in their own order, never from their arrival"),
    ("commits", "law 8: each partition's commits are one chain, and its lease stands at the chain's end"),
    ("written", "law 8: every row was written by a commit, from offsets that the commit handled"),
    (
        "manifest",
        "law 8: every published file and staged object is there as it was named, and no other file lies beside them",
    ),
    ("usage", "law 1: a minute is a set of seconds; no row repeats a second that another one holds"),
    ("homes", "every minute and every record is in the partition that is its server's home"),
    ("quarantine", "a message is set aside once, for a known reason"),
    ("rated", "each record is once in the files, as its commit said it, with the amounts of its commit's steps"),
    ("leased", "law 3: every leased second is in one class; the classes sum to the lease"),
    ("evidence", "laws 2 and 3: the records are what timelines and metered masks give when they are rated again"),
    ("xids", "laws 2 and 9: fatal XIDs on record are those that the metered minutes begin with"),
    ("steps", "law 4: a period's total is a pure function of its quantities, reached by an unbroken chain of steps"),
    ("lease_use", "law 4: what each lease used of a billing period is the sum of its records"),
    (
        "dues",
        "law 4: what falls due when an hour or a period is closed follows from what was used, and was said and published once",
    ),
    ("closings", "laws 6 and 8: periods are closed by a closing, and nothing is booked in one after that"),
    ("postings", "laws 5 and 7: records, steps and postings are the same money, for each contract, period and account"),
    ("corrections", "law 6: a correction names what it corrects, and has its revision"),
    ("ledger", "laws 6 and 7: debits equal credits, posted is immutable, the protection is in place"),
];

impl Default for Report {
    fn default() -> Self {
        let check = |(name, proves)| Check {
            name,
            proves,
            checked: Vec::new(),
            pending: Vec::new(),
            violations: Vec::new(),
            violated: 0,
        };
        Report { checks: CHECKS.map(check).into(), lists: Vec::new() }
    }
}

impl Report {
    /// Whether everything that was looked at holds.
    pub fn holds(&self) -> bool {
        self.checks.iter().all(Check::holds)
    }

    /// The check of a name of [`CHECKS`]; any other name begins one of its own.
    pub(super) fn check(&mut self, name: &'static str) -> &mut Check {
        let index = self.checks.iter().position(|check| check.name == name).unwrap_or_else(|| {
            let (checked, pending, violations) = (Vec::new(), Vec::new(), Vec::new());
            self.checks.push(Check { name, proves: name, checked, pending, violations, violated: 0 });
            self.checks.len() - 1
        });
        &mut self.checks[index]
    }

    pub fn to_json(&self) -> Value {
        let counts = |counts: &[(&str, u64)]| -> Value {
            counts
                .iter()
                .map(|(what, many)| ((*what).to_owned(), json!(many)))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        let checks = self.checks.iter().map(|check| {
            json!({
                "name": check.name, "proves": check.proves, "holds": check.holds(),
                "checked": counts(&check.checked), "pending": counts(&check.pending), "violated": check.violated,
                "violations": check.violations.iter()
                    .map(|v| json!({ "subject": v.subject, "expected": v.expected, "found": v.found }))
                    .collect::<Vec<_>>(),
            })
        });
        let lists = self.lists.iter().map(|list| {
            let entries = list.entries.iter().map(|(what, many)| json!({ "what": what, list.unit: many }));
            json!({ "name": list.name, "unit": list.unit, "total": list.total, "entries": entries.collect::<Vec<_>>() })
        });
        json!({
            "holds": self.holds(), "checks": checks.collect::<Vec<_>>(), "lists": lists.collect::<Vec<_>>(),
        })
    }
}
