#!/usr/bin/env bash
# Builds for release and tortures a cluster; see `trine-torture --help`. --record keeps table, picture and numbers in bench/results/.
set -euo pipefail
cd "$(dirname "$0")/.."

arguments=()
for a in "$@"; do
    if [ "$a" = --record ]; then arguments+=(--out bench/results); else arguments+=("$a"); fi
done

bash scripts/install.sh tests
case " $* " in *" mysql "*) bash scripts/mysql-for-tests.sh ;; esac
cargo build --release --workspace --bins
exec bash scripts/as-root.sh "${CARGO_TARGET_DIR:-target}/release/trine-torture" "${arguments[@]}"
