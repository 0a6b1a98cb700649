"""The study runner, mostly with a stand-in for run_classification.py that writes results at once."""

import json
import multiprocessing
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from tones import write_tone

from hf_utils.errors import UserError
from hf_utils.report.statistics import plan_detectable
from hf_utils.study import cells as study_cells
from hf_utils.study import power
from hf_utils.study import processes as study_runs
from hf_utils.study import study_run as study
from hf_utils.study.cells import make_cells
from hf_utils.study.file import read_study

ROOT = Path(__file__).resolve().parents[2]

# Takes the configuration that the study wrote for the one it was asked for, as the real script's parser would.
STAND_IN = """
import json, sys, time
from pathlib import Path
import yaml
folder = Path(sys.argv[sys.argv.index("--output_dir") + 1])
with open("ran.txt", "a") as file:
    file.write(str(folder) + "\\n")
print("step 1\\rstep 2", flush=True)
if "bad" in folder.parts and not Path("mended").exists():
    sys.exit("no such dataset")
if Path("slow").exists():
    (folder / "checkpoint-1").mkdir(exist_ok=True)
    Path("waiting").touch()
    while Path("slow").exists():
        time.sleep(0.02)
config = yaml.safe_load((folder / "study_cell.yaml").read_text())
(folder / "results.json").write_text(json.dumps({"complete": True, "config": config, "seconds": {"training": 1800}}))
"""

