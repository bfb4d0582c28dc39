# The two commands of README are `make quickstart` and `make test`.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

BIN := $(CURDIR)/bin
export PATH := $(BIN):$(PATH)
export GOFLAGS := -buildvcs=false
GO ?= go

# Pinned; changed here and nowhere else.
RUNC_VERSION := v1.5.2
STATICCHECK_VERSION := v0.8.2
CONTAINERD_VERSION := v2.4.2
CRUN_VERSION := 1.21-1
CRUN_SUITE := trixie
CNI_VERSION := v1.9.1

# What the kernel tier may not do without in CI; see internal/kerneltest.
NEEDS := root,nft,iptables,cgroup,cgroup2,devices,overlay,runc,crun,shim,containerd,cni,dbus-daemon,chromium,open-files,loop,iptables-legacy,fanotify

STATIC := CGO_ENABLED=0 $(GO) build -trimpath -ldflags='-s -w'

##@ Use

.PHONY: help
help: ## show this
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: quickstart
quickstart: tools-run ## one node at work: images, pods, rules, figures, a page; ARGS=--once checks and ends, ARGS=--help teaches
	@$(BIN)/quickstart --manifests examples/quickstart/manifests $(ARGS)

.PHONY: bench
bench: tools-run ## start time of 1 and 50 pods, memory of agent and shims
	cd test/bench && $(GO) build -o $(BIN)/nodebench . && $(BIN)/nodebench node $(ARGS)

.PHONY: bench-runtime
bench-runtime: tools-run tools-test ## oci and cri beside containerd, the bare OCI runtime and the kernel
	cd test/bench && $(GO) build -o $(BIN)/nodebench . && $(BIN)/nodebench runtime $(ARGS)

.PHONY: bench-pods
bench-pods: tools-bench ## agents beside the kubelet: start, crash, removal, 110 pods, idle; builds a kubelet the first time, takes about 10 min
	cd test/bench && $(GO) build -o $(BIN)/nodebench . && $(BIN)/nodebench pods $(ARGS)

.PHONY: bench-proxy
bench-proxy: tools-test $(BIN)/kube-proxy ## proxyrules beside kube-proxy: loads, changes, connections; builds a kube-proxy the first time; ARGS="--services 30000"
	cd test/bench && $(GO) build -o $(BIN)/nodebench . && $(BIN)/nodebench proxy $(ARGS)

.PHONY: bench-growth
bench-growth: ## what 100, 300 and 1,000 pods with probes cost at rest, on the fake runtime
	$(GO) test -run '^$$' -bench 'IdlePods' -benchtime 1x -timeout 10m ./podlifecycle

.PHONY: bench-metrics
bench-metrics: ## metrics beside cAdvisor's library and containerd/cgroups on 10 to 1,000 cgroups
	cd test/bench && $(GO) build -o $(BIN)/nodebench . && $(BIN)/nodebench metrics $(ARGS)

.PHONY: bench-metrics-v2
bench-metrics-v2: $(BIN)/runc $(BIN)/crun $(BIN)/cni/bridge $(BIN)/nodekit-shim $(BIN)/containerd $(BIN)/containerd-shim-runc-v2 ## the same on pure cgroup v2, in the emulated machine of test-v2: only its ratios count
	@test/guest/run -b "metrics -rounds 3 -seconds 5 $(ARGS)"

.PHONY: clean
clean: ## remove what make built
	rm -rf $(BIN) .cache

##@ Check

.PHONY: test
test: test-unit test-kernel test-e2e ## every tier: unit, kernel (root) and end to end

.PHONY: test-unit
test-unit: ## no root, loopback only, race detector on
	NODEKIT_NEEDS=none $(GO) test -race ./...

