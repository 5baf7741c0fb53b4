# Thin on purpose: meson and ninja build, tools/ and tests/run.mjs do the rest. `make` alone lists what there is.
.DEFAULT_GOAL := help
.PHONY: help run deps build test test-sqlite test-postgres test-full fault tsan valgrind fuzz console docs bench lint format clean

BUILD      := build
ASAN       := build-asan
CLANG_ASAN := build-clang
FUZZ       := build-fuzz
TSAN       := build-tsan
SANITIZE   := -Dbuildtype=debug -Doptimization=1 -Db_sanitize=address,undefined -Db_lundef=false
NINJA_JOBS ?= $(shell nproc)
FUZZ_SECONDS ?= 60

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

run: ## install what is missing, build, serve on http://127.0.0.1:8000 with SQLite in ./data
	@tools/deps.sh build
	@$(MAKE) --no-print-directory build
	@WEIR_EGRESS_ALLOW=$${WEIR_EGRESS_ALLOW-127.0.0.1:8000} exec $(BUILD)/weir serve # may call itself, as the worked example does

deps: ## install the Debian packages that building, testing and linting need
	@tools/deps.sh build test postgres lint

build: $(BUILD)/build.ninja ## release build: build/weir
	@ninja -C $(BUILD) -j $(NINJA_JOBS)

test: $(ASAN)/build.ninja ## every test under ASan and UBSan, on SQLite and on a PostgreSQL that is started for it
	@tools/deps.sh build test postgres
	@ninja -C $(ASAN) -j $(NINJA_JOBS)
	@node tests/run.mjs --build $(ASAN) --db both

test-sqlite: $(ASAN)/build.ninja ## the same on SQLite only
	@tools/deps.sh build test
	@ninja -C $(ASAN) -j $(NINJA_JOBS)
	@node tests/run.mjs --build $(ASAN) --db sqlite

test-postgres: $(ASAN)/build.ninja ## the same on PostgreSQL only
	@tools/deps.sh build test postgres
	@ninja -C $(ASAN) -j $(NINJA_JOBS)
	@node tests/run.mjs --build $(ASAN) --db postgres

fault: $(ASAN)/build.ninja ## two minutes of three nodes on one PostgreSQL while everything goes wrong
	@tools/deps.sh build test postgres
	@ninja -C $(ASAN) -j $(NINJA_JOBS)
	@WEIR_TEST_FULL=1 node tests/run.mjs --build $(ASAN) --db postgres --only fault/nodes

test-full: $(ASAN)/build.ninja $(CLANG_ASAN)/build.ninja ## both databases, with gcc and with clang, every n of the faults, ten times as many kill points
	@tools/deps.sh build test postgres
	@ninja -C $(ASAN) -j $(NINJA_JOBS)
	@WEIR_TEST_FULL=1 node tests/run.mjs --build $(ASAN) --db both
	@ninja -C $(CLANG_ASAN) -j $(NINJA_JOBS)
	@WEIR_TEST_FULL=1 node tests/run.mjs --build $(CLANG_ASAN) --db both

tsan: $(TSAN)/build.ninja ## every test under ThreadSanitizer
	@tools/deps.sh build test
	@ninja -C $(TSAN) -j $(NINJA_JOBS)
	@node tests/run.mjs --build $(TSAN)

valgrind: build ## the unit tests under valgrind: what is read before it was written, which ASan does not see
	@tools/deps.sh build test lint
	@ninja -C $(BUILD) -j $(NINJA_JOBS)
	@meson test -C $(BUILD) --setup valgrind --suite unit --no-suite native --no-rebuild --num-processes $(NINJA_JOBS) --print-errorlogs

fuzz: $(FUZZ)/build.ninja ## every fuzzer for FUZZ_SECONDS (60) each, under ASan and UBSan; FUZZ_ONLY="json url" picks some
	@ninja -C $(FUZZ) -j $(NINJA_JOBS) fuzzers
	@tools/fuzz.sh $(FUZZ) $(FUZZ_SECONDS) $(FUZZ_ONLY)

docs: build ## rewrite docs/api.md, errors.md and configuration.md from the binary
	@node tools/docs.mjs --binary $(BUILD)/weir

console: ## fetch what /docs and /redoc show and put it where the next build embeds it; needs npm
	@cd console && npm ci --silent && node assets.mjs

bench: build ## one table: Weir beside a raw epoll loop, a bare commit loop and PostgreSQL alone; TLS beside nginx
	@node bench/run.mjs --build $(BUILD)

lint: build ## format, layers, function length, banned calls, clang-tidy, cppcheck
	@tools/lint/run.sh $(BUILD)

format: ## rewrite the C sources as .clang-format says
	@git ls-files -co --exclude-standard '*.c' '*.h' | xargs -r clang-format -i

clean: ## remove what was built; ./data stays
	@rm -rf $(BUILD) $(ASAN) $(CLANG_ASAN) $(FUZZ) $(TSAN)

# b_lto is left out: it doubles the build for under 3 %, and a first `make run` is what people wait for.
$(BUILD)/build.ninja:
	@meson setup $(BUILD) -Dbuildtype=release -Ddebug=true >/dev/null || { meson setup $(BUILD) -Dbuildtype=release -Ddebug=true; exit 1; }
$(ASAN)/build.ninja:
	@tools/deps.sh build test
	@meson setup $(ASAN) $(SANITIZE) -Dtests=enabled -Dbench=false
$(CLANG_ASAN)/build.ninja:
	@CC=clang meson setup $(CLANG_ASAN) $(SANITIZE) -Dtests=enabled -Dbench=false
$(FUZZ)/build.ninja:
	@tools/deps.sh build test lint
	@CC=clang meson setup $(FUZZ) $(SANITIZE) -Dtests=disabled -Dbench=false -Dfuzz=true -Dc_args=-fsanitize=fuzzer-no-link
$(TSAN)/build.ninja:
	@tools/deps.sh build test
	@meson setup $(TSAN) -Dbuildtype=debug -Doptimization=1 -Db_sanitize=thread -Db_lundef=false -Dtests=enabled -Dbench=false