STUDY = {
    "output_dir": "runs/s",
    "models": {"ast": {"options": {"model_name_or_path": "tiny"}}},
    "arms": {"clean": None, "noisy": {"options": {"train_datasets": ["real", "data/noisy"]}}},
    "seeds": [1, 2],
    "options": {"max_steps": 5},
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder with the stand-in script, started without accelerate and parsed in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(study_runs._PROGRAMS, "accelerate", [sys.executable, "launch.py"])
    monkeypatch.setattr(study_runs, "_POLL_SECONDS", 0.01)
    for module in (study_cells, power):
        monkeypatch.setattr(module, "ProcessPoolExecutor", lambda **options: ThreadPoolExecutor(1))
    # `accelerate launch` starts the script as a child and waits for it.
    launcher = "import subprocess, sys\nsys.exit(subprocess.run([sys.executable, *sys.argv[2:]]).returncode)\n"
    (tmp_path / "launch.py").write_text(launcher)
    (tmp_path / "run_classification.py").write_text(STAND_IN)
    write_study(tmp_path)
    return tmp_path


def write_study(folder, **changes):
    (folder / "study.yaml").write_text(yaml.safe_dump({**STUDY, **changes}))


def write_stages(folder, *steps):
    (folder / "stages.yaml").write_text(yaml.safe_dump({"stages": [{"max_steps": count} for count in steps]}))


def runs_done(project):
    return (project / "ran.txt").read_text().split() if (project / "ran.txt").exists() else []


def test_every_cell_is_run_once_and_then_left_alone(project, capsys):
    assert study.main(["study.yaml"]) == 0
    # Seeds outermost.
    names = ["ast/clean/seed-1", "ast/noisy/seed-1", "ast/clean/seed-2", "ast/noisy/seed-2"]
    assert runs_done(project) == [f"runs/s/{name}" for name in names]
    out = capsys.readouterr().out
    assert "4 finished" in out
    own = [line for line in out.splitlines() if "[4/4] ast/noisy/seed-2" in line]
    assert len(own) == 2 and "0:00:0" in own[1]
    assert study.main(["study.yaml"]) == 0
    assert len(runs_done(project)) == 4
    log = (project / "runs/s/ast/noisy/seed-2/log.txt").read_text()
    assert "$ accelerate launch run_classification.py" in log and "step 2" in log


def test_a_cell_is_a_command_that_can_be_typed(project, capsys):
    assert study.main(["study.yaml", "--print_commands"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == (
        "accelerate launch run_classification.py --max_steps 5 --model_name_or_path tiny --train_datasets real "
        "data/noisy --seed 1 --run_name ast/noisy --output_dir runs/s/ast/noisy/seed-1 --resume_from_checkpoint auto "
        "--overwrite true"
    )
    assert [shlex.split(line) for line in lines] == [cell.command for cell in make_cells(read_study("study.yaml"))]
    assert runs_done(project) == []


def test_files_stand_before_flags_and_the_closest_option_wins(project):
    write_study(
        project,
        models={"ast": {"configs": ["a.yaml", "b.yaml"], "options": {"max_steps": 6, "learning_rate": 0.1}}},
        arms={"noisy": {"configs": "c.yaml", "options": {"learning_rate": 0.2, "use_cpu": True}}},
        seeds=[3],
        folds=[0, 1],
        launch=["--num_processes", 2],
    )
    cells = make_cells(read_study("study.yaml"))
    assert [cell.folder.name for cell in cells] == ["seed-3-fold-0", "seed-3-fold-1"]
    assert " ".join(cells[1].command).startswith(
        "accelerate launch --num_processes 2 run_classification.py a.yaml b.yaml c.yaml --max_steps 6 "
        "--learning_rate 0.2 --use_cpu true --seed 3 --fold 1 "
    )


def test_one_seed_may_be_evaluated_on_more(project):
    write_study(project, options={"corruptions": "short.yaml"}, seed_options={1: {"corruptions": "all.yaml"}})
    files = [
        cell.arguments[cell.arguments.index("--corruptions") + 1] for cell in make_cells(read_study("study.yaml"))
    ]
    assert files == ["all.yaml", "all.yaml", "short.yaml", "short.yaml"]


def test_a_failed_cell_stops_nothing_and_is_told_at_the_end(project, capsys):
    write_study(project, arms={"bad": None, "clean": None})
    assert study.main(["study.yaml"]) == 1
    out = capsys.readouterr().out
    assert "2 failed, 2 finished" in out and "runs/s/ast/bad/seed-1" in out.splitlines()[-3]
    assert "code 1" in out and "no such dataset" in out
    (project / "mended").touch()
    assert study.main(["study.yaml"]) == 0
    assert len(runs_done(project)) == 6


def test_a_run_of_another_configuration_is_not_touched(project, capsys):
    assert study.main(["study.yaml"]) == 0
    results = project / "runs/s/ast/clean/seed-1/results.json"
    before = results.read_bytes()
    write_study(project, options={"max_steps": 6, "save_total_limit": 1})
    assert study.main(["study.yaml"]) == 1
    assert "max_steps: 5 -> 6" in capsys.readouterr().out
    assert results.read_bytes() == before and len(runs_done(project)) == 4
    # What does not decide the result may change; so may the set of known options.
    saved = json.loads(before)
    saved["config"].pop("head")
    results.write_text(json.dumps(saved))
    write_study(project, options={"max_steps": 5, "save_total_limit": 1})
    assert study.main(["study.yaml"]) == 0
    assert len(runs_done(project)) == 4


def test_an_unfinished_cell_of_another_configuration_is_not_continued(project, capsys):
    (project / "mended").touch()
    assert study.main(["study.yaml"]) == 0
    (project / "runs/s/ast/clean/seed-1/results.json").unlink()
    assert study.main(["study.yaml", "--dry_run"]) == 0
    assert "ast/clean/seed-1: begun" in capsys.readouterr().out
    write_study(project, options={"max_steps": 7})
    assert study.main(["study.yaml"]) == 1
    assert len(runs_done(project)) == 4


def test_dry_run_shows_states_commands_and_only_known_costs(project, capsys):
    assert study.main(["study.yaml", "--dry_run"]) == 0
    out = capsys.readouterr().out
    assert out.count(": missing\n    accelerate launch run_classification.py") == 4
    [costs] = [line for line in out.splitlines() if line.startswith("ast: 4 to do")]
    assert "known once" in costs
    assert not (project / "runs").exists() and runs_done(project) == []
    write_study(project, seeds=[1])
    assert study.main(["study.yaml"]) == 0
    write_study(project)
    assert study.main(["study.yaml", "--dry_run"]) == 0
    # Two runs at half an hour each, as the finished ones took.
    [costs] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("ast: 2 to do")]
    assert "1.0 h" in costs


def test_what_the_study_can_find_is_told_before_it_is_run(project, capsys):
    assert study.main(["study.yaml", "--dry_run"]) == 0
    assert "Power (2 seeds, comparisons with clean: 1): known once" in capsys.readouterr().out
    for track in range(30):
        write_tone(project / "music" / ("jazz", "rock")[track % 2] / f"{track}.wav", 400, 0.6, seed=track)
    write_study(project, options={"max_steps": 5, "dataset_name": "music"})
    for command in (["study.yaml", "--dry_run"], ["study.yaml"]):
        assert study.main(command) == 0
        lines = capsys.readouterr().out.splitlines()
        [line] = [
            line for line in lines if line.startswith("Power (4 test tracks, 2 seeds, comparisons with clean: 1")
        ]
        points = plan_detectable(4, 2, 0.15, num_arms=2, num_tests=1)
        assert f"{100 * points:.1f} points if two runs disagree on 15%" in line
    # Once a run is finished, its results tell.
    path = project / "runs/s/ast/clean/seed-1/results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"evaluations": {"test": {"num_tracks": 290}}}))
    assert study.main(["study.yaml", "--dry_run"]) == 0
    assert "Power (290 test tracks" in capsys.readouterr().out


def test_data_is_prepared_once_and_a_failure_is_told(project, capsys):
    make = "from pathlib import Path; Path('data/noisy').mkdir(parents=True)"
    command = shlex.join(["python", "-c", make])
    write_study(project, prepare=[{"folder": "data/noisy", "command": command}])
    assert study.main(["study.yaml", "--dry_run"]) == 0
    out = capsys.readouterr().out
    assert f"data/noisy: missing\n    {command}" in out and out.count("data/noisy\n") == 1
    assert study.main(["study.yaml"]) == 0
    assert study.main(["study.yaml"]) == 0  # a second `mkdir` would fail
    # The card of a finished dataset does not say that this command made it: only the command knows.
    (project / "data/noisy/README.md").touch()
    for other in ("open('again', 'w')", "exit('begun with another configuration')"):
        write_study(project, prepare=[{"folder": "data/noisy", "command": shlex.join(["python", "-c", other])}])
        capsys.readouterr()
        assert study.main(["study.yaml"]) == ("exit" in other)
    assert (project / "again").exists() and "begun with another configuration" in capsys.readouterr().out
    write_study(project, prepare=[{"folder": "data/other", "command": "python -c 1"}])
    assert study.main(["study.yaml"]) == 1
    assert "no data/other" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 3}, "study.yaml: seed .*seeds"),
        ({"seeds": []}, "study.yaml: .*seeds"),
        ({"seeds": [1, 1]}, "study.yaml: seeds .*twice"),
        ({"arms": {"../x": None}}, "study.yaml: arms: .*/x"),
        ({"models": ["a.yaml"]}, "study.yaml: models .*a.yaml"),
        ({"models": {"a": {"config": "a.yaml"}}}, "study.yaml: models: a .*config.*configs"),
        ({"options": {"seed": 1}}, "study.yaml: options .*seed"),
        ({"options": {"genres": None}}, "study.yaml: options: genres .*None"),
        ({"prepare": [{"folder": "x"}]}, "study.yaml: prepare .*command"),
        ({"seed_options": {3: {"corruptions": "c.yaml"}}}, "study.yaml: seed_options .*seeds of .1, 2"),
        ({"seed_options": {1: {"max_steps": 6}}}, "study.yaml: seed_options has max_steps.*averaged"),
        ({"options": {"max_steps": 5, "learning_rat": 1}}, "learning_rat.*learning_rate"),
        ({"options": {}}, "ast: .*clean: epochs, noisy: epochs.*max_steps"),
        ({"arms": {"a": None, "b": {"options": {"max_steps": 9}}}}, "ast: .*a: 5, b: 9.*max_steps"),
        ({"options": {"max_steps": 5, "early_stopping_patience": 3}}, "ast: early_stopping_patience"),
        ({"arms": {"clean": None, "staged": {"configs": "stages.yaml"}}}, "ast: .*clean: 5, staged: 7"),
    ],
)
def test_mistakes_are_named_before_anything_runs(project, capsys, changes, message):
    write_stages(project, 3, 4)
    write_study(project, **changes)
    assert study.main(["study.yaml"]) == 2
    assert re.search(message, capsys.readouterr().err, re.S)
    assert runs_done(project) == []


