use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;

use super::*;

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

fn split(time: Micros, vouches_for: i64) -> Vec<Piece> {
    let mut found = Vec::new();
    pieces(3, time, vouches_for, |piece| found.push(piece));
    found
}

/// The seconds that pieces cover.
fn seconds(pieces: &[Piece]) -> Vec<i64> {
    let bits = |p: &Piece| (0..64).filter(move |bit| p.mask >> bit & 1 == 1).collect::<Vec<i64>>();
    pieces.iter().flat_map(|p| bits(p).into_iter().map(|bit| p.minute * 60 + bit)).collect()
}

#[test]
fn pieces_cover_exactly_what_is_vouched_for() {
    for base in [-7_200, 0, 1_772_359_200] {
        for second in base..base + 60 {
            for vouches_for in (1..=130).chain([599, 600, 601, 3_599, 3_600]) {
                for micros in [0, 1, 999_999] {
                    let found = split(second * MICROS_PER_SECOND + micros, vouches_for);
                    let expected: Vec<i64> = (second..second + vouches_for).collect();
                    assert_eq!(seconds(&found), expected, "second {second}, {vouches_for} s");
                    assert!(found.iter().all(|p| p.reading == 3 && p.mask != 0 && p.mask < 1 << 60));
                    let own: Vec<i64> = found.iter().filter(|p| p.own).map(|p| p.minute).collect();
                    assert_eq!(own, [second.div_euclid(60)], "levels count in the reading's own minute only");
                    assert!(found.windows(2).all(|pair| pair[0].minute + 1 == pair[1].minute));
                }
            }
        }
    }
}

/// Readings of a few GPUs in a few minutes, with many ties and many nulls.
fn some_readings(random: &mut Random) -> Readings {
    let mut readings = Readings::default();
    for offset in 0..random.below(120) {
        readings.identity.push(random.below(4) as u32);
        readings.time.push(((60 + random.below(120)) * 1_000_000 + [0, 0, 1, 500_000][random.below(4)]) as i64);
        readings.log_time.push(0);
        readings.offset.push((offset / 3) as i64);
        readings.busy.push(random.below(2) == 0);
        readings.healthy.push(random.below(3) == 0);
        readings.power_w.push((random.below(3) > 0).then(|| random.below(5) as f64 * 100.25));
        readings.energy_j.push((random.below(3) > 0).then(|| random.below(4) as i64));
        readings.mem_bytes.push((random.below(4) > 0).then(|| random.below(3) as i64 * 1_000));
        readings.xid.push([0, 0, 31, 79][random.below(4)]);
    }
    readings
}

/// All pieces of some readings, with their groups: GPU and minute.
fn all_pieces(readings: &Readings, vouches_for: i64) -> Vec<(Piece, usize)> {
    let mut found = Vec::new();
    for i in 0..readings.len() {
        pieces(i as u32, readings.time[i], vouches_for, |piece| {
            let group = readings.identity[i] as usize * 8 + piece.minute as usize;
            found.push((piece, group));
        });
    }
    found
}

/// Folds pieces in batches of a random size.
fn folded(aggregates: &Aggregates, readings: &Readings, pieces: &[(Piece, usize)], random: &mut Random) -> Vec<Folded> {
    let mut fold = Fold::new(aggregates).unwrap();
    let mut rest = pieces;
    while !rest.is_empty() {
        let (batch, after) = rest.split_at(1 + random.below(rest.len()));
        let (pieces, groups): (Vec<Piece>, Vec<usize>) = batch.iter().copied().unzip();
        fold.update(aggregates, readings, &pieces, &groups).unwrap();
        rest = after;
    }
    fold.finish().unwrap()
}

