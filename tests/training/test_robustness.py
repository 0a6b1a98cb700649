"""Robustness: scores under corruptions against hand arithmetic, the same noise for all, and the script end to end."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny_models
import yaml
from tones import write_tone

import augment_dataset
import run_classification
from benchmarks import corruption_baseline
from hf_utils import audio
from hf_utils.augmentation.corruptions import read_corruptions
from hf_utils.data import track_files, waveforms
from hf_utils.data.clips import load_clips
from hf_utils.data.waveforms import decode_clips, read_samples
from hf_utils.errors import UserError
from hf_utils.report.report_files import write_report
from hf_utils.report.run_folders import make_tables, read_runs
from hf_utils.report.sweeps import make_sweeps
from hf_utils.results.display import OVERALL
from hf_utils.results.metrics import GenreMetrics
from hf_utils.results.run_results import EvaluatedSet
from hf_utils.training.robustness import CorruptedSet, RobustnessReport, try_corruptions

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--window_seconds", "0.5", "--dataloader_num_workers", "0", "--num_proc", "1", "--use_cpu"]
KINDS = {
    "white_noise": {
        f"{snr}_db": [{"AddGaussianSNR": {"min_snr_db": snr, "max_snr_db": snr, "p": 1.0}}] for snr in (20.0, -30.0)
    },
    "polarity": {"turned": [{"PolarityInversion": {"p": 1.0}}]},
}
KINDS["white_noise"] = {name.replace("-", "minus_"): spec for name, spec in KINDS["white_noise"].items()}
GENRES = ["blues", "rock"]


@pytest.fixture(scope="module")
def music(tmp_path_factory) -> Path:
    """Three genres of ten tones each, enough for a stratified split."""
    from tones import GENRE_TONES_HZ

    folder = tmp_path_factory.mktemp("music") / "genres"
    for index, (genre, hz) in enumerate(GENRE_TONES_HZ.items()):
        for track in range(10):
            write_tone(folder / genre / f"{genre}-{track}.wav", hz * (1 + 0.01 * track), 0.7, seed=100 * index + track)
    return folder


@pytest.fixture(scope="module")
def corruptions_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("corruptions") / "corruptions.yaml"
    path.write_text(yaml.safe_dump({"kinds": KINDS}, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def run(music, corruptions_file, tmp_path_factory) -> Path:
    """A run of the spectrogram CNN that measures its robustness after training."""
    folder = tmp_path_factory.mktemp("run")
    model = tiny_models.save_convnext(folder / "model")
    arguments = ["--model_name_or_path", model, "--dataset_name", music, "--output_dir", folder / "run"]
    arguments += ["--corruptions", corruptions_file, "--max_steps", 30, "--learning_rate", 1e-2, *TINY]
    arguments += ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
    arguments += ["--num_mel_bins", 32, "--n_fft", 512, "--hop_length", 256, "--waveform_cache_dir", folder / "cache"]
    assert run_classification.main(list(map(str, arguments))) == 0
    return folder / "run"


def read_results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def read_rows(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def evaluated(name: str, chosen: list[int]) -> EvaluatedSet:
    labels, probabilities = np.array([0, 0, 1, 1]), np.eye(2)[chosen] * 0.8 + 0.1
    scores = {"track": GenreMetrics(GENRES).compute(predictions=probabilities, references=labels)}
    return EvaluatedSet(name, list("abcd"), labels, probabilities, scores, 4)


def test_changes_and_means_by_hand(corruptions_file, tmp_path):
    corruptions = read_corruptions(corruptions_file)
    chosen = [[0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 1, 1]]  # accuracy 0.75, 0.5, 1
    corrupted = [CorruptedSet(c, evaluated(c.name, choice)) for c, choice in zip(corruptions, chosen, strict=True)]
    clean = evaluated("test", [0, 0, 1, 1])
    report = RobustnessReport([evaluated("validation", [1, 1, 1, 1]), clean], corrupted, GENRES)
    assert [(row["kind"], row["severity"], row["snr_db"]) for row in report.rows] == [
        ("white_noise", "20.0_db", 20.0),
        ("white_noise", "minus_30.0_db", -30.0),
        ("polarity", "turned", None),
    ]
    assert [row["accuracy"] for row in report.rows] == [0.75, 0.5, 1.0]
    assert [row["accuracy_change"] for row in report.rows] == [-0.25, -0.5, 0.0]
    # Predictions with one confidence: the AUC of blues is right pairs plus half of the ties, 3/4 of the first row.
    assert [row["roc_auc"] for row in report.rows] == pytest.approx([0.75, 0.5, 1.0])
    assert report.means["white_noise"]["accuracy"] == 0.625
    assert report.means[OVERALL]["accuracy"] == (0.625 + 1) / 2  # of kinds, not of the three severities
    assert report.means[OVERALL]["accuracy_change"] == pytest.approx(-0.1875)
    # Every track is chosen with 0.9: the calibration error is the distance of that from the accuracy.
    assert [row["ece"] for row in report.rows] == pytest.approx([0.15, 0.4, 0.1])
    assert report.means[OVERALL]["ece_change"] == pytest.approx((0.275 + 0.1) / 2 - 0.1)
    assert {kind: len(sets) for kind, sets in report.sets.items()} == {"white_noise": 2, "polarity": 1}
    assert len({row["digest"] for row in report.rows}) == 3 and report.clean["digest"] is None
    # Of 4 tracks with one wrong, 2.5 % of resamples have 3 or 4 times the wrong one, and a third never.
    low, high = report.rows[0]["accuracy_low"], report.rows[0]["accuracy_high"]
    assert low in (0.25, 0.5) and high == 1 and report.rows[2]["accuracy_low"] == report.rows[2]["accuracy_high"] == 1
    lines = report.format_table().splitlines()
    assert len(lines) == 2 + 1 + 3 + 1 + 1  # header, clean, severities, mean of the kind that has two, mean of all
    assert lines[-1].split()[:5] == ["mean", "over", "kinds", "0.812", "-0.188"]


def test_corrupted_audio_is_that_of_the_dataset_script(music, corruptions_file, tmp_path):
    """Both at the files' own rate, byte for byte, and at another one."""
    folder = tmp_path / "dataset"
    arguments = [corruptions_file, "--dataset_name", music, "--splits", "test", "--output_dir", folder]
    assert augment_dataset.main(list(map(str, [*arguments, "--num_proc", 1]))) == 0
    written = load_clips(str(folder))
    clips = load_clips(str(music))
    for corruption in read_corruptions(corruptions_file):
        copies = written.select([i for i, name in enumerate(written["augmentation"]) if name == corruption.name])
        assert len(copies) == 3
        tracks = clips.select([clips["track_id"][:].index(parent) for parent in copies["parent_id"]])
        for rate, num_proc in ((16000, 1), (11025, 2)):
            ours = decode_clips(tracks, rate, cache_dir=tmp_path, num_proc=num_proc, corruption=corruption)
            theirs = decode_clips(copies, rate, cache_dir=tmp_path)
            plain = decode_clips(tracks, rate, cache_dir=tmp_path)
            for our, their, clean in zip(ours, theirs, plain, strict=True):
                assert np.array_equal(read_samples(our), read_samples(their)), (corruption.name, rate)
                assert our["sha256"] == their["sha256"] != clean["sha256"]


