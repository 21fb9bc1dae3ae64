"""What the published files of a warehouse are like, read with pyarrow. Prints JSON: the files, and everything that is wrong with them.

    files.py WAREHOUSE
"""

import datetime
import json
import pathlib
import re
import sys

import pyarrow as pa
import pyarrow.parquet as pq

NAME = re.compile(r"(?P<topic>.+)-(?P<partition>\d{4,})-(?P<hour>\d{4}-\d\d-\d\dT\d\d)(\.r(?P<revision>\d{6,}))?\.parquet")
UTC = datetime.timezone.utc
TIME = pa.timestamp("us", tz="UTC")
AMOUNT = pa.decimal128(38, 9)
TYPES = {
    "usage": {
        "minute": TIME,
        "energy_first_at": TIME,
        "energy_last_at": TIME,
        "present": pa.uint64(),
        "busy": pa.uint64(),
        "healthy": pa.uint64(),
        "present_s": pa.int32(),
        "busy_s": pa.int32(),
    },
    "rated_usage": {
        "window_start": TIME,
        "window_end": TIME,
        "period_start": TIME,
        "version_from": TIME,
        "price": pa.decimal128(38, 12),
        "supplier_share_percent": pa.decimal128(12, 6),
        "renter_amount": AMOUNT,
        "supplier_amount": AMOUNT,
        "commission": AMOUNT,
        "billed_s": pa.int64(),
        "paid_s": pa.int64(),
    },
    "quarantine": {"log_time": TIME, "raw": pa.binary(), "reason": pa.string(), "offset": pa.int64()},
}


def null_first(value):
    return (value is not None, value if value is not None else "")


def order(table, row):
    if table == "usage":
        return (row["server"], row["gpu"], row["minute"])
    if table == "rated_usage":
        return tuple(map(null_first, (row["lease"], row["slot"]))) + (row["window_start"], row["window_end"])
    return (row["topic"], row["partition"], row["offset"])


def masks_agree(row):
    return (
        row["present"] < 1 << 60
        and row["busy"] & ~row["present"] == 0
        and row["present_s"] == row["present"].bit_count()
        and row["busy_s"] == row["busy"].bit_count()
    )


def amounts_agree(row):
    classes = sum(row[name] for name in ["used_s", "idle_s", "unknown_s", "maintenance_s", "down_s", "suspended_s"])
    return row["commission"] == row["renter_amount"] - row["supplier_amount"] and row["leased_s"] == classes


class File:
    def __init__(self, root, path, wrong):
        self.path, self.wrong = path, wrong
        self.name = str(path.relative_to(root))
        self.table = path.relative_to(root).parts[0]
        self.records = []

    def check(self):
        named = NAME.fullmatch(self.path.name)
        if not named:
            return self.say("its name is not TOPIC-PARTITION-HOUR[.rREVISION].parquet")
        self.hour = datetime.datetime.strptime(named["hour"], "%Y-%m-%dT%H").replace(tzinfo=UTC)
        self.partition, self.revision = int(named["partition"]), int(named["revision"] or 0)
        self.key = (self.table, named["topic"], self.partition, named["hour"], self.revision)
        if self.path.parent.name != f"date={self.hour:%Y-%m-%d}":
            self.say("it lies in another date's folder")
        file = pq.ParquetFile(self.path)
        self.check_metadata(file)
        rows = file.read().to_pylist()
        if not rows:
            self.say("it holds no row")
        keys = [order(self.table, row) for row in rows]
        if keys != sorted(keys):
            self.say("its rows are out of order")
        if self.table == "usage" and len(set(keys)) != len(keys):
            self.say("it holds a metered minute twice")
        for row in rows:
            self.check_row(row)

    def check_metadata(self, file):
        metadata = file.metadata
        for column in (metadata.row_group(g).column(c) for g in range(metadata.num_row_groups) for c in range(metadata.num_columns)):
            if column.compression != "ZSTD":
                self.say(f"{column.path_in_schema} is compressed with {column.compression}")
            if not column.is_stats_set:
                self.say(f"{column.path_in_schema} has no statistics")
            elif not column.statistics.has_null_count:
                self.say(f"{column.path_in_schema} has statistics without a count of nulls")
            elif column.statistics.null_count < column.num_values and not column.statistics.has_min_max:
                self.say(f"{column.path_in_schema} has statistics without bounds")
        kept = metadata.metadata or {}
        if kept.get(b"hydrometer.schema_version") != b"2":
            self.say(f"hydrometer.schema_version is {kept.get(b'hydrometer.schema_version')}")
        if not re.fullmatch(rb"[1-9]\d*", kept.get(b"hydrometer.epoch", b"")):
            self.say(f"hydrometer.epoch is {kept.get(b'hydrometer.epoch')}")
        schema = file.schema_arrow
        for name, kind in TYPES[self.table].items():
            if schema.field(name).type != kind:
                self.say(f"{name} is {schema.field(name).type}, not {kind}")
        for field in schema:
            if pa.types.is_timestamp(field.type) and field.type != TIME:
                self.say(f"{field.name} is {field.type}")
            # Measured watts may be floats; money may not.
            if pa.types.is_floating(field.type) and field.name not in ("power_min_w", "power_max_w"):
                self.say(f"{field.name} is {field.type}")

    def check_row(self, row):
        end = self.hour + datetime.timedelta(hours=1)
        if self.table == "quarantine" and row["partition"] != self.partition:
            self.say(f"a row of partition {row['partition']}")
        if self.table == "usage":
            if not self.hour <= row["minute"] < end:
                self.say(f"a row of another hour: {row['minute']}")
            if row["revision"] != self.revision:
                self.say(f"a row of revision {row['revision']}")
            if not masks_agree(row):
                self.say(f"masks that do not fit their counts: {row}")
        if self.table == "rated_usage":
            if not (self.hour <= row["window_start"] and row["window_end"] <= end):
                self.say(f"a row of another hour: {row['window_start']}")
            # A file counts the hour's revisions, a record those of its own window.
            if row["partition"] != self.partition or not min(self.revision, 1) <= row["revision"] <= self.revision:
                self.say(f"a row of partition {row['partition']} and revision {row['revision']}")
            if row["kind"] != "adjustment" and row["kind"] != ("correction" if self.revision else "usage"):
                self.say(f"a row of kind {row['kind']}")
            self.records.append(row["record"])
            if not amounts_agree(row):
                self.say(f"sums that do not fit: {row}")

    def say(self, what):
        self.wrong.append(f"{self.name}: {what}")


def main():
    root = pathlib.Path(sys.argv[1])
    wrong, keys, names, records = [], {}, [], {}
    for table in TYPES:
        for path in sorted(root.glob(f"{table}/**/*.parquet")):
            file = File(root, path, wrong)
            names.append(file.name)
            file.check()
            if hasattr(file, "key"):
                keys.setdefault(file.key, []).append(file.name)
            for record in file.records:
                records.setdefault(record, []).append(file.name)
    wrong += [f"{of_key}: one table, partition, hour and revision twice" for of_key in keys.values() if len(of_key) > 1]
    wrong += [f"{of_record}: the record {record} twice" for record, of_record in records.items() if len(of_record) > 1]
    corrected = {key[3] for key in keys if key[0] == "rated_usage" and key[4] > 0}
    json.dump({"files": sorted(names), "wrong": wrong, "corrected_hours": sorted(corrected)}, sys.stdout)


if __name__ == "__main__":
    main()
