# Two commands for everybody: `make demo` and `make test`. The rest is for those who work on it.
# Everything below is built once, with one optimised profile; `make check` alone uses the development profile, for whoever edits.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test check cluster soak power bench build generate fuzz prerequisites clean

# Two jobs at most: the machine this is made for has two cores, and linking three programs at once takes gigabytes.
export CARGO_BUILD_JOBS ?= 2
# Backtraces in test failures only; a release binary prints none by itself.
export RUST_BACKTRACE ?= 1

TARGET := $(or $(CARGO_TARGET_DIR),target)
# Of all packages, and with a test among what is built: Cargo chooses the features of libraries by both, and with others half of them
# would be built twice, once for the programs and once for the tests.
# `--tests` makes Cargo forget every `--test NAME` beside it, and passes over those that don't run by default: two commands.
BUILD := cargo build --release --locked --workspace --bins
E2E := FRAMEKEEPER_BIN=$(abspath $(TARGET))/release cargo test --release --locked --workspace --test e2e --

# Slow unit tests wait for cameras and disks: three times as many run as there are cores (four at once left them half idle). These
# end-to-end tests wait more than they work, too: four at once; with six, decoding a picture took longer than it may. The rest has the
# machine for itself, one by one: so has a camera that is somebody else's program, because until its sender reports come arrival decides
# where its sound belongs, and a busy machine sends late; and so has what measures how long a failure costs.
PATIENT := bad_input:: budgets:: clips:: clocks:: demo:: disks::a_device disks::a_disk_that_fails disks::a_system disks::volumes edits:: \
	failover::a_ failover::of_mirrored failover::two_of failover_idle:: failover_kinds:: failover_links:: failover_planned:: failover_returns:: files:: flips:: \
	full:: onvif:: placement:: power::a_recorder recording::frames_out retention:: writes::

# Compiles with clippy in place of the compiler, so that lints and programs need one build and not two; Cargo.toml makes warnings errors.
export RUSTC_WORKSPACE_WRAPPER := clippy-driver

help: ## What there is
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

prerequisites:
	@e2e/prerequisites

build: prerequisites
	$(BUILD) --test generated

demo: build ## Record four test cameras (or CAMERA=rtsp://host/path) into ./demo-data
	@exec e2e/demo $(TARGET)/release

check: prerequisites ## Formatting, lints and unit tests, not optimised: quick, no root
	cargo fmt --all --check
	cargo test --locked --workspace --lib --bins --examples --tests --no-run
	cargo test --locked --workspace --bins --test e2e --test cluster --no-run
	cargo test --locked --workspace

test: prerequisites ## Prove everything, with small counts
	cargo fmt --all --check
	$(BUILD) --lib --examples --tests
	$(BUILD) --test e2e --test cluster
	RUST_TEST_THREADS=6 cargo test --release --locked --workspace
	$(E2E) --test-threads=4 $(PATIENT)
	$(E2E) --test-threads=1 --nocapture $(addprefix --skip ,$(PATIENT))
	e2e/cluster/test $(TARGET)

cluster: build ## The tests in a Kubernetes of three nodes alone; ONLY='control_plane::' for some of them
	$(BUILD) --test cluster
	ONLY='$(ONLY)' e2e/cluster/test $(TARGET)

soak: build ## The same tests with the full counts; goes on where it stopped. ONLY='kill:: files::' for some of them
	FRAMEKEEPER_SOAK=1 ONLY='$(ONLY)' e2e/soak

power: build ## Losses of power on a disk that logs its blocks (root)
	$(E2E) power:: --test-threads=1 --nocapture

# The programs that stand beside what they measure; each is run by framekeeper-bench.
BENCHES := --example catalogue_bench --example write_bench --example recovery_bench --example receive --example clip_latency --example heartbeat_bench \
	--example plan_bench

bench: build ## Measure against peers and write docs/benchmarks.md
	$(BUILD) $(BENCHES)
	$(TARGET)/release/framekeeper-bench --write docs/benchmarks.md
	$(TARGET)/release/examples/recovery_bench --write docs/benchmarks.md

generate: ## Write the generated files again (CRDs, metric list)
	cargo run --locked -p framekeeper-crds --bin framekeeper-crds -- crds
	UPDATE_DOCS=1 cargo test --locked -p framekeeper-crds --test fields
	UPDATE_DOCS=1 cargo test --locked -p framekeeper-recorder --test recorder metrics_page

fuzz: ## A minute of fuzzing for each parser (needs the nightly toolchain and cargo-fuzz)
	for crate in media takeover; do \
		cd $(CURDIR)/recorder/$$crate; \
		for target in $$(cargo +nightly fuzz list); do mkdir -p fuzz/corpus/$$target; cargo +nightly fuzz run $$target fuzz/corpus/$$target fuzz/seeds/$$target -- -max_total_time=60; done; \
	done

clean: ## Remove what was built and recorded here
	cargo clean
	rm -rf demo-data
