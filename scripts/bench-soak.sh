#!/usr/bin/env bash
# ./bench soak [--minutes N] [--seed S]: benches/soak.rs on a PostgreSQL and a Kafka of its own, for as long as one likes.
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=services.sh
. "$root/scripts/services.sh"

run='' soak=''
finish() {
  local status=$?
  trap - EXIT
  trap '' INT TERM
  [ -z "$soak" ] || { kill -TERM -- "-$soak"; wait "$soak"; } 2>/dev/null || true
  [ -z "$run" ] || { stop_services; rm -rf "$run"; }
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

need_build_tools
need_postgres
need_kafka
# SOAK_PROFILE=dev builds less, for a look whether it runs at all.
profile=${SOAK_PROFILE:-bench}
cd "$root"
stage "build" cargo bench --profile "$profile" --bench soak --no-run >&2
run=$(mktemp -d /var/tmp/hydrometer-soak.XXXXXX)
chmod 711 "$run"
stage "PostgreSQL" start_postgres
stage "Kafka" start_kafka

status=0
set -m
cargo bench --quiet --profile "$profile" --bench soak -- "$@" </dev/null &
soak=$!
set +m
wait "$soak" || status=$?
soak=''
exit "$status"
