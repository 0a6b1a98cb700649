"""Answers of the page, without the page: equal to --do_predict, noise at its level, refusals, and the Space."""

import csv
import sys
from pathlib import Path

import gradio
import numpy as np
import pytest
import soundfile
import yaml
from hub_server import OWNER, Repo
from media_files import LOSSY, write_media
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from tiny_models import save_ast, save_run

from hf_utils.app.answer_view import HeardSound, render_answers, show_share, show_time
from hf_utils.app.app_command import main, make_arguments
from hf_utils.app.asked_models import Answer, AskedModel, show_names
from hf_utils.app.gradio_page import OnlyFromHere
from hf_utils.app.played_sound import add_white_noise, read_mono, read_recording
from hf_utils.app.space_files import push_space
from hf_utils.app.visitors import Visitors
from hf_utils.arguments.run_arguments import RunArguments
from hf_utils.audio import AudioError, decode, hash_samples
from hf_utils.augmentation.corruptions import read_corruptions
from hf_utils.errors import UserError
from hf_utils.models.temperature import write_temperature
from hf_utils.training.prediction import run_prediction

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run with a temperature, whose windows begin 0.4 s apart."""
    folder = save_run(tmp_path_factory.mktemp("app") / "run")
    write_temperature(folder, 2.5)
    options = {"dataset_name": "music", "split_protocol": "stratified", "eval_hop_seconds": 0.4}
    (folder / "config.yaml").write_text(yaml.safe_dump(options))
    return folder


@pytest.fixture(scope="module")
def model(run) -> AskedModel:
    return AskedModel(make_arguments(str(run), 0.5))


@pytest.fixture(scope="module")
def songs(tmp_path_factory) -> Path:
    """Files of other rates, lengths, channels and formats than the model's."""
    folder, generator = tmp_path_factory.mktemp("songs"), np.random.default_rng(0)
    for seconds, rate in ((0.7, 16000), (3.3, 22050), (5.0, 44100)):
        sweep = 0.3 * np.sin(
            2 * np.pi * np.linspace(100, 2000, round(seconds * rate)) * np.arange(0, seconds, 1 / rate)
        )
        stereo = np.stack([sweep, 0.5 * sweep + 0.05 * generator.normal(size=len(sweep))], axis=1)
        soundfile.write(folder / f"{rate}.wav", stereo, rate)
    write_media(folder / "aac.m4a", stereo.astype(np.float32), rate, LOSSY["aac.m4a"])
    return folder


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("unknown_below", [None, 0.999])
def test_the_answer_is_that_of_do_predict(run, songs, tmp_path, unknown_below):
    words = ["--model_name_or_path", str(run), "--do_predict", "--predict_path", str(songs), "--per_window"]
    words += ["--output_dir", str(tmp_path / "out"), "--num_proc", "1"]
    words += [] if unknown_below is None else ["--unknown_below", str(unknown_below)]
    assert run_prediction(RunArguments.parse(words)) == 0
    model = AskedModel(make_arguments(str(run), unknown_below))
    rows = read_table(tmp_path / "out/predictions.csv")
    assert len(rows) == 4
    for row in rows:
        answer = model.ask(read_recording(songs / row["file"]))
        assert answer.prediction == row["prediction"]
        assert [f"{p:.6f}" for p in answer.probabilities] == [row[genre] for genre in model.genres]
        timeline = read_table(tmp_path / f"out/timeline/{row['file']}.csv")
        assert answer.spans == [(float(window["start_seconds"]), float(window["end_seconds"])) for window in timeline]
        for window, found in zip(timeline, answer.windows, strict=True):
            assert [f"{p:.6f}" for p in found] == [window[genre] for genre in model.genres]
    predictions = {row["prediction"] for row in rows}
    assert ("unknown" in predictions) == (unknown_below is not None)  # so that either was compared
    assert "calibrated (temperature 2.5)" in model.traits


def test_a_tagger_beside_a_classifier_answers_by_its_likeliest_labels(model, tmp_path, songs):
    models = [model, AskedModel(make_arguments(str(save_ast(tmp_path / "tagger")), None))]
    recording = read_recording(songs / "16000.wav")
    html = render_answers(HeardSound("song", "url", 0.7), models, [each.ask(recording) for each in models])
    first, second = html.split("<article>")[1:]
    assert first.count('class="genre"') == 4 and "less likely" not in first
    assert second.count('class="genre"') == 10 and "each label by itself; 517 labels less likely" in second