def test_the_steps_of_all_stages_count(project):
    write_stages(project, 2, 3)
    write_study(project, arms={"clean": None, "staged": {"configs": "stages.yaml"}})
    assert study.main(["study.yaml"]) == 0
    assert len(runs_done(project)) == 4


def test_it_must_start_in_the_projects_folder(project, capsys):
    (project / "run_classification.py").unlink()
    assert study.main(["study.yaml"]) == 2
    assert "run_classification.py" in capsys.readouterr().err


def start_study(project):
    """Start the study in a process of its own, and return when its first run is under way."""
    (project / "slow").touch()

    def run():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        sys.exit(study.main(["study.yaml"]))

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    wait_until((project / "waiting").exists)
    return process


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_after_kill_9_the_run_that_lives_on_is_not_doubled(project, capsys):
    first = start_study(project)
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    # Its run is alive, so the cell is taken.
    assert study.main(["study.yaml", "--dry_run"]) == 0
    assert "ast/clean/seed-1: running" in capsys.readouterr().out
    second = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(study.main(["study.yaml"])))
    second.start()
    wait_until(lambda: len(runs_done(project)) == 2)  # it goes on with another cell
    (project / "slow").unlink()
    second.join()
    assert second.exitcode == 0
    assert sorted(runs_done(project)) == sorted(
        f"runs/s/ast/{arm}/seed-{s}" for arm in ("clean", "noisy") for s in (1, 2)
    )