def test_noise_is_keyed_by_what_it_is_and_what_it_falls_on(music, corruptions_file, tmp_path):
    clips = load_clips(str(music)).select(range(2))
    noise, louder, _ = read_corruptions(corruptions_file)
    renamed = clips.map(lambda clip: {"track_id": f"{clip['track_id']}x"})
    files = {
        decode_clips(table, 16000, cache_dir=tmp_path, corruption=corruption)["pcm_path"][0]
        for table in (clips, renamed)
        for corruption in (None, noise, louder)
    }
    # The names of the tracks are the seeds of the noise, and nothing to clean audio.
    assert len(files) == 5


def test_a_run_says_how_robust_its_model_is(run):
    results, rows = read_results(run), read_rows(run / "robustness.csv")
    assert [row["kind"] for row in rows] == ["clean", "white_noise", "white_noise", "polarity"]
    clean = results["evaluations"]["test"]["track"]
    noise, loud_noise, turned = results["robustness"]
    assert float(rows[0]["accuracy"]) == clean["accuracy"] > 0.9  # tones: so that there is something to lose
    # Magnitudes of a spectrogram do not know the sign; noise of thirty times the music's level leaves nothing.
    assert turned["accuracy"] == clean["accuracy"] and turned["roc_auc"] == clean["roc_auc"]
    assert loud_noise["accuracy"] < 0.7 and loud_noise["accuracy_change"] == loud_noise["accuracy"] - clean["accuracy"]
    predictions = read_rows(run / "robustness_predictions.csv")
    for row, name in ((noise, "white_noise_20.0_db"), (loud_noise, "white_noise_minus_30.0_db")):
        right = [p["label"] == p["prediction"] for p in predictions if p["corruption"] == name]
        assert len(right) == 3 and row["accuracy"] == pytest.approx(np.mean(right))
        chosen = np.array([float(p["probability"]) for p in predictions if p["corruption"] == name])
        bins = np.ceil(chosen * 15)
        gaps = [abs(np.sum((chosen - right)[bins == number])) for number in range(1, 16)]
        assert row["ece"] == pytest.approx(sum(gaps) / 3)
    assert results["robustness_means"][OVERALL]["accuracy"] == pytest.approx(
        ((noise["accuracy"] + loud_noise["accuracy"]) / 2 + turned["accuracy"]) / 2
    )
    assert (run / "robustness.png").stat().st_size > 5000
    card = (run / "README.md").read_text()
    assert "## Robustness" in card and "(robustness.png)" in card and "| polarity turned | 1.000 |" in card
    assert "| test, white noise | 6 |" in card  # three tracks under two severities
    assert results["confidence"]["corruptions"].keys() == {"white_noise", "polarity"}
    assert "| white noise 20.0 dB |" in card and "| white noise -30.0 dB |" in card