def test_two_models_of_one_name_are_told_apart():
    assert show_names(["/home/me/runs/ast", "me/tagger"]) == ["ast", "me/tagger"]
    assert show_names(["/home/me/clean/1/model.onnx", "/home/me/noisy/1/model.onnx"]) == [
        *("clean/1/model.onnx", "noisy/1/model.onnx")
    ]
    assert show_names(["/runs/ast", "/runs/ast/"]) == ["ast", "ast"]


def test_noise_is_that_of_the_benchmark_and_as_loud_as_asked(songs):
    samples, rate = decode(songs / "22050.wav")
    noisy = add_white_noise(samples, rate, 10)
    assert np.array_equal(noisy, add_white_noise(samples, rate, 10))
    (published,) = (c for c in read_corruptions(ROOT / "configs/corruptions.yaml") if c.name == "white_noise_10_db")
    assert np.array_equal(noisy, published(samples, rate, hash_samples(samples)).samples)
    ratio = np.square(samples).sum() / np.square(noisy - samples).sum()
    assert 10 * np.log10(ratio) == pytest.approx(10, abs=0.01)


def test_what_is_heard_with_noise_is_what_the_page_plays(model, songs, tmp_path):
    visitors = Visitors([model], tmp_path / "sounds")
    (tmp_path / "sounds").mkdir()
    upload = tmp_path / "upload.wav"
    upload.write_bytes((songs / "22050.wav").read_bytes())
    html, heard = visitors.hear(upload, "upload.wav", "me")
    assert not upload.exists() and f"gradio_api/file={heard.sound}" in html
    assert np.array_equal(*(read_mono(read_recording(source)) for source in (heard.sound, songs / "22050.wav")))
    for snr_db in (20, 0):
        html = visitors.hear_noisy(heard, snr_db, "me")
        (noisy,) = set(heard.sound.parent.iterdir()) - {heard.sound}
        assert f"gradio_api/file={noisy}" in html and f"at {snr_db} dB" in html
        answer = model.ask(read_recording(noisy))
        assert f"<strong>{answer.prediction}</strong>" in html
        clean, rate = decode(heard.sound)
        expected = add_white_noise(clean, rate, snr_db)
        assert np.abs(decode(noisy)[0] - expected).max() <= 0.5 / 32768 + 1e-7
    (other,) = visitors._folder.iterdir()
    visitors.forget("somebody else")
    assert other.exists()
    visitors.forget("me")
    assert not other.exists()


def test_a_file_that_cannot_be_used_is_one_message(model, tmp_path):
    visitors = Visitors([model], tmp_path)
    short, long = np.full(1000, 0.5), np.tile([0.5, -0.5], 4000 * 601)
    for name, content, message in (
        ("text.mp3", b"no music", "undecodable"),
        ("empty.wav", b"", "empty"),
        ("<b>.wav", b"RIFF", "&lt;b&gt;.wav cannot be used: undecodable"),
        ("short.flac", short, "shorter than 0.5 s"),
        ("long.flac", long, "too long: 10.1 minutes, expected at most 10"),
    ):
        file = tmp_path / "upload"
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            soundfile.write(file, content, 8000, format="FLAC")
        html, heard = visitors.hear(file, name, "me")
        assert message in html and 'role="alert"' in html and "<b>" not in html and heard is None
        assert not list(tmp_path.iterdir())


def test_a_length_that_no_header_states_is_found_by_reading(songs, monkeypatch):
    monkeypatch.setattr("hf_utils.app.played_sound.MOST_SECONDS", 4)
    assert read_recording(songs / "22050.wav").num_samples == round(3.3 * 22050)
    monkeypatch.setattr("hf_utils.app.played_sound.read_header", lambda source: (44100, 0.0))
    with pytest.raises(AudioError, match="too long"):
        read_recording(songs / "44100.wav")


def test_the_timeline_parts_windows_halfway_between_their_centres(model):
    windows = np.array([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1], [0, 0, 0, 1]])
    answer = Answer("jazz", "jazz", windows.mean(axis=0), [(0, 4), (2, 6), (4, 8)], windows)
    html = render_answers(HeardSound("song", "url", 8), [model], [answer], [answer])
    for place, width, title in (
        ("0.00", "37.50", "Hip-Hop, 0:00.0 to 0:04.0: 10 %"),
        ("37.50", "25.00", "Hip-Hop, 0:02.0 to 0:06.0: 70 %"),
        ("62.50", "37.50", "Hip-Hop, 0:04.0 to 0:08.0: 0 %"),
    ):
        cell = html[html.index(f"<title>{title}") - 100 : html.index(f"<title>{title}")]
        assert f'x="{place}%" width="{width}%"' in cell
    assert "Without the noise: jazz, 50 %" in html and html.count("<rect") == 12
    assert html.index('genre">jazz') < html.index('genre">Hip-Hop') < html.index('genre">blues')


