use hydrometer_schemas::time::{MICROS_PER_SECOND, parse_rfc3339};
use serde::de::IgnoredAny;

use super::*;

const TIME: &str = "2026-03-01T10:00:00Z";

fn time() -> Micros {
    parse_rfc3339(TIME).unwrap()
}

fn log_time() -> Micros {
    time() + 5 * MICROS_PER_SECOND
}

/// Decodes one message that arrives five seconds after [`TIME`].
fn decode(payload: impl AsRef<[u8]>) -> (Readings, Identities, Result<(), Refusal>) {
    decode_at(payload, log_time())
}

fn decode_at(payload: impl AsRef<[u8]>, log_time: Micros) -> (Readings, Identities, Result<(), Refusal>) {
    let (mut readings, mut decoder) = (Readings::default(), Decoder::new(100));
    let result = decoder.json(payload.as_ref(), 7, log_time, &mut readings);
    (readings, decoder.identities, result)
}

/// The readings of a message in which nothing is wrong, as (server, GPU, seconds after [`TIME`], busy).
fn good(payload: impl AsRef<[u8]>) -> Vec<(String, String, i64, bool)> {
    let (readings, identities, result) = decode(&payload);
    assert_eq!(result, Ok(()), "{}", String::from_utf8_lossy(payload.as_ref()));
    list(&readings, &identities)
}

fn list(readings: &Readings, identities: &Identities) -> Vec<(String, String, i64, bool)> {
    (0..readings.len())
        .map(|i| {
            let (server, gpu) = identities.name(readings.identity[i]);
            let after = (readings.time[i] - time()) / MICROS_PER_SECOND;
            (server.to_string(), gpu.to_string(), after, readings.busy[i])
        })
        .collect()
}

/// The one refusal of a message, and how many good readings it had beside it.
fn bad(payload: impl AsRef<[u8]>) -> (Reason, String, usize) {
    let (readings, _, result) = decode(&payload);
    let refusal = result.expect_err(&String::from_utf8_lossy(payload.as_ref()));
    (refusal.reason, refusal.detail, readings.len())
}

