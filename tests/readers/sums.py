"""Sums of a published warehouse, by DuckDB and by pyarrow, each with a plain glob. Prints JSON; amounts are counts of 1e-9, as text.

    sums.py WAREHOUSE
"""

import glob
import json
import sys
from decimal import Decimal, localcontext

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

CLASSES = ["leased_s", "used_s", "idle_s", "unknown_s", "maintenance_s", "down_s", "suspended_s", "billed_s", "paid_s"]


def nanos(amount):
    """A decimal of at most 9 places, as a whole number of 1e-9; never through a float."""
    with localcontext() as context:
        context.prec = 60
        scaled = Decimal(amount).scaleb(9)
        assert scaled == scaled.to_integral_value(), f"{amount} has more than 9 places"
        return str(int(scaled))


def report(renters, suppliers, seconds, usage, quarantine, rows):
    """renters: (contract, renter, currency, renter amount, commission); suppliers: (contract, supplier, currency, amount)."""
    accounts = {}

    def post(account, amount):
        accounts[account] = str(int(accounts.get(account, "0")) + int(nanos(amount)))

    for _, renter, currency, amount, commission in renters:
        post(f"renter:{renter}:unbilled:{currency}", amount)
        post(f"platform:commission:{currency}", commission)
    for _, supplier, currency, amount in suppliers:
        post(f"supplier:{supplier}:payable:{currency}", amount)
    return {
        "renter": {f"{contract} {currency}": nanos(amount) for contract, _, currency, amount, _ in renters},
        "commission": {f"{contract} {currency}": nanos(amount) for contract, _, currency, _, amount in renters},
        "supplier": {f"{contract} {supplier} {currency}": nanos(a) for contract, supplier, currency, a in suppliers},
        "accounts": accounts,
        "seconds": {f"{contract} {currency}": list(map(int, sums)) for contract, currency, *sums in seconds},
        "usage": dict(zip(["minutes", "present_s", "busy_s", "present_s_by_column", "busy_s_by_column"], map(int, usage))),
        "quarantine": {reason: int(count) for reason, count in quarantine},
        "rows": rows,
    }


def with_duckdb(root):
    db = duckdb.connect()
    db.execute("SET TimeZone = 'UTC'")

    def table(name):
        # A glob without a match is an error, and a warehouse without bad messages has no such file.
        found = glob.glob(f"{root}/{name}/**/*.parquet", recursive=True)
        return f"read_parquet('{root}/{name}/**/*.parquet', hive_partitioning = true)" if found else None

    def query(sql, source):
        return db.execute(sql).fetchall() if source else []

    rated, usage, quarantine = table("rated_usage"), table("usage"), table("quarantine")
    text = "CAST(sum({}) AS VARCHAR)".format
    classes = ", ".join(f"sum({name})" for name in CLASSES)
    stray = query(f"SELECT * FROM {rated} WHERE date <> CAST(window_start AS DATE)", rated)
    assert not stray, f"rated records lie in another date's folder: {stray}"
    stray = query(f"SELECT * FROM {usage} WHERE date <> CAST(minute AS DATE)", usage)
    assert not stray, f"usage rows lie in another date's folder: {stray}"
    minutes = f"""
        SELECT count(*) FILTER (present <> 0), sum(bit_count(present)), sum(bit_count(busy)), sum(present_s), sum(busy_s)
        FROM (SELECT bit_or(present) AS present, bit_or(busy) AS busy, sum(present_s) AS present_s, sum(busy_s) AS busy_s
              FROM {usage} GROUP BY server, gpu, minute)
        """
    return report(
        query(
            f"SELECT contract, renter, currency, {text('renter_amount')}, {text('commission')} FROM {rated} GROUP BY ALL",
            rated,
        ),
        query(f"SELECT contract, supplier, currency, {text('supplier_amount')} FROM {rated} GROUP BY ALL", rated),
        query(f"SELECT contract, currency, {classes} FROM {rated} GROUP BY ALL", rated),
        (query(minutes, usage) or [(0, 0, 0, 0, 0)])[0],
        query(f"SELECT reason, count(*) FROM {quarantine} GROUP BY reason", quarantine),
        {
            name: query(f"SELECT count(*) FROM {source}", source)[0][0] if source else 0
            for name, source in [("rated_usage", rated), ("usage", usage), ("quarantine", quarantine)]
        },
    )


def with_pyarrow(root):
    def table(name):
        found = glob.glob(f"{root}/{name}/**/*.parquet", recursive=True)
        if not found:
            return None
        # The folder itself, with its `date=` partitions.
        hive = ds.partitioning(pa.schema([("date", pa.date32())]), flavor="hive")
        return ds.dataset(f"{root}/{name}", format="parquet", partitioning=hive).to_table()

    rated, usage, quarantine = table("rated_usage"), table("usage"), table("quarantine")

    def sums(keys, columns):
        if not rated:
            return []
        grouped = rated.group_by(keys).aggregate([(name, "sum") for name in columns])
        for name in columns:
            kind = grouped.schema.field(f"{name}_sum").type
            assert pa.types.is_decimal(kind) or pa.types.is_integer(kind), f"the sum of {name} is a {kind}"
        return [tuple(row[key] for key in keys) + tuple(row[f"{name}_sum"] for name in columns) for row in grouped.to_pylist()]

    minutes = {}
    present_s = busy_s = 0
    columns = ["server", "gpu", "minute", "present", "busy", "present_s", "busy_s"]
    for row in usage.select(columns).to_pylist() if usage else []:
        key = (row["server"], row["gpu"], row["minute"])
        present, busy = minutes.get(key, (0, 0))
        minutes[key] = (present | row["present"], busy | row["busy"])
        present_s += row["present_s"]
        busy_s += row["busy_s"]
    bits = [(present.bit_count(), busy.bit_count()) for present, busy in minutes.values()]
    reasons = pc.value_counts(quarantine["reason"]).to_pylist() if quarantine else []
    return report(
        sums(["contract", "renter", "currency"], ["renter_amount", "commission"]),
        sums(["contract", "supplier", "currency"], ["supplier_amount"]),
        sums(["contract", "currency"], CLASSES),
        (sum(p > 0 for p, _ in bits), sum(p for p, _ in bits), sum(b for _, b in bits), present_s, busy_s),
        [(count["values"], count["counts"]) for count in reasons],
        {
            name: source.num_rows if source else 0
            for name, source in [("rated_usage", rated), ("usage", usage), ("quarantine", quarantine)]
        },
    )


def main():
    root = sys.argv[1]
    json.dump({"duckdb": with_duckdb(root), "pyarrow": with_pyarrow(root)}, sys.stdout)


if __name__ == "__main__":
    main()
