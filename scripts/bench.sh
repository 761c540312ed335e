#!/usr/bin/env bash
# Everything that is measured. Arguments are trine-bench's own; without any: all of it.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${CARGO_TARGET_DIR:=$PWD/target}"
export CARGO_TARGET_DIR
bash scripts/install.sh bench
bash scripts/mysql-for-tests.sh || echo "NO MYSQL HERE: it is not measured"
cargo build --release --workspace --bins
[ $# -gt 0 ] || set -- all
exec bash scripts/as-root.sh "$CARGO_TARGET_DIR/release/trine-bench" "$@"
