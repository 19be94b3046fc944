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
BIN         := bin
# Compiles the programs of Python workers; without it each start does.
PYTHON      := /usr/bin/python3
GOLANGCI    := v2.15.0
# The last release before packages for Windows and the modules they need.
NFPM        := v2.45.0
TOOLS       := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/liege/tools
# Executions, not seconds: a time fails now and then by itself (go.dev/issue/75804,
# mended in Go 1.27).
FUZZTIME    ?= 30000x
RUN_FLAGS   ?=

.PHONY: setup-test tools all build check lint docs unit root race fuzz bench test run setup clean deb rpm

all: build

setup:
	@deploy/setup.sh run

setup-test:
	@deploy/setup.sh test

# PIE and full RELRO for what is root for long, though a start executes it once
# more and it has to be relocated then (docs/performance.md); the stage is
# static, with no loader.
build:
	@mkdir -p $(BIN)
	@! test -x $(PYTHON) || PYTHONHASHSEED=0 $(PYTHON) -B serve/worker/shims/compile.py serve/worker/shims/compiled
	CGO_ENABLED=0 $(GO) build -trimpath -tags $(TAGS) -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/liege ./cmd/liege-core ./cmd/liege-relay
	CGO_ENABLED=0 $(GO) build -trimpath -tags $(TAGS) -ldflags '$(LDFLAGS)' -o $(BIN)/sbin/sendmail ./cmd/liege-sendmail
	CGO_ENABLED=1 $(GO) build -trimpath -tags $(TAGS) -buildmode=pie -ldflags '$(LDFLAGS) -linkmode external -extldflags "-Wl,-z,relro,-z,now"' -o $(BIN)/ ./cmd/liege-emperor
	CGO_ENABLED=1 $(GO) build -trimpath -tags $(TAGS) -ldflags '$(LDFLAGS) -linkmode external -extldflags -static' -o $(BIN)/ ./cmd/liege-stage

# A demonstration in the foreground: see README.md.
run: setup build
	@deploy/demo/run.sh $(RUN_FLAGS)

# Everything CI runs. It needs root, and says so. The tools are built while apt
# works; a virtual machine takes one of two processors, and the race detector the
# other. Fuzz targets run with the inputs that are known (make root); the search
# for new ones (make fuzz) is not part of it: what it finds is seldom the fault
# of the change at hand.
test:
	@$(MAKE) --no-print-directory -j2 setup-test tools
	@$(MAKE) --no-print-directory check root vm
	@$(MAKE) --no-print-directory -j2 vm-policy race
	@$(MAKE) --no-print-directory vm-attacks

check: build lint
	@out=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "gofmt -w these:"; echo "$$out"; exit 1; fi
	$(GO) vet -tags $(TAGS) ./...
	$(GO) mod verify
	$(GO) mod tidy -diff
	shellcheck $$(git ls-files '*.sh') .ci/run
	$(GO) test -tags $(TAGS) ./internal/archtest/...

lint: $(TOOLS)/golangci-lint-$(GOLANGCI)
	$< run --build-tags $(TAGS) ./...

tools: $(TOOLS)/golangci-lint-$(GOLANGCI) $(TOOLS)/nfpm-$(NFPM)

$(TOOLS)/golangci-lint-$(GOLANGCI):
	@echo "building golangci-lint $(GOLANGCI) (once, a few minutes)"
	@mkdir -p $(TOOLS)
	CGO_ENABLED=0 GOBIN=$(TOOLS) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI)
	@mv $(TOOLS)/golangci-lint $@

# Generated pages and golden files, written anew: read the difference. The unit
# tests fail when they are out of date.
docs:
	$(GO) test -tags $(TAGS) ./vassal/... -update >/dev/null

# Every test that needs no root; the others are skipped, each with its reason.
unit:
	$(GO) test -tags $(TAGS) ./...

# Every test, and none may be skipped for want of what this machine declares to
# have (deploy/have.sh). What makes sandboxes runs one package after the other:
# they look for what the other left behind.
# The slow ones come first, or one processor waits for them at the end.
BESIDE := vassal|serve|selinux|policy|sendmail|internal
SLOW   := ./serve/worker ./policy ./serve
root: build
	@if [ "$$(id -u)" != 0 ]; then echo "make root: needs root: it makes namespaces and cgroups" >&2; exit 77; fi
	TEST_HAVE=$$(deploy/have.sh) $(GO) test -tags $(TAGS) -count=1 -timeout 20m $(SLOW) $$($(GO) list ./... | grep -E '^liege/($(BESIDE))(/|$$)')
	TEST_HAVE=$$(deploy/have.sh) $(GO) test -tags $(TAGS) -count=1 -p 1 -timeout 20m $$($(GO) list ./... | grep -vE '^liege/($(BESIDE)|e2e/vm)(/|$$)')

# The package on Debian with systemd, SELinux enforcing, cgroup v2 and hybrid,
# in QEMU: docs/testing.md. No KVM needed. Under two minutes once the unpacked
# Debian is in the cache.
.PHONY: vm vm-policy vm-attacks
vm: deb
	@if [ "$$(id -u)" != 0 ]; then echo "make vm: needs root: it unpacks and labels a system" >&2; exit 77; fi
	TEST_HAVE=$$(deploy/have.sh) $(GO) test -tags $(TAGS) -count=1 -v -timeout 15m -skip '^Test(PolicyChanges|Attacks)$$' ./e2e/vm $(ARGS) </dev/null

# What takes long there: modules installed into the running system.
vm-policy: deb
	TEST_HAVE=$$(deploy/have.sh) $(GO) test -tags $(TAGS) -count=1 -v -timeout 15m -run '^TestPolicyChanges$$' ./e2e/vm </dev/null

# And the attacks of e2e, where cgroup v2 is alone.
vm-attacks: deb
	TEST_HAVE=$$(deploy/have.sh) $(GO) test -tags $(TAGS) -count=1 -v -timeout 15m -run '^TestAttacks$$' ./e2e/vm </dev/null

race:
	$(GO) test -race -short -tags $(TAGS) ./vassal/... ./emperor ./emperor/control ./emperor/dirmon ./serve/...

# Longer: make fuzz FUZZTIME=1000000x. A finding becomes a seed of its target.
fuzz:
	@set -e; for t in $$(deploy/fuzz-targets.sh); do \
		echo "fuzz $$t"; $(GO) test -run '^$$' -fuzz "^$${t##*:}$$" -fuzztime $(FUZZTIME) "$${t%%:*}"; \
	done

bench: setup-test build
	$(GO) run -tags $(TAGS) ./internal/bench -bin $(BIN) $(ARGS)

# bin/liege_VERSION_ARCH.deb, bin/liege-VERSION.ARCH.rpm: docs/operations.md.
PACKAGES    := $(BIN)
DESCRIBED   ?= $(VERSION)
deb rpm: build $(TOOLS)/nfpm-$(NFPM)
	@deploy/package/build.sh $@ $(DESCRIBED) $(TOOLS)/nfpm-$(NFPM) $(PACKAGES)

$(TOOLS)/nfpm-$(NFPM):
	@echo "building nfpm $(NFPM) (once, half a minute)"
	@mkdir -p $(TOOLS)
	CGO_ENABLED=0 GOBIN=$(TOOLS) $(GO) install -trimpath -ldflags '-s -w' github.com/goreleaser/nfpm/v2/cmd/nfpm@$(NFPM)
	@mv $(TOOLS)/nfpm $@

clean:
	rm -rf $(BIN)
