# Nightdrive. `make help` lists every target; the text after ## is that list.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
RUN_PYTHON := $(VENV)/bin/python
EXTRAS := gates,versioning,cluster,development

PROFILE ?= demo
DATA ?=
RUN ?=
SET ?=
ONNX ?= runs/latest/compressed/model.onnx
OUT ?= build/nightdrive.yaml
TABLE ?=
SIZE ?= small
SEEDS ?= 3
MINUTES ?= 0
DEVICE ?= cpu
quote = '$(subst ','\'',$(1))'
NIGHT = --profile $(call quote,$(PROFILE)) $(if $(DATA),--data $(call quote,$(DATA))) $(foreach item,$(SET),--set $(call quote,$(item)))
CLUSTER_NIGHT = $(subst --profile 'demo',--profile 'nightly',$(NIGHT)) $(if $(IMAGES),--images $(call quote,$(IMAGES)))
CLUSTER_RUN = $(foreach item,$(PARAMETER),--parameter $(call quote,$(item)))

.PHONY: help setup run test lint pipeline-compile scenes table bench profile simulate engine evaluate clean review promote rollback reject
.PHONY: versions history verify-history reproduce lineage scrub retire faults audit licences

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

setup: $(VENV)/.ready  ## create the virtual environment from the lock file (the other targets do it by themselves)

$(VENV)/.ready: pyproject.toml requirements.in constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "nightdrive: $(PYTHON) not found; install Python 3.11 or say PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "setting up $(VENV) from constraints.txt: a few minutes, once"
	@$(PYTHON) -m venv $(VENV)
	@$(RUN_PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]' >$(VENV)/setup.log 2>&1 \
		|| { tail -n 20 $(VENV)/setup.log >&2; echo "nightdrive: set-up failed; the whole log is $(VENV)/setup.log" >&2; exit 1; }
	@touch $@

run: setup  ## one whole night on this machine: PROFILE=demo|smoke|camvid DATA=DIR RUN=NAME SET="section.name=value ..."
	@$(RUN_PYTHON) -m pipelines.local $(NIGHT) $(if $(RUN),--run $(call quote,$(RUN)))

test: setup lint  ## the checks and tests (no container engine and no server needed beforehand)
	@$(RUN_PYTHON) -m pytest -n 2 --dist loadgroup

faults: setup  ## the whole fault campaign and bad-input campaign, with their counts: CAMPAIGN=all|faults|inputs EXAMPLES=60
	@$(RUN_PYTHON) -m tests.faults $(if $(CAMPAIGN),$(call quote,$(CAMPAIGN))) $(if $(EXAMPLES),--examples $(call quote,$(EXAMPLES)))

audit: setup  ## pins exact, installed files as their packages recorded them, licences listed; no network
	@$(RUN_PYTHON) -m pipelines.commands.audit

licences: setup  ## write docs/licences.md from what is installed
	@$(RUN_PYTHON) -m pipelines.commands.audit --write

test-containers: setup  ## the smoke night as containers on a real S3 server, against the same night on this machine (needs a container engine)
	@$(RUN_PYTHON) -m pytest -m containers tests/containers

lint: setup  ## style, types, import rules
	@$(RUN_PYTHON) -m ruff check .
	@$(RUN_PYTHON) -m ruff format --check .
	@$(RUN_PYTHON) -m mypy
	@$(VENV)/bin/lint-imports --no-cache >/dev/null || $(VENV)/bin/lint-imports --no-cache

pipeline-compile: setup  ## the night as Kubeflow pipeline YAML: OUT=FILE PROFILE=nightly
	@$(RUN_PYTHON) -m pipelines.kubeflow.compile $(CLUSTER_NIGHT) --out $(call quote,$(OUT))

.PHONY: dag images preflight pipeline-submit pipeline-status cancel schedule test-containers

dag: setup  ## draw the compiled pipeline into docs/dag.md
	@$(RUN_PYTHON) -m pipelines.commands.dag_page

images: setup  ## build the images: REGISTRY=HOST/PATH TAG=NAME PUSH=yes SETS="gates versioning torch-cpu torch-cuda"
	@$(RUN_PYTHON) -m pipelines.kubeflow.images $(if $(REGISTRY),--registry $(call quote,$(REGISTRY))) $(if $(TAG),--tag $(call quote,$(TAG))) \
		$(if $(SETS),--sets $(SETS)) $(if $(filter yes,$(PUSH)),--push)

preflight: setup  ## say what the cluster lacks for a night: PROFILE=nightly IMAGES=FILE PARAMETER="name=value ..."
	@$(RUN_PYTHON) -m pipelines.kubeflow.preflight $(CLUSTER_NIGHT) $(CLUSTER_RUN)

pipeline-submit: setup  ## start a night on the cluster and follow it: KFP_HOST=URL IMAGES=FILE PARAMETER="name=value ..."
	@$(RUN_PYTHON) -m pipelines.kubeflow.submit $(CLUSTER_NIGHT) $(CLUSTER_RUN) $(if $(filter no,$(PREFLIGHT)),--no-preflight) $(if $(filter no,$(FOLLOW)),--no-follow)

pipeline-status: setup  ## show a run on the cluster, by default the latest: RUN=ID
	@$(RUN_PYTHON) -m pipelines.kubeflow.runs status $(if $(RUN),--run $(call quote,$(RUN)))

cancel: setup  ## end a run on the cluster: RUN=ID
	@$(RUN_PYTHON) -m pipelines.kubeflow.runs cancel $(if $(RUN),--run $(call quote,$(RUN)))

