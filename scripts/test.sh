#!/usr/bin/env bash
# Everything that is tested: formatting, clippy, the crates' own tests, then faults on real processes.
# Arguments are passed on to the fault tests, as a filter.
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf '\n==> %s\n' "$*"; }

bash scripts/install.sh tests
# Debian has it in its unstable suite only, which moves, and may not be reached.
if ! mysql=$(bash scripts/mysql-for-tests.sh); then
    say "NO MYSQL HERE: nothing is tested on MySQL, its tests say NOT TRIED"
else
    printf 'MySQL for the tests: %s\n' "$(head -n 1 <<<"$mysql")"
fi

say "Formatting"
cargo fmt --all --check
say "Clippy"
cargo clippy --workspace --all-targets -- -D warnings
say "Building"
cargo build --workspace --bins

# A failure does not hide the ones after it.
failed=0
if cargo nextest --version >/dev/null 2>&1; then
    say "The crates' own tests"
    cargo nextest run --workspace --exclude trine-tests --no-fail-fast || failed=1
    at_once=${TRINE_TESTS_AT_ONCE:-1}
    say "Faults on real processes, $at_once at a time"
    bash scripts/as-root.sh cargo nextest run -p trine-tests "-j$at_once" --no-fail-fast "$@" || failed=1
else
    say "The crates' own tests"
    cargo test --workspace --exclude trine-tests --no-fail-fast || failed=1
    say "Faults on real processes, one after the other"
    bash scripts/as-root.sh cargo test -p trine-tests --no-fail-fast "$@" -- --test-threads=1 || failed=1
fi
# The daemon that the tests have started, if any.
bash scripts/docker-for-tests.sh down || true
exit "$failed"
