# Nightdrive. `make help` lists every target; the text after ## is that list.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
RUN_PYTHON := $(VENV)/bin/python
EXTRAS := gates,versioning,pretrained,cluster,outside,development
NIGHTDRIVE := $(RUN_PYTHON) -m pipelines.commands

# Each of these is a command of the program of the same name, which sets itself up first.
COMMANDS := run season replay evaluate profile engine images preflight pipeline-compile pipeline-submit pipeline-status pipeline-retry cancel \
	schedule test-cluster watch dag parameters review promote reference rebase reject rollback versions nights history verify-history trust reproduce lineage erase verify-erasure scrub \
	retire batches recall migrate backup restore table bench simulate scenes operating-characteristics faults audit licences
# The options of the commands, in capitals. What is said here or in the environment reaches the program as it was typed: neither
# make nor a shell looks inside it. OUT counts only where it is said here.
OPTIONS := AGAINST ALSO ANNOTATOR ANYWAY BASE BATCH BETWEEN BY CAMPAIGN CHAMPION DATA DAYS DEVICE DRIVE DRY_RUN EXAMPLES FOLLOW FORMAT FRAME FROM HEAD IMAGES MANIFEST MINUTES \
	MODEL NETWORKS NIGHT NIGHTS ONCE ONLY ONNX OUT PART PARTIAL PLAN PREFLIGHT PROFILE PROPOSAL PUSH REASON REGISTRY REMOTE RUN RUNS SAMPLE SEED SEEDS SET SETS SIGNERS SIZE STORE TABLE TAG \
	TAXONOMY VERSION WITHIN