schedule: setup  ## bring the recurring night in line with schedule.yaml: DRY_RUN=yes
	@$(RUN_PYTHON) -m pipelines.kubeflow.schedule $(if $(filter yes,$(DRY_RUN)),--dry-run)

VERSIONS = $(RUN_PYTHON) -m pipelines.commands.data_versions
say = $(if $($(1)),--$(2) $(call quote,$($(1))))
DECISION = $(call say,REGISTRY,registry) $(call say,VERSION,version) $(call say,MANIFEST,manifest) $(call say,BY,by) $(call say,REASON,reason)

review: setup  ## the page that compares two data versions: BASE=VERSION HEAD=VERSION OUT=DIR REGISTRY=DIR (all optional)
	@$(VERSIONS) review $(call say,REGISTRY,registry) $(call say,BASE,base) $(call say,HEAD,head) $(if $(filter command line,$(origin OUT)),--out $(call quote,$(OUT)))

promote: setup  ## release a data version and its network: VERSION=TAG BY="Name, Name" REASON=WHY MODEL=auto|release|keep
	@$(VERSIONS) promote $(DECISION) $(call say,MODEL,model) $(call say,BASE,base)

rollback: setup  ## move the released pointers back, running nothing: BY=NAME REASON=WHY VERSION=TAG (default: the one before)
	@$(VERSIONS) rollback $(DECISION)

reject: setup  ## record that a data version must not be released: VERSION=TAG BY=NAME REASON=WHY
	@$(VERSIONS) reject $(DECISION)

versions: setup  ## list the data versions of the registry
	@$(VERSIONS) versions $(call say,REGISTRY,registry)

history: setup  ## list every decision with its signature, checked against the registry's git history
	@$(VERSIONS) history $(call say,REGISTRY,registry)

verify-history: setup  ## check that every data tag and decision is signed by an allowed key: SIGNERS=FILE REGISTRY=DIR
	@$(VERSIONS) verify_history $(call say,REGISTRY,registry) $(call say,SIGNERS,signers)

reproduce: setup  ## fetch exactly the data of a version and prove it by its hash: VERSION=TAG OUT=DIR
	@$(VERSIONS) reproduce $(call say,REGISTRY,registry) $(call say,VERSION,version) $(if $(filter command line,$(origin OUT)),--out $(call quote,$(OUT)))

lineage: setup  ## which versions and networks used a frame or drive, what its deletion touches: FRAME=ID DRIVE=ID
	@$(VERSIONS) lineage $(call say,REGISTRY,registry) $(call say,FRAME,frame) $(call say,DRIVE,drive)

scrub: setup  ## check the registry's remote and re-hash a sample of it: SAMPLE=200 SEED=0
	@$(VERSIONS) scrub $(call say,REGISTRY,registry) $(call say,SAMPLE,sample) $(call say,SEED,seed)

retire: setup  ## dry run of retention; with PLAN=HASH BY=NAME REASON=WHY it is done: DAYS=30
	@$(VERSIONS) retire $(DECISION) $(call say,DAYS,days) $(call say,PLAN,plan)

evaluate: setup  ## judge an exported network on a data set: MODEL=FILE.onnx DATA=DIR [PART=val FORMAT= TAXONOMY= CHAMPION=FILE.onnx OUT=DIR]
	@[ -n "$(MODEL)" ] && [ -n "$(DATA)" ] || { echo "nightdrive: say MODEL=FILE.onnx and DATA=DIR" >&2; exit 2; }
	@$(RUN_PYTHON) -m pipelines.commands.evaluate $(call say,MODEL,model) $(call say,DATA,data) $(call say,FORMAT,format) $(call say,PART,part) \
		$(call say,TAXONOMY,taxonomy) $(call say,CHAMPION,champion) $(if $(filter command line,$(origin OUT)),--out $(call quote,$(OUT))) \
		$(foreach item,$(SET),--set $(call quote,$(item)))

scenes: setup  ## a contact sheet of procedural scenes: OUT=FILE.jpg
	@$(RUN_PYTHON) benchmarks/scenes_gallery.py $(OUT)

table: setup  ## a published table at this machine's size, into docs/results: TABLE=NAME DATA=PATH SIZE=small|medium|long|full SEEDS=3 MINUTES=9 DEVICE=cuda
	@$(RUN_PYTHON) -m benchmarks.tables $(call quote,$(TABLE)) $(if $(DATA),--data $(call quote,$(DATA))) --size $(SIZE) --seeds $(SEEDS) \
		--minutes $(MINUTES) --device $(DEVICE) $(if $(PARTIAL),--partial)

profile: setup  ## where the seconds and bytes of a night on this machine went: RUN=NAME
	@$(RUN_PYTHON) -m pipelines.local.night_profile $(call say,RUN,run)

simulate: setup  ## predict a night at a fleet's scale, into docs/results/fleet.md: SET="cluster.gpus=256 fleet.pool_every=10"
	@$(RUN_PYTHON) -m benchmarks.scale.simulate $(foreach item,$(SET),--set $(call quote,$(item))) --out docs/results

bench: setup  ## the duels with the peers, into docs/results/duels.md: ONLY="NAME ..." ANYWAY=yes (prints on a busy machine)
	@$(RUN_PYTHON) -m benchmarks.duels $(if $(ONLY),--only $(ONLY)) $(if $(filter yes,$(ANYWAY)),--anyway)

engine: setup  ## a TensorRT engine from a network, where trtexec is installed: ONNX=FILE
	@$(RUN_PYTHON) -m pipelines.commands.engine $(call quote,$(ONNX))

clean:  ## remove runs and build products; the virtual environment stays
	@rm -rf runs build .pytest_cache .mypy_cache .ruff_cache