/// The same, second by second and reading by reading, without any aggregate.
fn by_hand(readings: &Readings, pieces: &[(Piece, usize)]) -> Vec<Folded> {
    let mut groups: BTreeMap<usize, Folded> = BTreeMap::new();
    for (piece, group) in pieces {
        let i = piece.reading as usize;
        let new = groups.entry(*group).or_insert_with(|| Folded {
            member: *group as u32,
            present: 0,
            busy: 0,
            healthy: 0,
            power_min_w: None,
            power_max_w: None,
            mem_max_bytes: None,
            energy_first: None,
            energy_last: None,
            xids: BTreeMap::new(),
            first_offset: i64::MAX,
            last_offset: i64::MIN,
        });
        new.present |= piece.mask;
        new.busy |= if readings.busy[i] { piece.mask } else { 0 };
        new.healthy |= if readings.healthy[i] { piece.mask } else { 0 };
        new.first_offset = new.first_offset.min(readings.offset[i]);
        new.last_offset = new.last_offset.max(readings.offset[i]);
        if !piece.own {
            continue;
        }
        if let Some(power) = readings.power_w[i] {
            new.power_min_w = Some(new.power_min_w.map_or(power, |p| p.min(power)));
            new.power_max_w = Some(new.power_max_w.map_or(power, |p| p.max(power)));
        }
        new.mem_max_bytes = new.mem_max_bytes.max(readings.mem_bytes[i]);
        if let Some(energy) = readings.energy_j[i] {
            let reading = (readings.time[i], energy);
            new.energy_first = Some(new.energy_first.map_or(reading, |r| r.min(reading)));
            new.energy_last = new.energy_last.max(Some(reading));
        }
        if readings.xid[i] != 0 {
            let second = (readings.time[i] / MICROS_PER_SECOND % 60) as u8;
            let first = new.xids.entry(readings.xid[i]).or_insert(second);
            *first = second.min(*first);
        }
    }
    groups.into_values().collect()
}

#[test]
fn order_batching_and_duplicates_change_nothing() {
    let aggregates = Aggregates::new().unwrap();
    for seed in 0..300 {
        let mut random = Random(seed);
        let readings = some_readings(&mut random);
        let vouches_for = [1, 1, 2, 15, 60, 61, 150][random.below(7)];
        let mut pieces = all_pieces(&readings, vouches_for);
        let expected = by_hand(&readings, &pieces);
        assert_eq!(folded(&aggregates, &readings, &pieces, &mut random), expected, "seed {seed}");
        for _ in 0..3 {
            for _ in 0..random.below(20).min(pieces.len()) {
                pieces.push(pieces[random.below(pieces.len())]);
            }
            random.shuffle(&mut pieces);
            assert_eq!(folded(&aggregates, &readings, &pieces, &mut random), expected, "seed {seed}");
        }
    }
}

/// A metered minute as one would write it in SQL.
const MINUTE_SQL: &str = "bit_or(present), bit_or(busy), bit_or(healthy), min(power_w), max(power_w), max(mem_bytes), \
     min(energy_time), first_value(energy_j ORDER BY time, energy_j) FILTER (WHERE energy_j IS NOT NULL), \
     max(energy_time), last_value(energy_j ORDER BY time, energy_j) FILTER (WHERE energy_j IS NOT NULL), \
     min(\"offset\"), max(\"offset\")";