def test_numbers_of_the_page_do_not_say_more_than_is_known():
    assert [show_share(p) for p in (0, 0.004, 0.006, 0.5, 0.994, 0.996, 1)] == [
        *("0 %", "< 1 %", "1 %", "50 %", "99 %", "> 99 %", "100 %")
    ]
    assert [show_time(187.4, 200), show_time(59.6, 200), show_time(7.25, 9)] == ["3:07", "1:00", "0:07.2"]


def test_mistakes_are_found_before_anything_is_loaded(run, tmp_path):
    with pytest.raises(UserError, match="unknown_below .* 1.5"):
        main([str(run), "--unknown_below", "1.5"])
    with pytest.raises(UserError, match="runs/none"):
        AskedModel(make_arguments(str(tmp_path / "runs/none"), None))
    with pytest.raises(UserError, match=f"push_to_space: {run} is not found on the Hub"):
        main([str(run), "--push_to_space", "me/genres"])


def test_without_gradio_the_message_tells_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "hf_utils.app.gradio_page", raising=False)
    with pytest.raises(UserError, match="pip install -r requirements-app.txt"):
        import hf_utils.app.gradio_page  # noqa: F401


@pytest.mark.parametrize(
    ("headers", "is_local", "status"),
    [
        ({"Host": "127.0.0.1:7860", "Origin": "http://127.0.0.1:7860"}, True, 200),
        ({"Host": "localhost:8000", "Origin": "http://localhost:8000"}, True, 200),  # through a tunnel
        ({"Host": "127.0.0.1:7860"}, True, 200),  # a link that was followed
        ({"Host": "127.0.0.1:7860", "Origin": "http://127.0.0.1:80"}, True, 403),
        ({"Host": "elsewhere.example:7860", "Origin": "http://elsewhere.example:7860"}, True, 403),
        ({"Host": "me-genres.hf.space", "Origin": "https://huggingface.co"}, False, 200),
    ],
)
def test_a_page_on_this_machine_answers_itself_alone_and_one_of_the_hub_everybody(headers, is_local, status):
    client = TestClient(OnlyFromHere(PlainTextResponse("hello"), is_local))
    answer = client.get("/", headers=headers)
    assert answer.status_code == status
    assert ("content-security-policy" in answer.headers) == (status == 200)


@pytest.mark.parametrize("is_local", [True, False])
@pytest.mark.parametrize(
    "path",
    ["/gradio_api/file=https://elsewhere.example/a.wav", "/file=HTTP%3A//e.example", "/proxy=https://e.example"],
)
def test_the_page_fetches_nothing_for_a_visitor(path, is_local):
    client = TestClient(OnlyFromHere(PlainTextResponse("hello"), is_local), base_url="http://127.0.0.1:7860")
    assert client.get(path).status_code == 403
    assert client.get("/gradio_api/file=sounds/a.wav").status_code == 200


def test_a_space_holds_the_page_its_models_and_what_they_need(hub, run, tmp_path):
    with pytest.raises(UserError, match="me/tagger is not found on the Hub.*python -m hf_utils.hub"):
        push_space(f"{OWNER}/genres", [make_arguments("me/tagger", None)])
    assert f"spaces/{OWNER}/genres" not in hub.repos
    model = Repo("me/tagger")
    model.add({path.name: path.read_bytes() for path in run.iterdir()}, "model")
    hub.repos["models/me/tagger"] = model
    push_space(f"{OWNER}/genres", [make_arguments("me/tagger", 0.6)])
    space = hub.repos[f"spaces/{OWNER}/genres"]
    files = dict(space.files)
    card = yaml.safe_load(files["README.md"].decode().split("---")[1])
    assert (card["sdk"], card["sdk_version"], card["models"]) == ("gradio", gradio.__version__, ["me/tagger"])
    assert card["app_file"] in files and b'main(["me/tagger", "--unknown_below", "0.6"])' in files["app.py"]
    requirements = files["requirements.txt"].decode()
    assert f"gradio=={gradio.__version__}" in requirements and "torch==" in requirements
    assert "pytest" not in requirements
    package = {name for name in files if name.startswith("hf_utils/")}
    assert all(files[name] == (ROOT / name).read_bytes() for name in package)
    assert {"hf_utils/app/gradio_page.py", "hf_utils/templates/app.css", "hf_utils/data/gtzan_tracks.csv"} < package
    assert not [name for name in files if "__pycache__" in name]
    space.add(files | {"hf_utils/of_before.py": b"", "notes.md": b"by hand"}, "older")
    push_space(f"{OWNER}/genres", [make_arguments("me/tagger", 0.6)])
    assert space.files.keys() == files.keys() | {"notes.md"}