def test_the_report_shows_it(run, tmp_path):
    (read,), left_out = read_runs([run])
    assert not left_out
    [table], _ = make_tables([read])
    [sweep] = make_sweeps(table, "clean", num_resamples=50)
    means = read_results(run)["robustness_means"][OVERALL]
    [cell] = table.cells
    assert sweep.accuracy[(*cell, sweep.overall)].mean == pytest.approx(means["accuracy"])
    assert sweep.ece[(*cell, sweep.overall)] == pytest.approx([means["ece"]])
    assert [row["digest"] for row in read_results(run)["robustness"]] == [key.digest for key in read.corrupted]
    write_report([run], tmp_path / "report", num_resamples=50)
    assert "mean over 2 kinds" in (tmp_path / "report" / "report.html").read_text()
    write_report([tmp_path / "report" / "results.csv"], tmp_path / "again", num_resamples=50)
    for path in (tmp_path / "report").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def evaluate(run: Path, output_dir: Path, corruptions_file: Path, cache: Path, *more) -> list[dict]:
    arguments = ["--model_name_or_path", run, "--do_eval", "--corruptions", corruptions_file, *TINY, *more]
    arguments += ["--output_dir", output_dir, "--waveform_cache_dir", cache]
    assert run_classification.main(list(map(str, arguments))) == 0
    return read_results(output_dir)["robustness"]


def test_the_next_checkpoint_finds_the_corrupted_audio(run, corruptions_file, tmp_path, monkeypatch):
    build = waveforms.build_index

    def build_clean(*args):
        assert args[-1] is None, "corrupted again"
        return build(*args)

    monkeypatch.setattr(waveforms, "build_index", build_clean)
    rows = evaluate(run, tmp_path / "again", corruptions_file, run.parent / "cache")
    assert rows == read_results(run)["robustness"]
    page = (tmp_path / "again" / "README.md").read_text()
    assert "Robustness of" in page and "(robustness.png)" in page and "stratified" in page


def test_errors_are_relative_to_a_baseline_of_the_same_tracks(run, music, tmp_path):
    """The baseline's table is made by the benchmark's own script; the next evaluation finds it."""
    file = tmp_path / "noise.yaml"
    content = {"name": "tiny", "version": 1, "kinds": {"white_noise": KINDS["white_noise"]}}
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    arguments = ["--dataset_name", music, "--corruptions", file, "--data", "Tones", "--num_proc", 1]
    cache = run.parent / "cache"
    assert corruption_baseline.main(list(map(str, [*arguments, "--waveform_cache_dir", cache]))) == 0
    table = json.loads((tmp_path / "corruption_baselines" / "genres.json").read_text())["errors"]["white_noise"]
    rows = evaluate(run, tmp_path / "eval", file, cache)
    expected = sum(1 - row["accuracy"] for row in rows) / sum(row["error"] for row in table.values())
    results = read_results(tmp_path / "eval")
    assert results["robustness_benchmark"] == "tiny 1"
    assert results["corruption_error"]["mce"] == pytest.approx(expected)
    page = (tmp_path / "eval" / "README.md").read_text()
    assert f"mCE {100 * expected:.1f} %" in page and "(Tones)" in page and "(tiny 1)" in page
    assert read_results(run)["corruption_error"] is read_results(run)["robustness_benchmark"] is None


