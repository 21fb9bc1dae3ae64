//! Many small runs in little time: a cluster that survives no power cut, and runs that are cut up at random.

use std::path::Path;

use hydrometer_pipeline::source::files::Interleave;
use hydrometer_testkit::services::postgres::{Options, PrivatePostgres};

use super::Cuts;

/// A cluster without fsync, in memory where there is room: these runs survive no power cut, and need not. A database of each of 200
/// fleets is a quarter of a million files, which a disk takes minutes to forget.
pub fn fast_dir() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let memory = Path::new("/dev/shm");
    let room = rustix::fs::statvfs(memory).map_or(0, |fs| fs.f_bavail * fs.f_frsize);
    let parent = if room > 2 << 30 { memory } else { Path::new("/var/tmp") };
    let dir = tempfile::Builder::new().prefix("hydrometer-fast-pg").tempdir_in(parent).unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    dir
}

pub fn fast_postgres(dir: &Path) -> PrivatePostgres {
    PrivatePostgres::open(dir, Options { fsync: false, ..Options::default() }).unwrap()
}

/// Draws how the run is cut up from the seed.
pub fn cuts(seed: u64) -> Cuts {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut draw = |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % n
    };
    Cuts {
        batch_records: [20, 100, 1_000, 10_000, 50_000][draw(5) as usize] + draw(50) as usize,
        interleave: match draw(3) {
            0 => Interleave::LogTime { slack: draw(120_000_000) as i64 },
            _ => Interleave::Seeded(draw(u64::MAX)),
        },
        interval_ms: [2, 10, 50, 200][draw(4) as usize],
        revision_hours: 1 + draw(3) as usize,
    }
}
