//! The views that finance would write first. Amounts stay decimals; only shares of them (percent) are floats.

pub struct View {
    pub name: &'static str,
    pub about: &'static str,
    pub sql: &'static str,
}

/// The day of a record is the day on which its window starts: a window that ends at midnight belongs to the day before. The window of
/// what falls due is its hour or its billing period, so a period's fees and credits stand on its first day.
pub const VIEWS: [View; 10] = [
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
        sql: "SELECT day, renter, contract, leased_s, used_s, idle_s, unknown_s, maintenance_s, down_s, suspended_s, \
                     CASE WHEN leased_s = 0 THEN NULL \
                          ELSE round(100 * CAST(used_s AS DOUBLE) / CAST(leased_s AS DOUBLE), 4) END AS used_percent \
              FROM (SELECT CAST(window_start AS DATE) AS day, renter, contract, sum(leased_s) AS leased_s, sum(used_s) AS used_s, \
                           sum(idle_s) AS idle_s, sum(unknown_s) AS unknown_s, sum(maintenance_s) AS maintenance_s, sum(down_s) AS down_s, \
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
        name: "wallets",
        about: "prepaid money that is left, and what is owed beyond it (`hydrometer wallet list` says until when it lasts)",
        sql: "SELECT w.party, w.currency, e.balance, e.paid, e.promotional, e.receivable, e.at AS as_of \
              FROM ledger_wallet AS w JOIN ledger_wallet_state AS s ON s.wallet = w.id \
              JOIN ledger_wallet_entry AS e ON e.wallet = s.wallet AND e.number = s.number",
    },
    View {
        name: "corrections",
        about: "rated records that correct an earlier one",
        sql: "SELECT record, window_start, window_end, contract, charge, renter, supplier, lease, server, slot, gpu, revision, used_s, \
                     idle_s, unknown_s, maintenance_s, down_s, suspended_s, billed_s, paid_s, basis, quantity, paid_quantity, \
                     period_start, booked_start, currency, renter_amount, supplier_amount, commission, \"commit\" \
              FROM rated_usage WHERE kind = 'correction'",
    },
    View {
        name: "dues",
        about: "what fell due when hours and billing periods were closed (fees, true-ups, minimums, credits), by period, kind and subject",
        sql: "SELECT kind, contract, renter, charge, period_start, resource AS subject, supplier, currency, count(*) AS records, \
                     sum(renter_amount) AS renter_amount, sum(supplier_amount) AS supplier_amount, sum(commission) AS commission \
              FROM rated_usage WHERE kind NOT IN ('usage', 'correction', 'adjustment') \
              GROUP BY kind, contract, renter, charge, period_start, resource, supplier, currency",
    },
    View {
        name: "uptime",
        about: "uptime as the SLA counts it, by lease and billing period: what was promised less what was down by another's fault",
        sql: "SELECT contract, renter, period_start, lease, server, leased_s, promised_s, down_s, down_platform_s, down_renter_s, \
                     maintenance_s, suspended_s, CASE WHEN promised_s = 0 THEN NULL \
                          ELSE round(100 - 100 * CAST(down_s - down_renter_s AS DOUBLE) / CAST(promised_s AS DOUBLE), 6) END AS uptime_percent \
              FROM (SELECT contract, renter, to_timestamp_seconds(billing_s) AS period_start, lease, server, \
                           sum(used_s + idle_s + unknown_s + down_s + suspended_s + maintenance_s) AS leased_s, \
                           sum(used_s + idle_s + unknown_s + down_s) AS promised_s, sum(down_s) AS down_s, \
                           sum(down_platform_s) AS down_platform_s, sum(down_renter_s) AS down_renter_s, \
                           sum(maintenance_s) AS maintenance_s, sum(suspended_s) AS suspended_s \
                    FROM lease_use GROUP BY contract, renter, billing_s, lease, server)",
    },
    View {
        name: "unbilled",
        about: "what renters have used and is on no invoice yet",
        sql: "SELECT replace(a.party, 'renter:', '') AS renter, a.currency, b.debits - b.credits AS amount \
              FROM ledger_account AS a JOIN ledger_balance AS b ON b.account = a.id WHERE a.purpose = 'unbilled'",
    },
];