def test_test_files_are_hashed_and_decoded_once_for_all_corruptions(run, corruptions_file, tmp_path, monkeypatch):
    seen = {"hash": [], "decode": []}

    def watch(kind, function):
        return lambda source: seen[kind].append(Path(source).name) or function(source)

    monkeypatch.setattr(track_files, "hash_content", watch("hash", track_files.hash_content))
    monkeypatch.setattr(audio, "decode_with_remarks", watch("decode", audio.decode_with_remarks))
    rows = evaluate(run, tmp_path / "again", corruptions_file, tmp_path / "cache")
    assert rows == read_results(run)["robustness"]
    tested = {Path(row["track_id"]).name for row in read_rows(run / "robustness_predictions.csv")}
    assert len(tested) == 3
    for kind, names in seen.items():  # for the clean tracks, and for all corruptions
        assert {names.count(f"{name}.wav") for name in tested} == {2}, kind
    assert not list((tmp_path / "cache").glob(".*"))


def test_nothing_is_kept_that_shall_not_be_or_has_no_room(run, corruptions_file, tmp_path, monkeypatch, caplog):
    expected = read_results(run)["robustness"]
    cache = tmp_path / "cache"
    assert evaluate(run, tmp_path / "a", corruptions_file, cache, "--cache_corruptions", "false") == expected
    clean = sorted(path.name for path in cache.iterdir())
    assert len(clean) == 1 and not clean[0].startswith(".")
    monkeypatch.setattr("hf_utils.training.robustness._DISK_SHARE", 1e-12)
    assert evaluate(run, tmp_path / "b", corruptions_file, cache) == expected
    assert sorted(path.name for path in cache.iterdir()) == clean
    assert "are not kept" in caplog.text
    lines = [message for message in caplog.messages if message.startswith("Corruption ")]
    assert len(lines) == 2 * len(expected)  # what a log file shows meanwhile
    for line, row in zip(lines, expected + expected, strict=True):
        assert f"{row['kind']}_{row['severity']}" in line and f"{row['accuracy']:.3f}" in line


def with_splits(clips, splits):
    return clips.remove_columns("split").add_column("split", splits)


def test_corruptions_are_tried_at_the_rates_of_the_test_tracks_first(tmp_path):
    hz, width = "min_center_freq: 7000, max_center_freq: 7000", "max_bandwidth_fraction: 0.5"
    transform = f"BandPassFilter: {{{hz}, {width}, p: 1.0}}"
    (tmp_path / "c.yaml").write_text(f"kinds: {{band: {{high: [{transform}]}}}}")
    for number in range(4):
        write_tone(tmp_path / "genres" / "rock" / f"{number}.wav", 440, 1, seed=number)
    path = tmp_path / "genres" / "rock" / "3.wav"
    soundfile.write(path, soundfile.read(path)[0], 8000)
    clips = load_clips(str(tmp_path / "genres"))
    corruptions = read_corruptions(tmp_path / "c.yaml")
    try_corruptions(corruptions, with_splits(clips, ["test", "test", "test", "train"]))
    with pytest.raises(UserError, match="BandPassFilter cannot work at 8000 Hz"):
        try_corruptions(corruptions, with_splits(clips, ["train", "train", "train", "test"]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--corruptions", "missing.yaml"], "missing.yaml"),
        (["--corruptions", "configs/corruptions.yaml", "--do_train"], "not do_eval"),
        (["--noise_folder", "."], "neither augmentation nor corruptions"),
        (["--cache_corruptions", "false"], "no corruptions"),
    ],
)
def test_mistake_is_found_before_any_work(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=message):
        run_classification.main(
            ["--model_name_or_path", "nowhere/model", "--output_dir", str(tmp_path), "--use_cpu", *arguments]
        )
