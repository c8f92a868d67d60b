# Two commands for everybody: `make demo` and `make test`. The rest is for those who work on it.
# Everything below is built once, with one optimised profile; `make check` alone uses the quick development profile.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test check soak power bench build generate fuzz prerequisites clean

# Two jobs at most: the machine this is made for has two cores, and linking three programs at once takes gigabytes.
export CARGO_BUILD_JOBS ?= 2
# Backtraces in test failures only; a release binary prints none by itself.
export RUST_BACKTRACE ?= 1

TARGET := $(or $(CARGO_TARGET_DIR),target)
# Programs and end-to-end tests are built with the same packages chosen, because Cargo chooses features by them: else half of it is built twice.
PACKAGES := -p framekeeper-operator -p framekeeper-recorder -p framekeeper-e2e-camera -p framekeeper-e2e-checker -p framekeeper-e2e-power -p framekeeper-e2e
E2E := FRAMEKEEPER_BIN=$(abspath $(TARGET))/release cargo test --release --locked $(PACKAGES) --test e2e --

# These wait more than they work: several run beside each other. The rest has the machine for itself, one by one.
PATIENT := bad_input:: clips:: clocks:: edits:: files:: flips:: full:: writes::

# Compiles with clippy in place of the compiler, so that lints and tests need one build and not two; Cargo.toml makes warnings errors.
CHECKED := RUSTC_WORKSPACE_WRAPPER=clippy-driver cargo test --workspace --locked

help: ## What there is
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

prerequisites:
	@e2e/prerequisites

build: prerequisites
	cargo build --release --locked $(PACKAGES) --bins

demo: build ## Record four test cameras (or CAMERA=rtsp://host/path) into ./demo-data
	@exec e2e/demo $(TARGET)/release

check: prerequisites ## Formatting, lints and unit tests: quick, no root
	cargo fmt --all --check
	$(CHECKED) --lib --bins --examples --tests --test e2e --no-run
	$(CHECKED)

test: check build ## Prove everything, with small counts
	$(E2E) --test-threads=3 $(PATIENT)
	$(E2E) --test-threads=1 --nocapture $(addprefix --skip ,$(PATIENT))

soak: build ## The same tests with the full counts; goes on where it stopped
	FRAMEKEEPER_SOAK=1 FRAMEKEEPER_BIN=$(abspath $(TARGET))/release e2e/soak
	FRAMEKEEPER_SOAK=1 cargo test --release --locked -p framekeeper-store --lib --test recovery -- --skip failing_tests

power: build ## Losses of power on a disk that logs its blocks (root): what is open is in docs/durability.md
	$(E2E) power:: --include-ignored --test-threads=1 --nocapture

# The programs that stand beside what they measure; each is run by framekeeper-bench.
BENCHES := -p framekeeper-store --example catalogue_bench --example write_bench --example recovery_bench -p framekeeper-ingest --example receive -p framekeeper-recorder --example clip_latency

bench: build ## Measure against peers and write docs/benchmarks.md
	cargo build --release --locked $(BENCHES)
	$(TARGET)/release/framekeeper-bench --write docs/benchmarks.md
	$(TARGET)/release/examples/recovery_bench --write docs/benchmarks.md

generate: ## Write the generated files again (CRDs, metric list)
	cargo run --locked -p framekeeper-crds --bin framekeeper-crds -- crds
	UPDATE_DOCS=1 cargo test --locked -p framekeeper-recorder --test metrics_page

fuzz: ## A minute of fuzzing for each parser (needs the nightly toolchain and cargo-fuzz)
	cd recorder/media && for target in $$(cargo +nightly fuzz list); do cargo +nightly fuzz run $$target -- -max_total_time=60; done

clean: ## Remove what was built and recorded here
	cargo clean
	rm -rf demo-data
