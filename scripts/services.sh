# Starts and stops the PostgreSQL and the Kafka of one test run. Sourced by ./test after common.sh; wants $run, a
# directory that the user postgres may enter. services::postgres and services::kafka do the same for a program.
# shellcheck shell=bash

postgres_pid='' kafka_pid=''

# A port below the range from which systems take the ports of outgoing connections.
free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 12000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
}

# wait_for SECONDS PID LOG COMMAND...: until the command succeeds; shows the log when the process ends or the time does.
wait_for() {
  local end=$((SECONDS + $1)) pid=$2 log=$3; shift 3
  until "$@" >/dev/null 2>&1; do
    if ! kill -0 "$pid" 2>/dev/null || [ "$SECONDS" -ge "$end" ]; then
      tail -n 20 "$log" >&2
      die "a server for the tests did not start; its log ends as above"
    fi
    sleep 0.1
  done
}

# setpriv's --pdeathsig: the kernel ends the servers, should this script be killed before it can do so itself.
start_postgres() {
  local bin as=(setpriv)
  bin=$(pg_bindir)
  mkdir -m 700 "$run/pg"
  # PostgreSQL refuses to run as root.
  if [ "$(id -u)" = 0 ]; then
    chown postgres: "$run/pg"
    as+=("--reuid=$(id -u postgres)" "--regid=$(id -g postgres)" --init-groups)
  fi
  local log=$run/postgres.log
  (cd "$run/pg" && "${as[@]}" -- "$bin/initdb" -D data -U postgres --auth=trust --encoding=UTF8 --locale=C) >"$log" 2>&1 ||
    { cat "$log" >&2; die "PostgreSQL's initdb failed"; }
  (cd "$run/pg" && exec "${as[@]}" --pdeathsig INT -- "$bin/postgres" -D data -c listen_addresses= \
    -c "unix_socket_directories=$run/pg" -c max_connections=200 -c timezone=UTC) >>"$log" 2>&1 &
  postgres_pid=$!
  export HYDROMETER_TEST_POSTGRES="host=$run/pg port=5432 user=postgres dbname=postgres"
  wait_for 60 "$postgres_pid" "$log" "$bin/psql" -Xqc 'select' "$HYDROMETER_TEST_POSTGRES"
}

start_kafka() {
  local broker controller log=$run/kafka.log
  broker=$(free_port) controller=$(free_port)
  mkdir -m 700 "$run/kafka"
  sed -e "s|@BROKER_PORT@|$broker|; s|@CONTROLLER_PORT@|$controller|; s|@DATA@|$run/kafka/data|" \
    "$root/testkit/kafka/server.properties" >"$run/kafka/server.properties"
  local java=(java -Xmx512m -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$kafka_libs/*")
  "${java[@]}" kafka.tools.StorageTool format -t aHlkcm9tZXRlci1rYWZrYQ -c "$run/kafka/server.properties" >"$log" 2>&1 ||
    { cat "$log" >&2; die "Kafka's log directory could not be formatted"; }
  setpriv --pdeathsig KILL -- "${java[@]}" kafka.Kafka "$run/kafka/server.properties" >>"$log" 2>&1 &
  kafka_pid=$!
  export HYDROMETER_TEST_KAFKA=127.0.0.1:$broker HYDROMETER_KAFKA_LIBS=$kafka_libs
  # The port opens when the broker is ready.
  wait_for 60 "$kafka_pid" "$log" bash -c "exec 3<>/dev/tcp/127.0.0.1/$broker"
}

stop_services() {
  # Nothing that they hold is kept, so neither is asked to finish what it does: SIGQUIT is PostgreSQL's quick end.
  [ -z "$postgres_pid" ] || kill -QUIT "$postgres_pid" 2>/dev/null || true
  [ -z "$kafka_pid" ] || kill -KILL "$kafka_pid" 2>/dev/null || true
  wait $postgres_pid $kafka_pid 2>/dev/null || true
}
