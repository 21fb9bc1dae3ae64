//! The Arrow schemas of the warehouse tables. Evolution only adds columns; [`VERSION`] says which set a file has.

use std::sync::{Arc, LazyLock};

use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};

/// Schema version, written into every file's key-value metadata.
pub const VERSION: &str = "2";

/// Amounts: 38 digits, 9 after the point.
pub const AMOUNT: DataType = DataType::Decimal128(38, 9);
/// Unit prices: 38 digits, 12 after the point.
pub const PRICE: DataType = DataType::Decimal128(38, 12);
/// The supplier's share in percent: 6 digits after the point.
pub const SHARE: DataType = DataType::Decimal128(12, 6);

fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC")))
}

fn field(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, false)
}

fn optional(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, true)
}

/// `usage/`: one row per server, GPU and minute. The masks hold one bit per second of the minute, bit 0 first.
/// A later row for the same minute (`revision` above 0) holds only bits that no earlier row has, so sums stay right.
pub static USAGE: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        field("server", DataType::Utf8),
        field("gpu", DataType::Utf8),
        field("minute", timestamp()),
        field("present", DataType::UInt64),
        field("busy", DataType::UInt64),
        field("healthy", DataType::UInt64),
        field("present_s", DataType::Int32),
        field("busy_s", DataType::Int32),
        optional("power_min_w", DataType::Float64),
        optional("power_max_w", DataType::Float64),
        optional("mem_max_bytes", DataType::Int64),
        optional("energy_first_at", timestamp()),
        optional("energy_first_j", DataType::Int64),
        optional("energy_last_at", timestamp()),
        optional("energy_last_j", DataType::Int64),
        optional("xids", DataType::Utf8),
        field("topic", DataType::Utf8),
        field("partition", DataType::Int32),
        field("first_offset", DataType::Int64),
        field("last_offset", DataType::Int64),
        field("revision", DataType::Int32),
    ]))
});

/// `rated_usage/`: one row per lease, slot, GPU, charge, window and cell (price version, time of the week, supplier), per revision
/// the difference, and per closing what fell due. Sums over all rows are right: amounts in all of them, seconds by class in one
/// charge's rows of each lease. Staged objects hold the same columns with the amounts still zero.
pub static RATED: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        field("record", DataType::Utf8),
        field("kind", DataType::Utf8),
        field("contract", DataType::Utf8),
        field("charge", DataType::Utf8),
        field("renter", DataType::Utf8),
        field("supplier", DataType::Utf8),
        optional("lease", DataType::Utf8),
        optional("server", DataType::Utf8),
        optional("slot", DataType::Int32),
        optional("gpu", DataType::Utf8),
        field("window_start", timestamp()),
        field("window_end", timestamp()),
        field("period_start", timestamp()),
        field("ladder_start", timestamp()),
        field("resource", DataType::Utf8),
        field("version_from", timestamp()),
        field("rate", DataType::Utf8),
        field("segment", DataType::Int32),
        optional("price", PRICE),
        optional("supplier_share_percent", SHARE),
        field("currency", DataType::Utf8),
        field("leased_s", DataType::Int64),
        field("used_s", DataType::Int64),
        field("idle_s", DataType::Int64),
        field("unknown_s", DataType::Int64),
        field("maintenance_s", DataType::Int64),
        field("down_s", DataType::Int64),
        field("down_platform_s", DataType::Int64),
        field("down_renter_s", DataType::Int64),
        field("suspended_s", DataType::Int64),
        field("billed_s", DataType::Int64),
        field("paid_s", DataType::Int64),
        field("basis", DataType::Utf8),
        field("quantity", DataType::Int64),
        field("paid_quantity", DataType::Int64),
        field("lost_quantity", DataType::Int64),
        field("renter_amount", AMOUNT),
        field("supplier_amount", AMOUNT),
        field("commission", AMOUNT),
        field("booked_start", timestamp()),
        field("partition", DataType::Int32),
        field("revision", DataType::Int32),
        field("commit", DataType::Utf8),
    ]))
});

/// `quarantine/`: one row per message that could not be decoded or believed.
pub static QUARANTINE: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        field("topic", DataType::Utf8),
        field("partition", DataType::Int32),
        field("offset", DataType::Int64),
        field("log_time", timestamp()),
        field("reason", DataType::Utf8),
        field("detail", DataType::Utf8),
        field("raw", DataType::Binary),
    ]))
});

/// A table of the warehouse; its name is its directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    Usage,
    Rated,
    Quarantine,
}

impl Table {
    pub const ALL: [Table; 3] = [Table::Usage, Table::Rated, Table::Quarantine];

    pub fn name(self) -> &'static str {
        match self {
            Table::Usage => "usage",
            Table::Rated => "rated_usage",
            Table::Quarantine => "quarantine",
        }
    }

    pub fn schema(self) -> SchemaRef {
        match self {
            Table::Usage => USAGE.clone(),
            Table::Rated => RATED.clone(),
            Table::Quarantine => QUARANTINE.clone(),
        }
    }
}
