# make demo    a cluster on this machine that loses its primary under load, and goes on (ENGINE=mariadb, mysql, redis: with those)
# make test    everything that is tested
# make bench   everything that is measured, kept in bench/results/
# make torture random faults on a real cluster under load (ENGINE=postgres SEED=1 FAULTS=100; RECORD=1 keeps the result)
# make sim     simulated clusters of real agents (SEEDS=n, FROM=n, or SEED=n for the story of one; DATABASE=postgres, mariadb or
#              mysql)
# make model   all that can happen to a small cluster (DEEP=1: more of it, for hours)

ENGINE ?= postgres
DIR ?= /var/tmp/trine-demo$(if $(filter-out postgres,$(ENGINE)),-$(ENGINE))
CARGO_TARGET_DIR ?= $(CURDIR)/target
export DIR ENGINE CARGO_TARGET_DIR

.PHONY: help demo demo-down build check test bench torture sim model

help:
	@sed -n 's/^# //p' $(firstword $(MAKEFILE_LIST))

demo:
	@bash scripts/demo.sh

demo-down:
	@"$(CARGO_TARGET_DIR)/release/trine" local down --dir "$(DIR)" --wipe

build:
	cargo build --release --workspace --bins

check:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

test:
	@bash scripts/test.sh

bench:
	@bash scripts/bench.sh

torture:
	@bash scripts/torture.sh --engine "$(ENGINE)" --seed "$(or $(SEED),1)" --faults "$(or $(FAULTS),100)" $(if $(RECORD),--record)

model:
	cargo run --release -p trine-sim --bin trine-model -- $(if $(DEEP),--deep)

sim:
	cargo run --release -p trine-sim --bin trine-sim -- $(if $(DATABASE),--database $(DATABASE)) \
		$(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),1000) --from $(or $(FROM),1))