def test_two_studies_share_the_work(project):
    first = start_study(project)
    second = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(study.main(["study.yaml"])))
    second.start()
    wait_until(lambda: len(runs_done(project)) == 2)
    (project / "slow").unlink()
    first.join()
    second.join()
    assert (first.exitcode, second.exitcode) == (0, 0)
    assert len(runs_done(project)) == len(set(runs_done(project))) == 4


def test_an_interrupted_study_ends_its_run_and_continues(project):
    process = start_study(project)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    assert not study.find_state(project / "runs/s/ast/clean/seed-1", {}, {})[0] == "running"
    (project / "slow").unlink()
    assert study.main(["study.yaml"]) == 0
    assert len(runs_done(project)) == 5


def test_progress_bars_count_as_their_last_state(tmp_path):
    (tmp_path / "log.txt").write_bytes(b"epoch 1\n 10%|#\r 50%|##\r100%|###\nsaved\n\n")
    assert study_runs.last_line(tmp_path) == "saved"
    assert study_runs.failure_lines(tmp_path) == "epoch 1\n100%|###\nsaved"


def test_our_own_message_is_found_above_the_launchers_traceback(tmp_path):
    trace = "\n".join(f"  File {index}" for index in range(20))
    (tmp_path / "log.txt").write_text(f"reading\nerror: no such dataset\n  at all\nTraceback (most\n{trace}\n")
    assert study_runs.failure_lines(tmp_path) == "error: no such dataset\n  at all"


@pytest.mark.parametrize("file", sorted((ROOT / "configs" / "study").glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_studies_ask_for_valid_runs_of_equal_length(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    for module in (study_cells, power):
        monkeypatch.setattr(module, "ProcessPoolExecutor", lambda **options: ThreadPoolExecutor(1))
    cells = make_cells(read_study(file))
    configs, _ = study_cells.read_configs(cells)
    assert len({cell.folder for cell in cells}) == len(cells)
    assert {config["split_protocol"] for config in configs} != {"auto"}


def test_the_command_line_works_and_its_listing_may_be_cut_short(tmp_path):
    write_study(tmp_path, output_dir=str(tmp_path / "runs"), seeds=list(range(200)))
    command = shlex.join([sys.executable, "-m", "hf_utils.study", str(tmp_path / "study.yaml"), "--print_commands"])
    done = subprocess.run(f"{command} | head -1", shell=True, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("accelerate launch") and done.stderr == ""


def test_a_broken_study_file_is_named(tmp_path):
    (tmp_path / "s.yaml").write_text("output_dir: [")
    with pytest.raises(UserError, match=r"s\.yaml"):
        read_study(tmp_path / "s.yaml")