/// That statement over the input that the fold reads (and the counters as they are), in several batches.
async fn by_sql(
    aggregates: &Aggregates,
    readings: &Readings,
    pieces: &[(Piece, usize)],
    random: &mut Random,
) -> Vec<Folded> {
    let fields = aggregates.schema.fields().iter().cloned();
    let further = [("time", false), ("energy_time", true), ("energy_j", true), ("grp", false)]
        .map(|(name, nullable)| Arc::new(Field::new(name, DataType::Int64, nullable)));
    let schema = Arc::new(Schema::new(fields.chain(further).collect::<Vec<_>>()));
    let mut partitions: Vec<Vec<RecordBatch>> = vec![Vec::new(); 3];
    let mut rest = pieces;
    while !rest.is_empty() {
        let (batch, after) = rest.split_at(1 + random.below(rest.len()));
        let (pieces, groups): (Vec<Piece>, Vec<usize>) = batch.iter().copied().unzip();
        let mut columns = aggregates.input(readings, &pieces).unwrap().columns().to_vec();
        let of =
            |p: &Piece| (readings.time[p.reading as usize], readings.energy_j[p.reading as usize].filter(|_| p.own));
        columns.push(Arc::new(pieces.iter().map(|p| Some(of(p).0)).collect::<Int64Array>()));
        columns.push(Arc::new(pieces.iter().map(|p| of(p).1.map(|_| of(p).0)).collect::<Int64Array>()));
        columns.push(Arc::new(pieces.iter().map(|p| of(p).1).collect::<Int64Array>()));
        columns.push(Arc::new(Int64Array::from_iter_values(groups.iter().map(|g| *g as i64))));
        partitions[random.below(3)].push(RecordBatch::try_new(schema.clone(), columns).unwrap());
        rest = after;
    }
    let context = SessionContext::new();
    context.register_table("input", Arc::new(MemTable::try_new(schema, partitions).unwrap())).unwrap();
    let statement = format!("SELECT grp, {MINUTE_SQL} FROM input GROUP BY grp ORDER BY grp");
    let batches = context.sql(&statement).await.unwrap().collect().await.unwrap();
    let mut rows = Vec::new();
    for batch in &batches {
        let mask = |i: usize, row: usize| batch.column(i).as_primitive::<UInt64Type>().value(row);
        let integer = |i: usize, row: usize| {
            let column = batch.column(i).as_primitive::<Int64Type>();
            column.is_valid(row).then(|| column.value(row))
        };
        let float = |i: usize, row: usize| {
            let column = batch.column(i).as_primitive::<Float64Type>();
            column.is_valid(row).then(|| column.value(row))
        };
        rows.extend((0..batch.num_rows()).map(|row| Folded {
            member: integer(0, row).unwrap() as u32,
            present: mask(1, row),
            busy: mask(2, row),
            healthy: mask(3, row),
            power_min_w: float(4, row),
            power_max_w: float(5, row),
            mem_max_bytes: integer(6, row),
            energy_first: integer(7, row).zip(integer(8, row)),
            energy_last: integer(9, row).zip(integer(10, row)),
            xids: BTreeMap::new(),
            first_offset: integer(11, row).unwrap(),
            last_offset: integer(12, row).unwrap(),
        }));
    }
    rows
}

#[tokio::test]
async fn the_fold_is_what_sql_says() {
    let aggregates = Aggregates::new().unwrap();
    for seed in 1_000..1_040 {
        let mut random = Random(seed);
        let readings = some_readings(&mut random);
        let mut pieces = all_pieces(&readings, [1, 2, 60, 100][random.below(4)]);
        random.shuffle(&mut pieces);
        let mut folded = folded(&aggregates, &readings, &pieces, &mut random);
        for row in &mut folded {
            row.xids.clear(); // kept beside the aggregates
        }
        assert_eq!(folded, by_sql(&aggregates, &readings, &pieces, &mut random).await, "seed {seed}");
    }
}

#[test]
fn nothing_folds_to_nothing() {
    let aggregates = Aggregates::new().unwrap();
    let mut fold = Fold::new(&aggregates).unwrap();
    fold.update(&aggregates, &Readings::default(), &[], &[]).unwrap();
    assert_eq!(fold.finish().unwrap(), []);
}

/// The first batch has no null and leaves out group 1; what group 1 says later holds nothing but nulls.
#[test]
fn a_group_of_nulls_stays_null() {
    let aggregates = Aggregates::new().unwrap();
    let readings = Readings {
        identity: vec![0, 2, 1],
        time: vec![0; 3],
        log_time: vec![0; 3],
        offset: vec![0, 1, 2],
        busy: vec![false; 3],
        healthy: vec![false; 3],
        power_w: vec![Some(1.0), Some(2.0), None],
        energy_j: vec![Some(1), Some(2), None],
        mem_bytes: vec![Some(1), Some(2), None],
        xid: vec![0; 3],
    };
    let piece = |reading| Piece { reading, minute: 0, mask: 1, own: true };
    let mut fold = Fold::new(&aggregates).unwrap();
    fold.update(&aggregates, &readings, &[piece(0), piece(1)], &[0, 2]).unwrap();
    fold.update(&aggregates, &readings, &[piece(2)], &[1]).unwrap();
    let folded = &fold.finish().unwrap()[1];
    assert_eq!((folded.member, folded.power_min_w, folded.power_max_w), (1, None, None));
    assert_eq!((folded.mem_max_bytes, folded.energy_first, folded.energy_last), (None, None, None));
}
