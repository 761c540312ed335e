#!/usr/bin/env bash
# A cluster of three on this machine loses its primary's node under load, and goes on. ENGINE=redis: Redis over a
# replicated volume instead of PostgreSQL. ENGINE=mariadb: MariaDB; mysql: the MySQL of scripts/mysql-for-tests.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${ENGINE:=postgres}"
case "$ENGINE" in
    postgres) up=(); : "${DIR:=/var/tmp/trine-demo}" ;;
    redis) up=(--engine volume --set preset=redis); : "${DIR:=/var/tmp/trine-demo-redis}" ;;
    mariadb) up=(--engine mariadb); : "${DIR:=/var/tmp/trine-demo-mariadb}" ;;
    mysql) up=(--engine mysql --set engine.bin_dir=/var/cache/trine-mysql/bin); : "${DIR:=/var/tmp/trine-demo-mysql}" ;;
    *) echo "error: ENGINE is postgres, mariadb, mysql or redis, not $ENGINE" >&2; exit 2 ;;
esac
: "${CARGO_TARGET_DIR:=$PWD/target}"
export CARGO_TARGET_DIR
say() { printf '\n==> %s\n' "$*"; }

bash scripts/install.sh "$ENGINE"
if [ "$ENGINE" = mysql ]; then bash scripts/mysql-for-tests.sh; fi
say "Building (release)"
cargo build --release -p trine -p trine-bench
trine=$CARGO_TARGET_DIR/release/trine
bench=$CARGO_TARGET_DIR/release/trine-bench
field() { sed -n 's/.*"'"$1"'" *: *"\([^"]*\)".*/\1/p' | head -n 1; }

say "Three nodes on 127.0.0.1, 127.0.0.2 and 127.0.0.3, in $DIR"
"$trine" local up --dir "$DIR" "${up[@]}"
"$trine" status --dir "$DIR"

primary=$("$trine" status --dir "$DIR" --json | field primary)
endpoints=$("$trine" endpoints --dir "$DIR" --json)
writer=$(field writer <<<"$endpoints")
# Every node's URI, where one can't name them all.
all=$(sed -n 's/.*"writers":\[\([^]]*\)\].*/\1/p' <<<"$endpoints" | tr -d '"')
all=${all:-$writer}
say "Four clients write through the writer endpoint; after 4 s, every process of $primary, the primary, is killed at once"
"$bench" probe --human --dsn "$all" --clients 4 --seconds 12 --fault-after 4 --table demo --verify "$all" \
    --fault "'$trine' local kill-node '$primary' --dir '$DIR'"
"$trine" status --dir "$DIR"

say "$primary comes back: it takes back what nobody else has, and follows the new primary"
"$trine" local start-node "$primary" --dir "$DIR" --wait
"$trine" status --dir "$DIR"
say "What the cluster decided, and why"
"$trine" events --dir "$DIR" | tail -n 40

say "The cluster is left running"
"$trine" endpoints --dir "$DIR"
case "$ENGINE" in postgres) client="psql '$writer'" ;; redis) client="redis-cli -u '$writer'" ;;
    mariadb) client="mariadb -h 127.0.0.1 -P 6432 -u app -p app    # the password is in the URI" ;;
    mysql) client="/var/cache/trine-mysql/bin/mysql -h 127.0.0.1 -P 6432 -u app -p app    # the password is in the URI" ;; esac
cat <<TEXT

  $client
  $trine status --dir $DIR --watch
  $trine switchover --dir $DIR

Stop it and remove all of it: make demo-down$([ "$ENGINE" = postgres ] || echo " ENGINE=$ENGINE")
TEXT
