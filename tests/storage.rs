//! The warehouse refuses, is slow, breaks off in the middle of a file, or is full. The worker says what is wrong and what to do, loses
//! nothing, and goes on when the trouble passes: by itself within its patience, and after that when it is started again.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::Deployment;
use common::aftermath::{assert_sound, findings};
use common::fleet::{PATIENCE, until};
use hydrometer_pipeline::config::Config;
use hydrometer_schemas::time::{MICROS_PER_SECOND, hour_ceil, show_second};
use hydrometer_sinks::Warehouse;
use hydrometer_testkit::fleet::{Fault, LogOptions, Outcome, Plan, write_logs};
use hydrometer_testkit::services::proxy::{Mode, Proxy, Then, Upstream};
use hydrometer_testkit::services::s3::{S3Server, python_for_tests};

/// Set for the copy of this program that has the bucket's credentials in its environment.
const INSIDE: &str = "HYDROMETER_TEST_STORAGE_BUCKET";

fn plan(seed: u64) -> Plan {
    let base = Plan::small(seed);
    let faults = base.faults.clone().with(Fault::VeryLate, 0.01).with(Fault::Garbage, 0.02);
    Plan { seconds: 5_400, servers: 3, gpus_per_server: 2, telemetry_partitions: 2, faults, ..base }
}

/// Partition logs of a fleet, and the configuration that meters them with little patience.
fn logs(deployment: &Deployment, plan: &Plan, patience_s: u64) -> (Config, Outcome) {
    let outcome = write_logs(&deployment.path("logs"), plan, LogOptions { zstd: true }, &mut |_| {}).unwrap();
    let mut config = deployment.config();
    config.source.files.until = show_second(hour_ceil(plan.end_us() / MICROS_PER_SECOND));
    config.source.batch_records = 200;
    config.warehouse.patience_s = patience_s;
    (config, outcome)
}

struct Run {
    child: Child,
    log: std::path::PathBuf,
}

