//! The views that finance would write first. Amounts stay decimals; only shares of them (percent) are floats.

pub struct View {
    pub name: &'static str,
    pub about: &'static str,
    pub sql: &'static str,
}

/// The day of a record is the day on which its window starts: a window that ends at midnight belongs to the day before.
pub const VIEWS: [View; 7] = [
    View {
        name: "revenue",
        about: "what renters owe, by day, renter and contract",
        sql: "SELECT CAST(window_start AS DATE) AS day, renter, contract, currency, sum(billed_s) AS billed_s, \
                     sum(renter_amount) AS amount \
              FROM rated_usage GROUP BY CAST(window_start AS DATE), renter, contract, currency",
    },
    View {
        name: "earnings",
        about: "what suppliers earn, by day and supplier",
        sql: "SELECT CAST(window_start AS DATE) AS day, supplier, currency, sum(paid_s) AS paid_s, sum(supplier_amount) AS amount \
              FROM rated_usage GROUP BY CAST(window_start AS DATE), supplier, currency",
    },
    View {
        name: "margin",
        about: "what the platform keeps, by day and contract",
        sql: "SELECT day, contract, currency, renter_amount, supplier_amount, commission, \
                     CASE WHEN renter_amount = 0 THEN NULL \
                          ELSE round(100 * CAST(commission AS DOUBLE) / CAST(renter_amount AS DOUBLE), 4) END AS commission_percent \
              FROM (SELECT CAST(window_start AS DATE) AS day, contract, currency, sum(renter_amount) AS renter_amount, \
                           sum(supplier_amount) AS supplier_amount, sum(commission) AS commission \
                    FROM rated_usage GROUP BY CAST(window_start AS DATE), contract, currency)",
    },
    View {
        name: "utilisation",
        about: "leased seconds by class, by day, renter and contract",
        sql: "SELECT day, renter, contract, leased_s, used_s, idle_s, unknown_s, down_s, suspended_s, \
                     CASE WHEN leased_s = 0 THEN NULL \
                          ELSE round(100 * CAST(used_s AS DOUBLE) / CAST(leased_s AS DOUBLE), 4) END AS used_percent \
              FROM (SELECT CAST(window_start AS DATE) AS day, renter, contract, sum(leased_s) AS leased_s, sum(used_s) AS used_s, \
                           sum(idle_s) AS idle_s, sum(unknown_s) AS unknown_s, sum(down_s) AS down_s, \
                           sum(suspended_s) AS suspended_s \
                    FROM rated_usage GROUP BY CAST(window_start AS DATE), renter, contract)",
    },
    View {
        name: "unknown_seconds",
        about: "leased seconds without any reading, by server, GPU and hour",
        sql: "SELECT server, gpu, date_trunc('hour', window_start) AS hour, sum(unknown_s) AS unknown_s \
              FROM rated_usage GROUP BY server, gpu, date_trunc('hour', window_start) HAVING sum(unknown_s) <> 0",
    },
    View {
        name: "corrections",
        about: "rated records that correct an earlier one",
        sql: "SELECT record, window_start, window_end, contract, renter, supplier, lease, server, slot, gpu, revision, used_s, idle_s, \
                     unknown_s, down_s, suspended_s, billed_s, paid_s, currency, renter_amount, supplier_amount, commission, \"commit\" \
              FROM rated_usage WHERE kind = 'correction'",
    },
    View {
        name: "unbilled",
        about: "what renters have used and is on no invoice yet",
        sql: "SELECT replace(a.party, 'renter:', '') AS renter, a.currency, b.debits - b.credits AS amount \
              FROM ledger_account AS a JOIN ledger_balance AS b ON b.account = a.id WHERE a.purpose = 'unbilled'",
    },
];