simulate operating-characteristics: export NIGHTDRIVE_OPTION_OUT := docs/results
define hand_over
override $(1) := $$(value $(1))
$$(COMMANDS) test-gpu: export NIGHTDRIVE_OPTION_$(1) := $$($(1))
endef
# Any other variable that is typed is put into the environment by make, which would expand it first.
define export_as_typed
export override $(1) := $$(value $(1))
endef
TYPED := $(foreach name,$(filter-out $(OPTIONS),$(.VARIABLES)),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
$(foreach name,$(TYPED),$(eval $(call export_as_typed,$(name))))
SAID := $(filter-out %:undefined OUT:environment,$(foreach name,$(OPTIONS),$(name):$(firstword $(origin $(name)))))
$(foreach said,$(SAID),$(eval $(call hand_over,$(firstword $(subst :, ,$(said))))))

.PHONY: help setup test test-containers test-gpu lint clean $(COMMANDS)

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'
	@echo "SET holds one override or several with blanks between; a value is YAML and may hold blanks within quotes or brackets:"
	@echo "  make run SET='select.budget_frames=20 select.quotas=[{column: drive_id, value: \"0001TP\", minimum_share: 0.14}]'"

setup: $(VENV)/.ready  ## create the virtual environment from the lock file (the other targets do it by themselves)

$(VENV)/.ready: pyproject.toml requirements.in constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "nightdrive: $(PYTHON) not found; install Python 3.11 or say PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "setting up $(VENV) from constraints.txt: a few minutes, once"
	@$(PYTHON) -m venv $(VENV)
	@$(RUN_PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]' >$(VENV)/setup.log 2>&1 \
		|| { tail -n 20 $(VENV)/setup.log >&2; echo "nightdrive: set-up failed; the whole log is $(VENV)/setup.log" >&2; exit 1; }
	@touch $@

$(COMMANDS): setup
	@$(NIGHTDRIVE) $@

run:  ## one whole night on this machine: PROFILE=demo|smoke|camvid|footage DATA=DIR RUN=NAME SET="section.name=value ..."
replay:  ## repeat a recorded night on its own frames, both side by side: NIGHT=NAME SET="section.name=value ..."
season:  ## so many nights with new footage each and an annotator who returns tomorrow: NIGHTS=5 PROFILE=season|camvid DATA=DIR [AGAINST=random]
evaluate:  ## judge an exported network on a data set: MODEL=FILE.onnx DATA=DIR [PART=val FORMAT= TAXONOMY= CHAMPION=FILE.onnx OUT=DIR]
profile:  ## where the seconds and bytes of a night on this machine went: RUN=NAME
engine:  ## a TensorRT engine from a network, where trtexec is installed: ONNX=FILE
images:  ## build the images: REGISTRY=HOST/PATH TAG=NAME PUSH=yes SETS="gates versioning torch-cpu torch-cuda"
preflight:  ## say what the cluster lacks for a night: PROFILE=nightly IMAGES=FILE SET="..."
pipeline-compile:  ## the night as Kubeflow pipeline YAML: OUT=FILE PROFILE=nightly
pipeline-submit:  ## start a night on the cluster and follow it: KFP_HOST=URL IMAGES=FILE SET="..." [PREFLIGHT=no FOLLOW=no]
pipeline-status:  ## show a run on the cluster, by default the latest: RUN=ID
pipeline-retry:  ## try the failed steps of a run on the cluster again; finished ones stay: RUN=ID
watch:  ## look after the nights on the cluster: ONCE=yes looks once, as its CronJob does every ten minutes
cancel:  ## end a run on the cluster: RUN=ID
schedule:  ## bring the recurring night in line with schedule.yaml: DRY_RUN=yes
test-cluster:  ## eight cases against a real installation, in names of their own: KFP_HOST=URL SET="common.store=... common.remote=... common.registry=..."
dag:  ## write what is derived from the graph: dvc.yaml and its drawing, docs/dag.md
parameters:  ## write docs/parameters.md and the schema of params.yaml from the declarations of parameters
review:  ## the page that compares two data versions: BASE=VERSION HEAD=VERSION OUT=DIR REGISTRY=DIR (all optional)
promote:  ## release a data version and its network: VERSION=TAG BY="Name, Name" REASON=WHY PROPOSAL=HASH MODEL=auto|release|keep|only
reference:  ## set the network that losses over the months are counted from, by default the champion: BY=NAME REASON=WHY [VERSION=TAG]
rebase:  ## put the new frames of a stale version onto what is current, as a new version: VERSION=TAG
reject:  ## record that a data version must not be released: VERSION=TAG BY=NAME REASON=WHY
rollback:  ## move the released pointers back, running nothing: BY=NAME REASON=WHY VERSION=TAG (default: the one before)
versions:  ## list the data versions of the registry
nights:  ## list the nights of the registry, with what each took in, chose, measured and cost, and draw the trend: OUT=runs/nights.html
history:  ## list every decision with its signature, checked against the registry's git history
verify-history:  ## list every commit of a signed registry with who signed it: REGISTRY=DIR
trust:  ## give a registry its list of allowed signers, or change it, signed by a root: SIGNERS=FILE REGISTRY=DIR
reproduce:  ## fetch exactly the data of a version and prove it by its hash: VERSION=TAG OUT=DIR
lineage:  ## every use of frames: versions, nights, annotators, networks to any depth: FRAME=ID DRIVE=ID BETWEEN=FROM,TO WITHIN=S,W,N,E ANNOTATOR=NAME
erase:  ## dry run of an erasure; with PLAN=HASH it is done: DRIVE=ID | FRAME=ID | BETWEEN= | WITHIN= BY=NAME REASON=WHY [NETWORKS=retrain|retire|keep ALSO=PLACES]
verify-erasure:  ## search the installation for what was erased, and certify: [PLAN=HASH ALSO=PLACES]
scrub:  ## check the registry's remote and re-hash a sample of it: SAMPLE=200 SEED=0
batches:  ## list the batches at annotators, what is overdue and which labels went back
recall:  ## take frames back from annotators: BATCH=NAME or FRAME=ID BY=NAME REASON=WHY
retire:  ## dry run of retention; with PLAN=HASH BY=NAME REASON=WHY it is done: DAYS=30
migrate:  ## bring a registry that an older version wrote forward, in one commit: REGISTRY=DIR
backup:  ## the registry and all that its remote holds for it, as a folder: OUT=DIR REGISTRY=DIR
restore:  ## a registry and its remote again, from a backup: FROM=DIR REGISTRY=DIR [REMOTE=DIR]
table:  ## a published table at this machine's size, into docs/results: TABLE=NAME DATA=PATH SIZE=small|medium|long|full SEEDS=3 MINUTES=9 DEVICE=cuda
bench:  ## the duels with the peers, into docs/results/duels.md: ONLY="NAME ..." ANYWAY=yes (prints on a busy machine)
simulate:  ## predict a night at a fleet's scale, into docs/results/fleet.md: SET="cluster.gpus=256 fleet.pool_every=10"
operating-characteristics:  ## simulate what the release verdict lets through, into docs/results: SET="study.repeats=100 world.paired_sd=0.35"
scenes:  ## a contact sheet of procedural scenes: OUT=FILE.jpg
faults:  ## the campaigns of faults, bad input and hostile settings, with their counts: CAMPAIGN=all|faults|footage|inputs|settings|nights|trust|erasure EXAMPLES=60
audit:  ## pins exact, installed files as their packages recorded them, licences listed; no network
licences:  ## write docs/licences.md from what is installed

test: setup lint  ## the checks and tests (no container engine and no server needed beforehand)
	@$(RUN_PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-containers: setup  ## the smoke night as containers on a real S3 server, against the same night on this machine (needs a container engine)
	@$(RUN_PYTHON) -m pytest -m containers tests/containers

test-gpu:  ## what only a GPU shows, in at most 6 minutes and without any set-up: PYTHON=/path/to/python [DEVICE=cpu]
	@$(PYTHON) -m tests.gpu

lint: setup  ## style, types, import rules
	@$(RUN_PYTHON) -m ruff check .
	@$(RUN_PYTHON) -m ruff format --check .
	@$(RUN_PYTHON) -m mypy
	@$(VENV)/bin/lint-imports --no-cache >/dev/null || $(VENV)/bin/lint-imports --no-cache

clean:  ## remove runs and build products; the virtual environment stays
	@rm -rf runs build .pytest_cache .mypy_cache .ruff_cache
