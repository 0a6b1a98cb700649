"""Kill the scripts at random moments, run the same command again, and compare with a run that nobody killed.

    python benchmarks/kills.py                              # 30 kills: 10 of tagging, 5 of each of the other jobs
    python benchmarks/kills.py --jobs tag --kills 3         # a few of one job

| job      | command                                            | what must be equal                                  |
|----------|----------------------------------------------------|-----------------------------------------------------|
| tag      | --do_predict of 60 files, with --per_window        | every file, byte for byte                           |
| augment  | augment_dataset.py                                 | every Parquet file, byte for byte                   |
| generate | generate_music.py with a tiny MusicGen             | every Parquet file, byte for byte                   |
| train    | run_classification.py, continued by `auto`         | weights, results.json without times, predictions    |
| study    | two runs of a study                                | the same of every run                               |

Models are tiny and music is synthesised (`hf_utils.data.demo_data`), all in a temporary folder. A command runs in a
new process group, which gets SIGKILL at a moment drawn between its start and the time that the whole run took.
The moments are a function of --seed and of that time, so another machine kills at other places.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]

CNN = ["--num_mel_bins", "32", "--n_fft", "512", "--hop_length", "256", "--window_seconds", "1"]
TRAINING = [
    *CNN,
    *"--split_protocol stratified --use_cpu --precision fp32 --num_proc 1 --num_train_epochs 4".split(),
    *"--report_to none --resume_from_checkpoint auto".split(),
]
TIMES = {"seconds", "versions"}


class Job:
    """A command that is killed, and what its output folder must hold afterwards."""

    def __init__(self, cwd: Path, script: list[str], kept: str, exact: bool):
        self._cwd, self._script, self._kept, self._exact = cwd, script, kept, exact

    def start(self, folder: Path, log: Path) -> subprocess.Popen:
        command = [sys.executable, *(word.replace("FOLDER", str(folder)) for word in self._script)]
        with open(log, "ab") as output:
            return subprocess.Popen(
                command, cwd=self._cwd, stdout=output, stderr=output, start_new_session=True, env=self._environment()
            )

    def _environment(self) -> dict[str, str]:
        paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}

    def finish(self, folder: Path, log: Path) -> float:
        """Run the command to its end; return the seconds that it took."""
        started, process = time.time(), self.start(folder, log)
        if process.wait():
            raise SystemExit(f"{' '.join(self._script)} ended with {process.returncode}:\n{log.read_text()[-3000:]}")
        return time.time() - started

    def contents(self, folder: Path) -> dict[str, bytes | dict]:
        """Return what must be equal, by path."""
        paths = sorted(path for path in folder.rglob(self._kept) if path.is_file())
        return {str(path.relative_to(folder)): self._read(path, folder) for path in paths if self._counts(path)}

    def _counts(self, path: Path) -> bool:
        inside_checkpoint = any(part.startswith("checkpoint-") for part in path.parts)
        return self._exact or (
            not inside_checkpoint and (path.name in ("results.json", "model.safetensors") or path.suffix == ".csv")
        )

    def _read(self, path: Path, folder: Path) -> bytes | dict:
        if path.name != "results.json":
            return path.read_bytes()
        text = path.read_text(encoding="utf-8").replace(str(folder), "FOLDER")
        return {name: value for name, value in json.loads(text).items() if name not in TIMES}


def make_jobs(place: Path) -> dict[str, Job]:
    """Write models and music into `place`, and return the jobs on them."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    demo = [sys.executable, "-m", "hf_utils.data.demo_data", "--output_dir", "music"]
    subprocess.run(demo, cwd=place, env=environment, check=True, stdout=subprocess.DEVNULL)
    # Here, because these lie with the tests, which are no package.
    sys.path.insert(0, str(ROOT / "tests"))
    from tiny_models import save_convnext
    from tiny_musicgen import save_tiny_musicgen

    cnn, musicgen = save_convnext(place / "cnn"), save_tiny_musicgen(place / "musicgen")
    tracks = sorted((place / "music").rglob("*.flac"))[::2][:60]
    (place / "songs").mkdir()
    for track in tracks:
        os.link(track, place / "songs" / track.name)
    train = [str(ROOT / "run_classification.py"), "--model_name_or_path", str(cnn), "--dataset_name", "music"]
    (place / "study.yaml").write_text(yaml.safe_dump(make_study(cnn, place / "music")))
    return {
        "tag": Job(place, [*tagger(place, train), "--output_dir", "FOLDER"], "*", exact=True),
        "augment": Job(
            place,
            [
                *(str(ROOT / "augment_dataset.py"), str(ROOT / "configs/augment/awgn_10db.yaml")),
                *"--dataset_name music --split_protocol stratified --shard_size 5 --output_dir FOLDER".split(),
            ],
            "*.parquet",
            exact=True,
        ),
        "generate": Job(
            place,
            [
                *(str(ROOT / "generate_music.py"), "--model_name_or_path", str(musicgen), "--output_dir", "FOLDER"),
                *"--genres blues jazz --clips_per_genre 12 --clip_seconds 1 --batch_size 2 --dtype fp32".split(),
            ],
            "*.parquet",
            exact=True,
        ),
        "train": Job(place, [*train, *TRAINING, "--output_dir", "FOLDER"], "*", exact=False),
        "study": Job(ROOT, ["-m", "hf_utils.study", "FOLDER/study.yaml"], "*", exact=False),
    }