.PHONY: test-kernel
test-kernel: tools-test ## real containers, rules, cgroups and a browser, in namespaces of their own
	NODEKIT_TIME_FACTOR=3 NODEKIT_REQUIRE=$(NEEDS) $(GO) test -count=1 -p 2 -timeout 40m $$($(GO) list -f '{{range .XTestImports}}{{.}} {{end}}{{range .TestImports}}{{.}} {{end}}:{{.ImportPath}}' ./... | awk -F: '/internal\/kerneltest/ {print $$2}')
	NODEKIT_TIME_FACTOR=3 NODEKIT_REQUIRE=$(NEEDS) $(GO) test -v -count=1 -timeout 40m -tags faultpoints -run TestOCI ./runtimeiface/oci -ginkgo.focus='kill matrix'
	cd test/bench && NODEKIT_REQUIRE=$(NEEDS) $(GO) test -v -count=1 -timeout 5m ./cadvisor

.PHONY: test-kill
test-kill: tools-test ## agent, shim, OCI runtime and containerd killed at every point of a pod's life, not at a sample
	NODEKIT_KILL_POINTS=all NODEKIT_REQUIRE=$(NEEDS) $(GO) test -v -count=1 -timeout 30m -run TestCRI ./runtimeiface/cri -ginkgo.focus='kill matrix'
	NODEKIT_KILL_POINTS=all NODEKIT_REQUIRE=$(NEEDS) $(GO) test -v -count=1 -timeout 60m -tags faultpoints -run TestOCI ./runtimeiface/oci -ginkgo.focus='kill matrix'

.PHONY: test-e2e
test-e2e: tools-run tools-test ## the quickstart's node under use, abuse and kill -9
	cd test/e2e && NODEKIT_REQUIRE=$(NEEDS) $(GO) test -count=1 -timeout 40m ./... $(ARGS)

SEEDS ?= 2000

.PHONY: sim
sim: ## random lives of a node on the fake runtime, with shortage and shutdown, and of plans, SEEDS=2000 of them, and an hour of 1,000 pods; NODEKIT_SIM_SEED=n plays a life again, to the letter
	NODEKIT_SIM_SEEDS=$(SEEDS) NODEKIT_PODS=1000 $(GO) test -count=1 -run 'TestSimulation|TestPlanProperties|TestNothingGrows' -timeout 0 ./podlifecycle

.PHONY: test-proxy
test-proxy: ## proxyrules: 10,000 changes at 5,000 Services under traffic, 8,000 packets of random nodes held against Trace, 100 kills, 1,000 starts under traffic
	NODEKIT_PROXY_CHANGES=10000 NODEKIT_REQUIRE=root,nft $(GO) test -v -count=1 -timeout 60m -run TestNftables ./proxyrules/nftables -ginkgo.v -ginkgo.focus='random changes'
	NODEKIT_PROXY_ROUNDS=100 NODEKIT_REQUIRE=root,nft $(GO) test -count=1 -timeout 60m -run TestNftables ./proxyrules/nftables -ginkgo.focus='do what Trace says|kill -9|come and go'

.PHONY: churn
churn: ## 10,000 cgroups come and go while a meter runs: nothing is left behind
	NODEKIT_CHURN=10000 NODEKIT_REQUIRE=root,cgroup $(GO) test -v -count=1 -timeout 10m -run TestDiscovery ./metrics/discovery -ginkgo.focus Churn

TIME ?= 30s

