# make demo, make test: all that a machine with Python >= 3.11 and make needs. Everything stays in this folder: the
# environment in .venv, data in data, results in runs.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env demo study-demo test lint format tensorboard clean

PYTHON ?= python3
# pip installs uv, and uv the rest: it resolves and unpacks these packages several times as fast as pip.
# Exact, since another resolver can choose other versions of what the requirements leave open.
UV_VERSION := 0.13.8
RUN := .venv/bin/python
LOGDIR ?= runs

help:
	@echo "make demo         environment, demo data, and the main job on it: offline, on the CPU, a few minutes"
	@echo "make study-demo   a whole study on demo data and tiny models, and its report: offline, about 10 minutes"
	@echo "make test         environment and the whole test suite"
	@echo "make lint         ruff, and the layers of hf_utils, without changing anything"
	@echo "make format       mend what ruff can mend"
	@echo "make env          only the environment, in .venv; PYTHON=python3.12 chooses the interpreter"
	@echo "make tensorboard  curves and pictures of all runs; LOGDIR=runs/ast chooses some"
	@echo "make clean        remove the environment and the demo, but no other run"

env: .venv/.installed

# The stamp, so that nothing is resolved again until the requirements change.
# uv does not read pip's configuration: an index named only there is handed on. Compiled, because a process that may
# not write bytecode (PYTHONDONTWRITEBYTECODE, a read-only image) would compile PyTorch at each start, for seconds.
.venv/.installed: requirements.txt requirements-tags.txt requirements-export.txt requirements-app.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
		{ echo "Python >= 3.11 is needed (by transformers); $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12"; exit 1; }
	@test -x $(RUN) || $(PYTHON) -m venv .venv
	@$(RUN) -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"
	@index="$${PIP_INDEX_URL:-$$($(RUN) -m pip config get global.index-url 2>/dev/null)}"; \
		if test -n "$$index"; then export UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$$index}"; fi; \
		echo "Installing the packages of $^ into .venv: several GB, once, some minutes ..."; \
		$(RUN) -m uv pip install --quiet --compile-bytecode --python $(RUN) $(addprefix --requirement ,$^)
	@touch $@

# Flags of `accelerate launch`: what it would otherwise warn of. One thread, since layers this small gain nothing by more
# (on a busy machine two took ten times as long), and since the number of threads changes sums in the last digit.
demo: export HF_HUB_OFFLINE := 1
demo: env
	@$(RUN) -m hf_utils.data.demo_data --output_dir data/demo
	@$(RUN) -m accelerate.commands.launch --cpu --num_processes 1 --num_machines 1 --mixed_precision no \
		--dynamo_backend no --num_cpu_threads_per_process 1 run_classification.py configs/demo.yaml
	@echo
	@echo "That was a demonstration on synthesised music: no number from it is a result. Where to look:"
	@echo "  table        runs/demo/README.md and runs/demo/results.json"
	@echo "  picture      runs/demo/confusion_test.png"
	@echo "  curves       make tensorboard"
	@echo "  a page       .venv/bin/python -m hf_utils.app runs/demo   # drop a file of data/demo there, or your own"
	@echo "  real music   .venv/bin/python run_classification.py --model_name_or_path configs/models/convnext_small --dataset_name path/to/genre_folders   # offline"
	@echo "               .venv/bin/accelerate launch run_classification.py configs/ast.yaml"
	@echo "               .venv/bin/accelerate launch run_classification.py --model_name_or_path ntu-spml/distilhubert --dataset_name path/to/genre_folders"

study-demo: export HF_HUB_OFFLINE := 1
study-demo: env
	@$(RUN) -m hf_utils.study configs/study/demo.yaml
	@$(RUN) -m hf_utils.report runs/study-demo --output runs/study-demo/report
	@echo "The page: runs/study-demo/report/report.html (demo data: no number in it is a result)"

test: export HF_HUB_OFFLINE := 1
test: env
	@$(RUN) -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

lint: env
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@.venv/bin/lint-imports --no-cache

format: env
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

tensorboard: env
	@$(RUN) -m tensorboard.main --logdir "$(LOGDIR)"

clean:
	rm -rf .venv .pytest_cache .ruff_cache data/demo runs/demo runs/study-demo