def tagger(place: Path, train: list[str]) -> list[str]:
    """Train the model that tags; return the command that tags 60 songs with it."""
    options = [option for option in TRAINING if option != "4"]
    options.insert(options.index("--num_train_epochs") + 1, "1")
    with open(place / "tagger.log", "wb") as log:
        subprocess.run(
            [sys.executable, *train, *options, "--output_dir", "tagger"],
            cwd=place, env={**os.environ, "HF_HUB_OFFLINE": "1"}, check=True, stdout=log, stderr=log,
        )  # fmt: skip
    predict = "--model_name_or_path tagger --do_predict --predict_path songs --per_window --use_cpu".split()
    return [str(ROOT / "run_classification.py"), *predict]


def make_study(cnn: Path, music: Path) -> dict:
    """Return a study of two runs; FOLDER is where it writes. A study starts in the project's folder."""
    words = TRAINING[: TRAINING.index("--resume_from_checkpoint")]
    options, name = {}, None
    for word in words:
        if word.startswith("--"):
            name = word[2:]
            options[name] = True
        else:
            options[name] = yaml.safe_load(word)
    del options["num_train_epochs"]
    steps = {"max_steps": 40, "eval_strategy": "steps", "eval_steps": 10, "save_strategy": "steps", "save_steps": 10}
    return {
        "output_dir": "FOLDER/runs",
        "models": {"cnn": {"options": {"model_name_or_path": str(cnn)}}},
        "arms": {"clean": None, "half": {"options": {"train_datasets": ["real:0.5"]}}},
        "seeds": [1],
        "options": {**options, **steps, "dataset_name": str(music)},
        "launch": "--num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no --cpu".split(),
    }


def prepare(name: str, place: Path, folder: Path) -> None:
    """Make an empty output folder; a study needs its file in it."""
    shutil.rmtree(folder, ignore_errors=True)
    if name == "study":
        folder.mkdir()
        study = (place / "study.yaml").read_text().replace("FOLDER", str(folder))
        (folder / "study.yaml").write_text(study)


def kill(process: subprocess.Popen) -> None:
    """Kill the process and all that it has started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def try_job(name: str, job: Job, place: Path, kills: int, seed: int) -> list[str]:
    """Return what differed; print a line for every kill."""
    whole, folder, failures = place / f"{name}-whole", place / f"{name}-killed", []
    prepare(name, place, whole)
    seconds = job.finish(whole, place / f"{name}.log")
    expected = job.contents(whole)
    if not expected:
        raise SystemExit(f"{name} wrote nothing to compare into {whole}")
    draw, number = random.Random(f"{seed} {name}"), 0
    while number < kills:
        prepare(name, place, folder)
        moment = draw.uniform(0.1, seconds)
        process = job.start(folder, place / f"{name}.log")
        time.sleep(moment)
        if process.poll() is not None:  # it was faster this time, so another moment is drawn
            continue
        kill(process)
        number += 1
        job.finish(folder, place / f"{name}.log")
        found = job.contents(folder)
        differing = sorted(path for path in {*expected, *found} if expected.get(path) != found.get(path))
        failures += [f"{name}, kill {number} at {moment:.1f} s: {path}" for path in differing]
        verdict = "equal" if not differing else f"{len(differing)} of {len(expected)} files differ"
        print(f"{name:8s} {number:2d}/{kills}: killed at {moment:.1f} of {seconds:.1f} s; {verdict}", flush=True)
    return failures


def main() -> int:
    """Return 1 if a killed and continued run differs from a whole one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="+", default=["tag", "augment", "generate", "train", "study"], metavar="JOB")
    parser.add_argument("--kills", type=int, help="kills of each job (default: 10 of tag, 5 of the others)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    failures = []
    with tempfile.TemporaryDirectory(prefix="kills-") as place:
        os.environ["HF_HOME"] = str(Path(place, "hf"))
        jobs = make_jobs(Path(place))
        for name in args.jobs:
            kills = args.kills or (10 if name == "tag" else 5)
            failures += try_job(name, jobs[name], Path(place), kills, args.seed)
    print("\n".join(failures) or "Every finished result equals that of a run that was not killed.")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