.PHONY: fuzz
fuzz: ## every fuzz target of podlifecycle, metrics and their parts, TIME=30s each
	@for dir in $$(grep -rl '^func Fuzz' --include='*_test.go' podlifecycle metrics | xargs -n1 dirname | sort -u); do \
		for name in $$(grep -ho '^func Fuzz[A-Za-z]*' $$dir/*_test.go | cut -c6-); do \
			echo "$$dir $$name"; $(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(TIME) ./$$dir; \
		done; \
	done

.PHONY: test-v2
test-v2: $(BIN)/runc $(BIN)/crun $(BIN)/cni/bridge $(BIN)/nodekit-shim $(BIN)/containerd $(BIN)/containerd-shim-runc-v2 ## containers, containerd and cgroups on pure cgroup v2 with systemd, in an emulated machine: slow; ARGS="-f REGEX" picks specs
	@test/guest/run $(ARGS)

.PHONY: vet
vet: $(BIN)/staticcheck ## gofmt, go vet, staticcheck
	@bad=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$bad" ]; then echo "gofmt wants to change:"; echo "$$bad"; exit 1; fi
	$(GO) vet ./...
	$(BIN)/staticcheck ./...
	$(GO) vet -tags faultpoints ./runtimeiface/oci/...
	$(BIN)/staticcheck -tags faultpoints ./runtimeiface/oci/...
	cd test/e2e && $(GO) vet ./... && $(BIN)/staticcheck ./...
	cd test/bench && $(GO) vet ./... && $(BIN)/staticcheck ./...

.PHONY: cross
cross: ## the packages build for darwin and windows
	GOOS=darwin $(GO) build ./...
	GOOS=windows $(GO) build ./...

.PHONY: tidy
tidy: ## go.mod files are what the code needs
	$(GO) mod tidy -diff
	cd test/e2e && $(GO) mod tidy -diff
	cd test/bench && $(GO) mod tidy -diff

# A number of inputs, no time: go test may fail of its own deadline.
.PHONY: verify
verify: vet tidy cross test sim ## exactly what CI runs
	$(MAKE) fuzz TIME=2000x

##@ Tools

# The go command knows best what is stale.
.PHONY: FORCE
FORCE:

.PHONY: tools-run
tools-run: $(BIN)/runc $(BIN)/nodekit-shim $(BIN)/demo $(BIN)/quickstart ## build what the quickstart needs

.PHONY: tools-test
tools-test: $(BIN)/runc $(BIN)/crun $(BIN)/nodekit-shim $(BIN)/containerd $(BIN)/containerd-shim-runc-v2 $(BIN)/cni/bridge ## install and build what the tests need
	@test/packages nft:nftables iptables-restore:iptables ip:iproute2 dbus-daemon:dbus chromium:chromium mkfs.ext2:e2fsprogs

.PHONY: tools-bench
tools-bench: tools-test $(BIN)/kubelet $(BIN)/staticpods ## build what bench-pods compares: a kubelet among it, several minutes

$(BIN)/runc:
	@test/packages pkg-config:pkg-config /usr/include/seccomp.h:libseccomp-dev
	GOBIN=$(BIN) $(GO) install -tags seccomp github.com/opencontainers/runc@$(RUNC_VERSION)

$(BIN)/crun:
	@mkdir -p $(BIN)
	@test/crun $(CRUN_VERSION) $(CRUN_SUITE) $(BIN)

$(BIN)/containerd $(BIN)/containerd-shim-runc-v2:
	GOBIN=$(BIN) $(GO) install github.com/containerd/containerd/v2/cmd/$(notdir $@)@$(CONTAINERD_VERSION)

$(BIN)/cni/bridge:
	GOBIN=$(BIN)/cni $(GO) install github.com/containernetworking/plugins/plugins/{main/bridge,main/loopback,ipam/host-local,meta/portmap}@$(CNI_VERSION)

# Their version is in test/kubelet/go.mod, which `make tidy` leaves alone: it would
# fetch all of Kubernetes.
$(BIN)/kubelet $(BIN)/kube-proxy: test/kubelet/go.mod
	cd test/kubelet && GOBIN=$(BIN) $(GO) install -trimpath -ldflags="-s -w -X k8s.io/component-base/version.gitVersion=$$($(GO) list -m -f '{{.Version}}' k8s.io/kubernetes)" k8s.io/kubernetes/cmd/$(notdir $@)

$(BIN)/staticpods: FORCE
	CGO_ENABLED=0 $(GO) build -o $@ ./examples/staticpods

$(BIN)/staticcheck:
	GOBIN=$(BIN) $(GO) install honnef.co/go/tools/cmd/staticcheck@$(STATICCHECK_VERSION)

$(BIN)/nodekit-shim: FORCE
	$(STATIC) -o $@ ./runtimeiface/oci/nodekit-shim

$(BIN)/demo: FORCE
	$(STATIC) -o $@ ./examples/quickstart/demo

$(BIN)/quickstart: FORCE
	CGO_ENABLED=0 $(GO) build -o $@ ./examples/quickstart
