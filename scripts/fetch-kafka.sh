#!/usr/bin/env bash
# Fetches Apache Kafka's jars from Maven Central into the cache, once, and prints nothing when they are there.
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[ ! -d "$kafka_libs" ] || exit 0
say "fetching Apache Kafka 4.1.0 from Maven Central into $kafka_libs (some 50 MB, once)"
mkdir -p "$(dirname "$kafka_libs")"
exec 9>"$(dirname "$kafka_libs")/lock"
flock 9
[ ! -d "$kafka_libs" ] || exit 0
# Into a folder beside it first, then renamed: a fetch that is cut short leaves nothing that looks complete.
partial=$kafka_libs.partial
rm -rf "$partial"
mvn -q -B -f "$root/testkit/kafka/pom.xml" dependency:copy-dependencies -DincludeScope=runtime "-DoutputDirectory=$partial" >&2 ||
  die "Kafka's jars could not be fetched" "is Maven Central reachable? A mirror goes into ~/.m2/settings.xml"
mv "$partial" "$kafka_libs"