impl Run {
    fn start(deployment: &Deployment, config: &Config, prepare: impl FnOnce(&mut Command)) -> Run {
        let log = deployment.path("run.log");
        let file = std::fs::File::create(&log).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_hydrometer"));
        command.arg("run").arg("--config").arg(deployment.write_config(config)).env("HYDROMETER_LOG", "warn");
        prepare(&mut command);
        let child = command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Run { child, log }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Its exit status and everything that it said.
    async fn ended(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status.code(), self.said());
            }
            assert!(Instant::now() < deadline, "the run does not end: {}", self.said());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn commits(deployment: &Deployment) -> i64 {
    let sql = "SELECT count(*) FROM hydrometer.commit WHERE kind <> 'lifecycle'";
    deployment.database().await.client_ref().query_one(sql, &[]).await.unwrap().get(0)
}

/// What the C compiler makes of this stands between the program and the kernel: while the file exists that `DISK_FULL` names, a
/// write into the warehouse gets half of its bytes to the disk, as long as that is any, and then there is no space left. A full
/// disk for which nobody needs to be root.
const FULL_DISK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
ssize_t write(int fd, const void *bytes, size_t length) {
    static ssize_t (*next)(int, const void *, size_t);
    if (!next) next = (ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    const char *full = getenv("DISK_FULL"), *below = getenv("DISK_BELOW");
    if (full && below && fd > 2 && access(full, F_OK) == 0) {
        char link[64], path[4096];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t got = readlink(link, path, sizeof path - 1);
        if (got > 0 && strncmp(path, below, strlen(below)) == 0) {
            if (length > 512) return next(fd, bytes, length / 2);
            errno = ENOSPC;
            return -1;
        }
    }
    return next(fd, bytes, length);
}
"#;

fn full_disk(dir: &Path) -> std::path::PathBuf {
    let (source, library) = (dir.join("full_disk.c"), dir.join("full_disk.so"));
    std::fs::write(&source, FULL_DISK).unwrap();
    let compiled =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).arg("-ldl").output();
    let compiled = compiled.expect("cc, which building librdkafka needs too");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    library
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_named_and_outlived() {
    let deployment = Deployment::new("full_disk").await;
    let plan = plan(41);
    let (config, outcome) = logs(&deployment, &plan, 2);
    let (library, full) = (full_disk(deployment.dir.path()), deployment.path("full"));
    let below = deployment.path("warehouse").canonicalize().unwrap_or_else(|_| deployment.path("warehouse"));
    let with_disk = |command: &mut Command| {
        command.env("LD_PRELOAD", &library).env("DISK_FULL", &full).env("DISK_BELOW", &below);
    };
    let hint = ["No space left on device", "Hint: free some space", "nothing was lost"];

    // Full from the beginning: nothing is taken in.
    std::fs::write(&full, "").unwrap();
    let (status, said) = Run::start(&deployment, &config, with_disk).ended().await;
    assert_eq!(status, Some(3), "{said}");
    assert!(hint.iter().all(|part| said.contains(part)), "{said}");
    assert_eq!(commits(&deployment).await, 0);
    std::fs::remove_file(&full).unwrap();

    // Full in the middle, and emptied in time: it waits, and goes on.
    let run = Run::start(&deployment, &config, with_disk);
    until("some is committed", async || commits(&deployment).await > 3).await;
    std::fs::write(&full, "").unwrap();
    until("it says so", async || run.said().contains("the warehouse refused; trying again")).await;
    let before = commits(&deployment).await;
    std::fs::remove_file(&full).unwrap();
    until("it goes on", async || commits(&deployment).await > before).await;

    // Full for longer than its patience: it ends, and is started again when there is space.
    std::fs::write(&full, "").unwrap();
    let (status, said) = run.ended().await;
    assert_eq!(status, Some(3), "{said}");
    assert!(hint.iter().all(|part| said.contains(part)), "{said}");
    std::fs::remove_file(&full).unwrap();
    let (status, said) = Run::start(&deployment, &config, |_| ()).ended().await;
    assert_eq!(status, Some(0), "{said}");
    assert_sound(&deployment, &plan, &outcome, "the disk was full").await;
}

/// A real small disk, where this user may mount one.
#[tokio::test(flavor = "multi_thread")]
async fn a_small_disk_is_filled_and_emptied() {
    let deployment = Deployment::new("small_disk").await;
    let plan = plan(42);
    let (config, outcome) = logs(&deployment, &plan, 1);
    let warehouse = deployment.path("warehouse");
    std::fs::create_dir(&warehouse).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=512k", "tmpfs"]).arg(&warehouse).output();
    if !mounted.is_ok_and(|mounted| mounted.status.success()) {
        eprintln!("no disk could be mounted here; a_full_disk_is_named_and_outlived needs none");
        return;
    }
    let mount = Mount(warehouse.clone());
    // Something else fills the disk but for a little.
    let ballast = warehouse.join("ballast");
    std::fs::write(&ballast, vec![1; 420 * 1024]).unwrap();
    let (status, said) = Run::start(&deployment, &config, |_| ()).ended().await;
    assert_eq!(status, Some(3), "{said}");
    assert!(said.contains("No space left on device") && said.contains("Hint: free some space"), "{said}");
    std::fs::remove_file(&ballast).unwrap();
    let bigger = Command::new("mount").args(["-o", "remount,size=64m"]).arg(&warehouse).status().unwrap();
    assert!(bigger.success());
    let (status, said) = Run::start(&deployment, &config, |_| ()).ended().await;
    assert_eq!(status, Some(0), "{said}");
    assert_sound(&deployment, &plan, &outcome, "the small disk was full").await;
    drop(mount);
}

struct Mount(std::path::PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// The test is run again in a process whose environment names the server: a program's environment is set before it starts.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_store_that_refuses_is_slow_or_breaks_off() {
    let Ok(port) = std::env::var(INSIDE) else {
        let dir = tempfile::tempdir().unwrap();
        let server = S3Server::start(&python_for_tests().unwrap(), dir.path()).unwrap();
        server.create_bucket("metering").unwrap();
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.env("AWS_ENDPOINT", server.endpoint()).env("AWS_ALLOW_HTTP", "true").env("AWS_REGION", "us-east-1");
        again.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
        let name = "an_object_store_that_refuses_is_slow_or_breaks_off";
        let port = server.endpoint().rsplit(':').next().unwrap().to_owned();
        again.args(["--exact", name, "--nocapture"]).env(INSIDE, port);
        assert!(again.status().unwrap().success(), "see above");
        return;
    };
    let proxy = Proxy::start(Upstream::Tcp(format!("127.0.0.1:{port}"))).unwrap();
    let deployment = Deployment::new("storage").await;
    let plan = plan(43);
    let (mut config, outcome) = logs(&deployment, &plan, 20);
    config.warehouse.url = "s3://metering/troubled".into();
    let through = |command: &mut Command| {
        command.env("AWS_ENDPOINT", format!("http://{}", proxy.address()));
    };

    // It does not answer at all when the worker starts.
    proxy.set(Mode::Refuse);
    let (status, said) = Run::start(&deployment, &config, through).ended().await;
    assert_eq!(status, Some(3), "{said}");
    assert!(said.contains("Hint: does the object store answer") && said.contains("Nothing was lost"), "{said}");
    proxy.set(Mode::Forward);

    // It breaks off in the middle of files, and after them but before the answer; it refuses for a moment, and is slow.
    let mut run = Run::start(&deployment, &config, through);
    until("some is committed", async || commits(&deployment).await > 1).await;
    for (number, then) in [Then::CutHalfway, Then::CutBeforeReply, Then::CutAfterRequest].into_iter().enumerate() {
        proxy.watch(b"PUT /", 2, then);
        until("an upload is cut", async || {
            assert!(run.child.try_wait().unwrap().is_none(), "{number}: {}", run.said());
            proxy.tripped() > number
        })
        .await;
    }
    let before = commits(&deployment).await;
    proxy.set(Mode::Refuse);
    proxy.cut();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    proxy.set(Mode::Delay(Duration::from_millis(100)));
    until("it goes on, slowly", async || commits(&deployment).await > before).await;
    proxy.set(Mode::Forward);
    let (status, said) = run.ended().await;
    assert_eq!(status, Some(0), "it outlives all of that: {said}");
    let warehouse = Warehouse::open(&config.warehouse.url).unwrap();
    let wrong = findings(&deployment, &warehouse, &plan, &outcome).await;
    assert!(wrong.is_empty(), "{} findings\n{}", wrong.len(), wrong.join("\n"));
}
