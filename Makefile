# Everything a developer does. `make run` and `make test` need nothing but Go,
# root and apt on Debian 12: deploy/setup.sh installs what is missing.

SHELL       := /bin/bash
GO          ?= go
# The running system's own Go tools and nothing else; the version is in go.mod.
export GOTOOLCHAIN := local
# No name service module is ever loaded into a root process (docs/security.md).
TAGS        := osusergo,netgo
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS     := -s -w -X main.version=$(VERSION)
# PIE and full RELRO for what runs as root; the stage is static, with no loader.
BIN         := bin
GOLANGCI    := v2.15.0
TOOLS       := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/liege/tools
FUZZTIME    ?= 10s
RUN_FLAGS   ?=

.PHONY: setup-test all build check lint docs unit root race fuzz bench test run setup clean install

all: build

setup:
	@deploy/setup.sh run

setup-test:
	@deploy/setup.sh test

build:
	@mkdir -p $(BIN)
	CGO_ENABLED=0 $(GO) build -trimpath -tags $(TAGS) -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/liege ./cmd/liege-core
	CGO_ENABLED=1 $(GO) build -trimpath -tags $(TAGS) -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/liege-emperor
	CGO_ENABLED=1 $(GO) build -trimpath -tags $(TAGS) -ldflags '$(LDFLAGS) -linkmode external -extldflags -static' -o $(BIN)/ ./cmd/liege-stage

# A demonstration in the foreground: see README.md.
run: setup build
	@deploy/demo/run.sh $(RUN_FLAGS)

# Everything CI runs. It needs root, and says so.
test: setup-test check root race fuzz

check: build lint
	@out=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "gofmt -w these:"; echo "$$out"; exit 1; fi
	$(GO) vet -tags $(TAGS) ./...
	$(GO) mod verify
	$(GO) mod tidy -diff
	shellcheck $$(git ls-files '*.sh') .ci/run
	$(GO) test -tags $(TAGS) ./internal/archtest/...

lint: $(TOOLS)/golangci-lint-$(GOLANGCI)
	$< run --build-tags $(TAGS) ./...

$(TOOLS)/golangci-lint-$(GOLANGCI):
	@echo "building golangci-lint $(GOLANGCI) (once, a few minutes)"
	@mkdir -p $(TOOLS)
	GOBIN=$(TOOLS) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI)
	@mv $(TOOLS)/golangci-lint $@

# Generated pages and golden files, written anew: read the difference. The unit
# tests fail when they are out of date.
docs:
	$(GO) test -tags $(TAGS) ./vassal/... -update >/dev/null

# Every test that needs no root; the others are skipped, each with its reason.
unit:
	$(GO) test -tags $(TAGS) ./...

# Every test, and none may be skipped for want of what this machine declares to
# have (deploy/have.sh). One package after the other: they look for what the
# other left behind.
root: build
	@if [ "$$(id -u)" != 0 ]; then echo "make root: needs root: it makes namespaces and cgroups" >&2; exit 77; fi
	TEST_HAVE=$$(deploy/have.sh) $(GO) test -tags $(TAGS) -count=1 -p 1 -timeout 20m ./...

race:
	$(GO) test -race -short -tags $(TAGS) ./vassal/... ./emperor ./emperor/control ./emperor/dirmon ./serve/...

fuzz:
	@set -e; for t in $$(deploy/fuzz-targets.sh); do \
		echo "fuzz $$t"; $(GO) test -run '^$$' -fuzz "^$${t##*:}$$" -fuzztime $(FUZZTIME) "$${t%%:*}"; \
	done

bench: setup-test build
	$(GO) run -tags $(TAGS) ./internal/bench -bin $(BIN) $(ARGS)

install: build
	install -D -m 755 $(BIN)/liege $(DESTDIR)/usr/bin/liege
	for b in liege-emperor liege-stage liege-core; do install -D -m 755 $(BIN)/$$b $(DESTDIR)/usr/libexec/liege/$$b; done
	install -D -m 644 deploy/debian-uwsgi.ini $(DESTDIR)/usr/share/liege/debian-uwsgi.ini

clean:
	rm -rf $(BIN)