/// One reading with some fields more.
fn with(fields: &str) -> String {
    format!(r#"{{"gpu":"g","server":"s","time":"{TIME}"{fields}}}"#)
}

fn of(server: &str, gpu: &str, after: i64, busy: bool) -> (String, String, i64, bool) {
    (server.into(), gpu.into(), after, busy)
}

#[test]
fn one_reading_with_every_field() {
    let payload = with(
        r#","util":0.93,"power_w":512.5,"energy_j":123456789,"mem_bytes":68719476736,"xid":79,"healthy":true,"collector":"dcgm-1""#,
    );
    let (readings, identities, result) = decode(&payload);
    assert_eq!(result, Ok(()));
    assert_eq!(list(&readings, &identities), [of("s", "g", 0, true)]);
    assert_eq!((readings.log_time[0], readings.offset[0]), (log_time(), 7));
    assert_eq!((readings.power_w[0], readings.energy_j[0]), (Some(512.5), Some(123_456_789)));
    assert_eq!((readings.mem_bytes[0], readings.xid[0]), (Some(68_719_476_736), 79));
    assert!(readings.healthy[0]);
}

#[test]
fn absent_and_null_fields_are_no_reading_of_that_field() {
    for payload in
        [with(""), with(r#","util":null,"power_w":null,"energy_j":null,"mem_bytes":null,"xid":null,"healthy":null"#)]
    {
        let (readings, _, result) = decode(&payload);
        assert_eq!(result, Ok(()), "{payload}");
        assert_eq!((readings.busy[0], readings.healthy[0], readings.xid[0]), (false, false, 0));
        assert_eq!((readings.power_w[0], readings.energy_j[0], readings.mem_bytes[0]), (None, None, None));
    }
}

#[test]
fn every_shape() {
    let array = format!("[{},{}]", with(r#","util":1"#), with("").replace("\"g\"", "\"h\""));
    assert_eq!(good(array), [of("s", "g", 0, true), of("s", "h", 0, false)]);
    assert_eq!(good("[]"), []);
    let node = format!(r#"{{"server":"n","time":"{TIME}","gpus":[{{"gpu":"a","util":0.5}},{{"gpu":"b","util":0}}]}}"#);
    assert_eq!(good(&node), [of("n", "a", 0, true), of("n", "b", 0, false)]);
    assert_eq!(good(format!("[{node},{}]", with(""))).len(), 3);
    let seconds = r#"{"server":"n","seconds":[{"time":"2026-03-01T10:00:00Z","gpus":[{"gpu":"a"},{"gpu":"b","util":1}]},
        {"gpus":[{"gpu":"a","util":1}],"time":"2026-03-01T10:00:01Z"}]}"#;
    assert_eq!(good(seconds), [of("n", "a", 0, false), of("n", "b", 0, true), of("n", "a", 1, true)]);
    // What a GPU says itself wins over what its batch says, wherever the batch says it.
    let own = format!(
        r#"{{"gpus":[{{"gpu":"a","server":"m","time":"2026-03-01T10:00:03Z"}},{{"gpu":"b"}}],"time":"{TIME}","server":"n"}}"#
    );
    assert_eq!(good(own), [of("m", "a", 3, false), of("n", "b", 0, false)]);
}

#[test]
fn times() {
    for (text, micros) in [
        (format!("{}", time()), time()),
        ("\"2026-03-01T12:00:00+02:00\"".into(), time()),
        ("\"2026-03-01T09:59:59.999999Z\"".into(), time() - 1),
        ("\"2026-03-01T10:00:00.1234567Z\"".into(), time() + 123_456),
    ] {
        let (readings, _, result) = decode(format!(r#"{{"gpu":"g","server":"s","time":{text}}}"#));
        assert_eq!((result, readings.time), (Ok(()), vec![micros]), "{text}");
    }
    for text in
        ["\"2026-03-01T10:00:00\"", "\"yesterday\"", "\"\"", "1.5", "true", "[1]", "{}", "1e15", "99999999999999999999"]
    {
        let (reason, detail, _) = bad(format!(r#"{{"gpu":"g","server":"s","time":{text}}}"#));
        assert_eq!(reason, Reason::BadValue, "{text}");
        assert!(detail.contains("time"), "{detail}");
    }
}

#[test]
fn times_that_are_not_believed() {
    let at = |time: Micros| decode(format!(r#"{{"gpu":"g","server":"s","time":{time}}}"#)).2.map_err(|r| r.reason);
    assert_eq!(at(log_time() + AHEAD_MAX), Ok(()));
    assert_eq!(at(log_time() + AHEAD_MAX + 1), Err(Reason::TimeAhead));
    assert_eq!(at(log_time() - BEHIND_MAX), Ok(()));
    assert_eq!(at(log_time() - BEHIND_MAX - 1), Err(Reason::TimeBehind));
    // No time and no log time overflows.
    for log_time in [i64::MIN, -1_000, 0, log_time(), i64::MAX] {
        for time in [i64::MIN, -1, 0, i64::MAX] {
            let payload = format!(r#"{{"gpu":"g","server":"s","time":{time}}}"#);
            let (readings, _, result) = decode_at(payload, log_time);
            assert_eq!(result.is_ok(), readings.len() == 1, "{time} at {log_time}");
        }
    }
}

#[test]
fn blank_values_are_no_reading_of_that_field() {
    let integers = ["9223372036854775792", "9223372036854775793", "9223372036854775794", "9223372036854775795"];
    let floats =
        ["140737488355328.0", "140737488355329.0", "140737488355330.0", "140737488355331.0", "140737488355328"];
    for blank in integers.into_iter().chain(floats) {
        for field in ["util", "power_w", "energy_j", "mem_bytes", "xid"] {
            if blank == "140737488355328" && field != "util" && field != "power_w" {
                continue; // a whole number, and a sound one for a counter
            }
            let (readings, _, result) = decode(with(&format!(r#","{field}":{blank}"#)));
            assert_eq!(result, Ok(()), "{field} {blank}");
            assert_eq!((readings.busy[0], readings.xid[0], readings.power_w[0]), (false, 0, None), "{field} {blank}");
            assert_eq!((readings.energy_j[0], readings.mem_bytes[0]), (None, None), "{field} {blank}");
        }
    }
    let (readings, _, _) = decode(with(r#","energy_j":140737488355328,"mem_bytes":140737488355327"#));
    assert_eq!((readings.energy_j[0], readings.mem_bytes[0]), (Some(140_737_488_355_328), Some(140_737_488_355_327)));
}

#[test]
fn values_out_of_range_or_of_a_wrong_type() {
    for (field, values) in [
        ("util", &["1.7", "-0.1", "\"0.5\"", "true", "[]", "{}", "2"][..]),
        ("power_w", &["\"512\"", "false", "[1]"][..]),
        ("energy_j", &["-1", "1.5", "\"1\"", "18446744073709551615"][..]),
        ("mem_bytes", &["-1", "0.5", "{}"][..]),
        ("xid", &["4294967296", "-1", "\"79\""][..]),
        ("healthy", &["1", "\"true\"", "[]"][..]),
        ("server", &["1", "[]", "true"][..]),
        ("gpu", &["1", "{}", "false"][..]),
    ] {
        for value in values {
            let plain = with("");
            let at = format!("\"{field}\":");
            let payload = match plain.contains(&at) {
                true => plain.replace(&format!("{at}\"{}\"", &field[..1]), &format!("{at}{value}")),
                false => with(&format!(",{at}{value}")),
            };
            let (reason, detail, count) = bad(&payload);
            assert_eq!((reason, count), (Reason::BadValue, 0), "{payload}");
            assert!(detail.contains(field), "{payload}: {detail}");
        }
    }
    for edge in ["0", "1", "0.0", "1.0", "-0.0", "5e-324"] {
        assert_eq!(good(with(&format!(r#","util":{edge}"#)))[0].3, !matches!(edge, "0" | "0.0" | "-0.0"));
    }
}

#[test]
fn identities_are_bounded() {
    let long = "x".repeat(64);
    assert_eq!(good(with("").replace("\"g\"", &format!("\"{long}\"")))[0].1, long);
    for (name, reason) in [
        (format!("{long}y"), Reason::BadValue),
        ("a\\nb".into(), Reason::BadValue),
        (String::new(), Reason::MissingField),
    ] {
        for field in ["g", "s"] {
            let (found, _, _) = bad(with("").replace(&format!("\"{field}\""), &format!("\"{name}\"")));
            assert_eq!(found, reason, "{name:?}");
        }
    }
    let (mut readings, mut decoder) = (Readings::default(), Decoder::new(2));
    let mut decode = |server: &str, gpu: &str| {
        let payload = format!(r#"{{"gpu":"{gpu}","server":"{server}","time":"{TIME}"}}"#);
        decoder.json(payload.as_bytes(), 0, log_time(), &mut readings).map_err(|r| r.reason)
    };
    assert_eq!((decode("s", "a"), decode("t", "a")), (Ok(()), Ok(())));
    assert_eq!(decode("s", "b"), Err(Reason::TooManyIdentities));
    assert_eq!(decode("s", "a"), Ok(()));
    assert_eq!((decoder.identities.len(), readings.identity), (2, vec![0, 1, 0]));
}

#[test]
fn what_is_missing_is_named() {
    for (payload, field) in [
        (format!(r#"{{"server":"s","time":"{TIME}"}}"#), "gpu"),
        (format!(r#"{{"gpu":"g","time":"{TIME}"}}"#), "server"),
        (r#"{"gpu":"g","server":"s"}"#.into(), "time"),
        (format!(r#"{{"gpu":null,"server":"s","time":"{TIME}"}}"#), "gpu"),
        (format!(r#"{{"server":"s","seconds":[{{"time":"{TIME}"}}]}}"#), "gpus"),
        ("{}".into(), "gpu"),
    ] {
        let (reason, detail, _) = bad(&payload);
        assert_eq!(reason, Reason::MissingField, "{payload}");
        assert!(detail.contains(&format!("{field} is missing")), "{payload}: {detail}");
    }
}

#[test]
fn good_elements_beside_a_bad_one_count() {
    let (g, h) = (with(""), with("").replace("\"g\"", "\"h\""));
    let wrong = with(r#","util":7"#);
    assert_eq!(bad(format!("[{g},{wrong},{h}]")).2, 2);
    assert!(bad(format!("[{g},{wrong},{h}]")).1.starts_with("element 1: "));
    for odd in ["1", "null", "\"x\"", "[]", "true", "1.5"] {
        let (reason, detail, count) = bad(format!("[{g},{odd},{h}]"));
        assert_eq!((reason, count), (Reason::BadValue, 2), "{odd}");
        assert!(detail.starts_with("element 1: "), "{detail}");
    }
    let node = format!(r#"{{"server":"n","time":"{TIME}","gpus":[{{"gpu":"a"}},{{}},7,{{"gpu":"c"}}]}}"#);
    assert_eq!(bad(&node).2, 2);
    assert!(bad(&node).1.starts_with("gpus[1]: "), "{}", bad(&node).1);
    let seconds = format!(
        r#"{{"server":"n","seconds":[{{"time":"{TIME}","gpus":[{{"gpu":"a"}},{{"gpu":"b","xid":"?"}}]}},{{"gpus":[{{"gpu":"a"}}]}}]}}"#
    );
    let (reason, detail, count) = bad(&seconds);
    assert_eq!((reason, count), (Reason::BadValue, 1));
    assert!(detail.starts_with("seconds[0].gpus[1]: "), "{detail}");
}

#[test]
fn a_list_of_a_wrong_type_is_a_bad_value() {
    for payload in [
        format!(r#"{{"server":"n","time":"{TIME}","gpus":7}}"#),
        format!(r#"{{"server":"n","time":"{TIME}","gpus":{{"gpu":"a"}}}}"#),
        r#"{"server":"n","seconds":"many"}"#.into(),
        format!(r#"{{"server":"n","seconds":[{{"time":"{TIME}","gpus":"all"}}]}}"#),
        r#"{"server":"n","seconds":[7]}"#.into(),
    ] {
        let (reason, _, count) = bad(&payload);
        assert_eq!((reason, count), (Reason::BadValue, 0), "{payload}");
    }
}

#[test]
fn names_with_escapes_and_odd_writing() {
    let odd = " \n{ \"\\u0067pu\" : \"GPU-\\u00e9\\\"\\\\\" ,\t\"server\":\"s\\/1\", \"time\":\"2026-03-01T10:00:00\\u005a\" }\r\n";
    assert_eq!(good(odd), [of("s/1", "GPU-é\"\\", 0, false)]);
    let nested = with(r#","note":{"gpu":"other","gpus":[{"server":[]}]},"more":[1,[2,{"time":3}]],"null":null"#);
    assert_eq!(good(nested), [of("s", "g", 0, false)]);
}

#[test]
fn of_a_repeated_field_the_last_counts() {
    assert_eq!(good(with(r#","gpu":"h","util":0,"util":0.5"#)), [of("s", "h", 0, true)]);
    assert_eq!(bad(with(r#","gpu":null"#)).0, Reason::MissingField);
    // A value that could not be believed spoils the reading, whatever comes after it.
    assert_eq!(bad(with(r#","util":5,"util":0.5"#)).0, Reason::BadValue);
}

#[test]
fn what_is_not_json_is_not_metered_at_all() {
    let (one, array) = (with(""), format!("[{},{}]", with(""), with("")));
    let mut payloads: Vec<Vec<u8>> = vec![b"".to_vec(), b" ".to_vec(), b"nonsense".to_vec(), b"\xff\xfe".to_vec()];
    payloads.extend((0..one.len()).map(|cut| one.as_bytes()[..cut].to_vec()));
    payloads.extend((0..array.len()).map(|cut| array.as_bytes()[..cut].to_vec()));
    for scalar in ["7", "null", "true", "\"text\"", "1.5", "-3"] {
        payloads.push(scalar.as_bytes().to_vec());
    }
    payloads.push(format!("{one}{one}").into_bytes());
    payloads.push(format!("{one},").into_bytes());
    payloads.push(format!("\u{feff}{one}").into_bytes());
    payloads.push(one.replace("\"g\"", "NaN").into_bytes());
    let mut broken = one.clone().into_bytes();
    broken[8] = 0xff; // inside the GPU's name
    payloads.push(broken);
    for payload in payloads {
        let (reason, detail, count) = bad(&payload);
        assert_eq!((reason, count), (Reason::Malformed, 0), "{}", String::from_utf8_lossy(&payload));
        assert!(!detail.is_empty());
    }
}

#[test]
fn size_and_depth_are_bounded() {
    let mut payload = with("").into_bytes();
    payload.resize(MESSAGE_BYTES_MAX, b' ');
    assert_eq!(good(&payload).len(), 1);
    payload.push(b' ');
    assert_eq!((bad(&payload).0, bad(&payload).2), (Reason::TooLarge, 0));

    let depth = 300_000;
    for (open, close) in [("[", "]"), ("{\"gpus\":[", "]}"), ("{\"seconds\":[", "]}"), ("{\"x\":", "}")] {
        let depth = depth.min(MESSAGE_BYTES_MAX / (open.len() + close.len()) - 10);
        let whole = format!("{}1{}", open.repeat(depth), close.repeat(depth));
        assert!(decode(&whole).2.is_err());
        assert!(decode(open.repeat(depth)).2.is_err());
    }
    for field in ["x", "gpu", "time", "util", "healthy", "gpus"] {
        let deep = with(&format!(",\"{field}\":{}{}", "[".repeat(depth), "]".repeat(depth)));
        assert_eq!(decode(&deep).2.is_ok(), field == "x", "{field}");
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// Where the scan does not give up, `serde_json` reads the same. Says whether it did not.
fn scans_alike(text: &str) -> bool {
    let (mut scanned, mut read) = (Vec::new(), Vec::new());
    let complete = scan::read(text, &mut scanned);
    if complete {
        json::read(text, &mut read).unwrap_or_else(|e| panic!("the scan took what is no JSON: {e}: {text}"));
        assert_eq!(scanned, read, "{text}");
    }
    complete
}

#[test]
fn what_exporters_write_is_scanned() {
    let fields =
        r#","util":0.93,"power_w":512.5,"energy_j":123456789,"mem_bytes":68719476736,"xid":0,"healthy":true,"c":"é""#;
    let gpu = format!(r#"{{"gpu":"a" {fields}}}"#);
    for payload in [
        with(fields),
        format!("[{},\n{}]", with(fields), with("")),
        format!(r#"{{"server":"n","time":"{TIME}","gpus":[{gpu}, {gpu}]}}"#),
        format!(r#"{{"server":"n","seconds":[{{"time":1,"gpus":[{gpu}]}},{{"gpus":[]}}]}}"#),
        "{}".into(),
        "[]".into(),
    ] {
        assert!(scans_alike(&payload), "{payload}");
    }
}

#[test]
fn numbers_are_scanned_to_the_last_bit() {
    let mut random = Random(7);
    for _ in 0..100_000 {
        let digits = |random: &mut Random, n: usize| (0..n).map(|_| (b'0' + random.below(10) as u8) as char).collect();
        let (whole, part): (usize, usize) = (1 + random.below(20), random.below(24));
        let whole: String = digits(&mut random, whole);
        let part: String = digits(&mut random, part);
        let point = if random.below(3) > 0 { "." } else { "" };
        let exponent = ["", "", "", "e3", "E-2"][random.below(5)];
        let sign = if random.below(8) == 0 { "-" } else { "" };
        scans_alike(&with(&format!(r#","power_w":{sign}{whole}{point}{part}{exponent}"#)));
    }
}

/// Whatever the bytes: no panic, all columns of one length, and a message without a refusal is JSON to its end.
fn survives(seed: u64, payload: &[u8]) {
    if let Ok(text) = std::str::from_utf8(payload) {
        scans_alike(text);
    }
    let (readings, identities, result) = decode(payload);
    let n = readings.time.len();
    let lengths = [
        readings.identity.len(),
        readings.log_time.len(),
        readings.offset.len(),
        readings.busy.len(),
        readings.healthy.len(),
        readings.power_w.len(),
        readings.energy_j.len(),
        readings.mem_bytes.len(),
        readings.xid.len(),
    ];
    let shown = String::from_utf8_lossy(payload);
    assert_eq!(lengths, [n; 9], "seed {seed}: {shown}");
    assert!(readings.identity.iter().all(|id| (*id as usize) < identities.len()), "seed {seed}: {shown}");
    match &result {
        Ok(()) => {
            let json: Result<IgnoredAny, _> = serde_json::from_slice(payload);
            assert!(json.is_ok(), "seed {seed}: {shown}");
        }
        Err(refusal) if refusal.reason == Reason::Malformed => assert_eq!(n, 0, "seed {seed}: {shown}"),
        Err(refusal) => assert!(!refusal.detail.is_empty(), "seed {seed}: {shown}"),
    }
}

#[test]
fn arbitrary_bytes_never_panic() {
    const PIECES: [&str; 24] = [
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"gpu\"",
        "\"server\"",
        "\"time\"",
        "\"gpus\"",
        "\"seconds\"",
        "\"util\"",
        "\"xid\"",
        "1",
        "-1",
        "1e9",
        "9223372036854775807",
        "null",
        "true",
        "\"s\"",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "\"",
        " ",
    ];
    for seed in 0..20_000 {
        let mut random = Random(seed);
        let mut payload = Vec::new();
        for _ in 0..random.below(40) {
            match random.below(6) {
                0 => payload.push(random.below(256) as u8),
                _ => payload.extend_from_slice(PIECES[random.below(PIECES.len())].as_bytes()),
            }
        }
        survives(seed, &payload);
    }
}

#[test]
fn mutations_of_valid_messages_never_panic() {
    let reading =
        with(r#","util":0.93,"power_w":512.5,"energy_j":123456789,"mem_bytes":68719476736,"xid":79,"healthy":true"#);
    let node = format!(r#"{{"server":"n","time":"{TIME}","gpus":[{{"gpu":"a","util":0.5}},{{"gpu":"b"}}]}}"#);
    let valid = [
        reading.clone(),
        format!("[{reading},{node}]"),
        format!(r#"{{"server":"n","seconds":[{{"time":{},"gpus":[{{"gpu":"a"}}]}}]}}"#, time()),
        node,
    ];
    for seed in 0..20_000 {
        let mut random = Random(seed);
        let mut payload = valid[random.below(valid.len())].clone().into_bytes();
        for _ in 0..1 + random.below(4) {
            let at = random.below(payload.len());
            match random.below(5) {
                0 => payload[at] = random.below(256) as u8,
                1 => payload[at] ^= 1 << random.below(8),
                2 => drop(payload.remove(at)),
                3 => payload.truncate(at.max(1)),
                _ => {
                    let from = random.below(payload.len());
                    let copied = payload[from.min(at)..from.max(at)].to_vec();
                    payload.splice(at..at, copied);
                }
            }
            if payload.is_empty() {
                break;
            }
        }
        survives(seed, &payload);
    }
}
