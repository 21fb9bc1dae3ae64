# Shared by ./demo, ./test, ./bench and .ci/run: what they need, installed only where it is missing. Source it, do not run it.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/hydrometer
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target}
kafka_libs=$cache/kafka-4.1.0/libs
venv=$cache/venv
mkdir -p "$cache"

say() { printf '== %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$1" >&2; [ $# -lt 2 ] || printf '  hint: %s\n' "$2" >&2; exit 3; }
have() { command -v "$1" >/dev/null 2>&1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif have sudo; then sudo "$@"
  else die "this needs root: $*" "run it as root, or install sudo"
  fi
}

# install WHY PACKAGE...: from apt; the package lists are fetched once per run.
apt_updated=
install() {
  local why=$1; shift
  have apt-get || die "$why is missing, and there is no apt-get here" "install what Debian calls: $*"
  say "installing $* ($why)"
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0)
  [ -n "$apt_updated" ] || as_root "${apt[@]}" update >&2
  apt_updated=1
  as_root "${apt[@]}" install -y --no-install-recommends "$@" >&2
}

need_cargo() {
  have cargo || die "cargo, Rust's build tool, is missing" "install Rust 1.94 or newer with rustup: https://rustup.rs"
}

need_build_tools() {
  need_cargo
  local missing=()
  have cc || missing+=(gcc libc6-dev)
  have c++ || missing+=(g++)
  have make || missing+=(make)
  have pkg-config || missing+=(pkg-config)
  [ ${#missing[@]} = 0 ] || install "librdkafka is built from source" "${missing[@]}"
}

# The directory of the newest PostgreSQL server binaries, 15 or newer. services::postgres looks in the same places.
pg_bindir() {
  local dir major best='' best_major=14
  for dir in ${PG_BINDIR:+"$PG_BINDIR"} /usr/lib/postgresql/*/bin "$(dirname "$(command -v initdb || echo /none/initdb)")"; do
    [ -x "$dir/postgres" ] && [ -x "$dir/initdb" ] && [ -x "$dir/psql" ] || continue
    major=$("$dir/postgres" --version | sed 's/^[^0-9]*\([0-9]*\).*/\1/')
    if [ "$dir" = "${PG_BINDIR:-}" ] && [ "$major" -ge 15 ]; then echo "$dir"; return; fi
    if [ "$major" -gt "$best_major" ]; then best=$dir best_major=$major; fi
  done
  [ -n "$best" ] && echo "$best"
}

# Debian's server package creates and starts a cluster of its own unless it is told not to. Hydrometer wants the
# programs only, so the switch is turned off for the installation and put back as it was.
need_postgres() {
  pg_bindir >/dev/null && return
  install "PostgreSQL's tools" postgresql-common
  local conf=/etc/postgresql-common/createcluster.conf saved
  saved=$(mktemp)
  cp "$conf" "$saved"
  local status=0
  (
    trap 'as_root cp "$saved" "$conf"; rm -f "$saved"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    as_root sed -i '/^[#[:space:]]*create_main_cluster[[:space:]]*=/d' "$conf" &&
      echo 'create_main_cluster = false' | as_root tee -a "$conf" >/dev/null &&
      install "the PostgreSQL server's programs; no cluster is created" postgresql
  ) || status=$?
  [ "$status" = 0 ] || exit "$status"
  pg_bindir >/dev/null || die "the installed PostgreSQL is older than 15" \
    "install PostgreSQL 15 or newer (apt.postgresql.org has it for older systems), or set PG_BINDIR"
}

need_java_maven() {
  have java || install "Kafka runs on Java" default-jre-headless
  local version
  version=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p')
  [ "${version:-0}" -ge 17 ] || die "Kafka 4 needs Java 17, and java here is ${version:-of unknown version}" \
    "install openjdk-17-jre-headless or newer, and let PATH find it first"
  [ -d "$kafka_libs" ] || have mvn || install "it fetches Kafka's jars" maven
}

need_kafka() {
  need_java_maven
  "$root/scripts/fetch-kafka.sh"
}

need_hledger() { have hledger || install "the journals are checked with it" hledger; }

# A virtual environment with what scripts/requirements.txt pins; made again when that file changes.
need_python() {
  local wanted=$root/scripts/requirements.txt
  cmp -s "$wanted" "$venv/installed.txt" && return
  have python3 && python3 -c 'import venv, ensurepip' 2>/dev/null || install "DuckDB, pyarrow and moto check the files" python3-venv
  say "installing duckdb, pyarrow and moto into $venv (the tests read the files with them)"
  (
    flock 9
    cmp -s "$wanted" "$venv/installed.txt" && exit
    python3 -m venv --clear "$venv"
    "$venv/bin/python" -m pip install -q --disable-pip-version-check -r "$wanted" >&2
    cp "$wanted" "$venv/installed.txt"
  ) 9>"$cache/venv.lock"
}

# stage NAME COMMAND...: runs it and says how long it took.
stage() {
  local name=$1 began=$SECONDS; shift
  "$@"
  say "$name: $((SECONDS - began)) s"
}
