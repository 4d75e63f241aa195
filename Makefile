# make demo and make test do all the set-up they need; nothing else has to be typed first.

PYTHON ?= python3
# The tests, on all cores.
SPREAD := --numprocesses auto --dist worksteal
# The tests that belong to no suite of their own.
USUAL  := not large and not patterns and not soak and not thorough
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# The networks of other packages have an environment of their own, for those packages' sake.
THIRD_PARTY := .venv-third-party
# NVIDIA's Triton server, with the Python of its backend.
TRITON := .venv-triton
# Ray, beside the packages.
RAY := .venv-ray
# The other servers that benchmarks/serve measures.
SERVERS := .venv-servers

.PHONY: help setup demo web test test-avx2 pattern-tests thorough third-party triton-check ray-check javascript fuzz matrix cuda mutants soak large lint types docs api wheels wheel-check compat bench bench-quantization bench-native bench-serve bench-scale bench-ray bench-javascript architecture patterns clean

help:                ## show this list
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

setup: $(READY)      ## make .venv with everything development needs

$(READY): constraints.txt pyproject.toml runtime/pyproject.toml exporter/pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; say make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	# Dependency groups need pip 25.1; Python 3.11 comes with an older one.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	    -e 'runtime[cpu,data,openvino,tract,onnx-reference,ort-web,serve]' -e 'exporter[c]' --group dev
	# Triton's client forbids the newer protobuf and ml_dtypes that onnx needs; it works with them.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt tritonclient
	# KServe's package has the fields of its objects; its own dependencies are a hundred.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt kserve
	touch $@

demo: $(READY)       ## export, verify and stream the reference networks, the last without PyTorch
	$(BIN)/python -m demo

web: $(READY)        ## build the page that shows two networks in a browser, and serve it
	@command -v npm > /dev/null || { echo "make web needs Node 20.19 or newer, with npm: https://nodejs.org" >&2; exit 1; }
	cd javascript && npm ci --no-audit --no-fund && npm run build
	$(BIN)/python -m demo.web

# PyTorch computes with one thread in each process: there are as many processes as cores.
test test-avx2 pattern-tests thorough fuzz matrix cuda: export OMP_NUM_THREADS = 1

test: $(READY)       ## run the tests
	$(BIN)/python -m pytest $(SPREAD) -m '$(USUAL)'

# ONNX Runtime has no such switch: tests/exporter/variants/test_saturation.py imitates its arithmetic.
test-avx2: export ATEN_CPU_CAPABILITY = avx2
test-avx2: export ONEDNN_MAX_CPU_ISA = AVX2
test-avx2: export OV_CPU_MAX_ISA = AVX2
test-avx2: $(READY)  ## run the tests with PyTorch and OpenVINO held to AVX2, on a machine that has more
	$(BIN)/python -m pytest $(SPREAD) -m '$(USUAL)'

pattern-tests: $(READY)  ## export a network of every pattern, refuse one just outside it, and what else takes minutes
	$(BIN)/python -m pytest $(SPREAD) -m 'patterns and not thorough'

thorough: $(READY)   ## export more relatives of the networks that the tests try
	$(BIN)/python -m pytest $(SPREAD) -m thorough

third-party: $(THIRD_PARTY)/.ready  ## export networks of other people's packages, lift and run their files
	$(THIRD_PARTY)/bin/python -m pytest tests/third_party

$(THIRD_PARTY)/.ready: constraints.txt runtime/pyproject.toml exporter/pyproject.toml tests/third_party/requirements.txt
	$(PYTHON) -m venv $(THIRD_PARTY)
	$(THIRD_PARTY)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	    -e 'runtime[cpu]' -e exporter hypothesis pytest
	$(THIRD_PARTY)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	    -r tests/third_party/requirements.txt
	touch $@

# tests/triton/server.py says what else it takes to run the server without its container.
triton-check: $(READY) $(TRITON)/.ready  ## talk to Triton as tests/runtime/serve talks to stateport, and compare both
	$(BIN)/python -m pytest tests/triton
	$(BIN)/python -m tests.triton.compare

$(TRITON)/.ready: tests/triton/requirements.txt
	$(PYTHON) -m venv $(TRITON)
	$(TRITON)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	    -r tests/triton/requirements.txt
	touch $@

ray-check: $(RAY)/.ready  ## run a data set on two workers of Ray and streams on two replicas, and kill some
	$(RAY)/bin/python -m pytest tests/ray

$(RAY)/.ready: constraints.txt runtime/pyproject.toml exporter/pyproject.toml
	$(PYTHON) -m venv $(RAY)
	$(RAY)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	    -e 'runtime[cpu,serve,ray]' -e exporter hypothesis pytest httpx \
	    aiohttp geventhttpclient python-rapidjson urllib3
	$(RAY)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt tritonclient
	touch $@

javascript: $(READY)  ## build and test the npm package, and the engines ort-node and ort-web
	@node -e 'const [major, minor] = process.versions.node.split("."); process.exit(100 * major + +minor < 2019 ? 1 : 0)' || { \
	    echo "make javascript needs Node 20.19 or newer, with npm: https://nodejs.org" >&2; exit 1; }
	@command -v chromium > /dev/null || command -v chromium-browser > /dev/null || { \
	    echo "make javascript needs Chromium (Debian: apt install chromium)" >&2; exit 1; }
	cd javascript && npm ci --no-audit --no-fund
	cd javascript && npm run build && npm run types && npm run check && npm test
	$(BIN)/python -m pytest tests/javascript

fuzz: $(READY)       ## 500 random networks and graphs, and 20,000 malformed files of each format
	STATEPORT_FUZZ=500 $(BIN)/python -m pytest tests/exporter/test_random_networks.py tests/exporter/test_random_blocks.py tests/exporter/test_random_graphs.py
	STATEPORT_FUZZ_FILES=20000 $(BIN)/python -m pytest $(SPREAD) tests/fuzz

matrix: $(READY)     ## run every kind of network on every engine, and carry streams between them
	$(BIN)/python -m pytest $(SPREAD) tests/matrix

# It wants the GPU build of ONNX Runtime in place of the CPU's: pip install 'stateport[gpu]'.
cuda:                ## run every kind of network on a GPU; PYTHON names the environment
	$(PYTHON) -m pytest $(SPREAD) tests/cuda

mutants: $(READY)    ## break good files in every way and rewrite the table in docs/parity.md
	$(BIN)/python -W ignore -m benchmarks.mutants

soak: $(READY)       ## run hundreds of thousands of steps, minutes in all
	$(BIN)/python -m pytest tests/soak
	$(BIN)/python -m pytest $(SPREAD) -m soak

large: $(READY)      ## run the tests that need several gigabytes
	$(BIN)/python -m pytest -m large

lint: $(READY)       ## check style and the boundary between runtime and exporter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)      ## check types, strictly
	$(BIN)/mypy

docs: $(READY)       ## build the documentation site into build/docs
	$(BIN)/python -m sphinx -W --keep-going -n -q -b html docs build/docs

wheels: $(READY)     ## build both wheels into dist/
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist ./runtime ./exporter

wheel-check: wheels  ## run the reference and the pytest plugin from the wheels, in clean environments
	$(BIN)/python -m demo.wheel_check
	$(BIN)/python -m demo.plugin_check

compat: wheels       ## try the lowest and the newest versions that pyproject.toml promises, in clean environments
	$(BIN)/python -m compat

bench: $(READY)      ## measure stateport beside its peers and rewrite the page of this processor's kind
	$(BIN)/python -W ignore -m benchmarks

bench-quantization: $(READY)  ## measure each form of quantised weights on this processor
	$(BIN)/python -W ignore -m benchmarks.quantization

bench-native: $(READY)  ## measure linear attention as a loop and as one operator
	$(BIN)/python -W ignore -m benchmarks.native_operators

bench-serve: $(READY) $(TRITON)/.ready $(SERVERS)/.ready  ## measure the server beside its peers; takes an hour
	$(BIN)/python -W ignore -m benchmarks.serve --page docs/performance-serving.md

bench-scale: $(READY)  ## measure what a core and a store carry, into docs/scaling.md; needs redis-server
	$(BIN)/python -W ignore -m benchmarks.scale
	$(BIN)/python -W ignore -m benchmarks.scale.replicas

bench-ray: $(RAY)/.ready  ## measure how much faster two workers of Ray are than one; needs two quiet cores
	$(RAY)/bin/python -W ignore -m benchmarks.scale.data_sets

bench-javascript: $(READY)  ## measure the npm package beside a loop written by hand, into docs/javascript.md; make javascript builds it
	$(BIN)/python -W ignore -m benchmarks.javascript

$(SERVERS)/.ready: benchmarks/serve/servers/requirements.txt
	$(PYTHON) -m venv $(SERVERS)
	$(SERVERS)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

api: $(READY)        ## write docs/api.md and docs/commands.md from docstrings and commands
	$(BIN)/python docs/api.py
	$(BIN)/python docs/commands.py

architecture: $(READY)  ## draw the rooms and their arrows into docs/architecture.md
	$(BIN)/python docs/rooms.py

patterns: $(READY)   ## try every pattern on both exporters and rewrite the table in docs/patterns.md
	$(BIN)/python -m benchmarks.patterns

clean:               ## remove everything that was made
	rm -rf $(VENV) $(THIRD_PARTY) $(TRITON) $(RAY) $(SERVERS) build dist javascript/node_modules javascript/dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
