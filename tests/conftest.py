"""Test set-up: no network, no writing outside temporary folders, and the audio that several test files use."""

import gc
import logging
import os
import tempfile
import time
from pathlib import Path

# Until all is imported, by the collection of the tests. What was imported is never searched for garbage: a process of
# pytest-xdist is ready after 11 s instead of 15.
gc.disable()

# Hugging Face libraries read these at import, so they are set before any test module is imported. Child processes
# inherit them.
_HF_HOME = tempfile.TemporaryDirectory(prefix="genre-tests-")
os.environ.update(
    HF_HOME=_HF_HOME.name,
    HF_DATASETS_CACHE=os.path.join(_HF_HOME.name, "datasets"),
    HF_HUB_CACHE=os.path.join(_HF_HOME.name, "hub"),
    HF_MODULES_CACHE=os.path.join(_HF_HOME.name, "modules"),
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    MPLBACKEND="Agg",
    # Tiny models spend their time waiting for threads: with one, the suite is several times faster.
    OMP_NUM_THREADS="1",
)
os.environ.pop("HF_TOKEN", None)

import pytest  # noqa: E402
from tones import GENRE_TONES_HZ, TRACKS_PER_GENRE, write_tone  # noqa: E402


def pytest_collection_modifyitems(items):
    """Begin with the longest files, so that the processes of `make test` end together: whole commands, then trainings.

    pytest-xdist would begin with the files of most tests.
    """
    first = ["scripts", "hub", "training", "benchmarks", "study"]
    items.sort(key=lambda item: first.index(item.path.parent.name) if item.path.parent.name in first else len(first))


def pytest_collection_finish():
    """Look for garbage in what the tests make."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def gtzan_mini() -> Path:
    """The folder of 100 real clips, ten per genre."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "gtzan-mini"
    folder = Path(os.environ.get("GTZAN_MINI", beside))
    if not folder.is_dir():
        pytest.skip("needs the real clips: set GTZAN_MINI to a folder of genre folders")
    return folder


@pytest.fixture(autouse=True)
def levels_of_loggers():
    """Give our loggers their levels back, which a script sets for its process: later tests read what is logged."""
    loggers = [logging.getLogger(name) for name in ("hf_utils", "__main__")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture
def genre_folder(tmp_path) -> Path:
    """A folder of three genre folders (blues, hiphop, rock) with four clips of 1 to 1.9 s: one tone per genre."""
    folder = tmp_path / "genres"
    for genre_index, (genre, hz) in enumerate(GENRE_TONES_HZ.items()):
        for track in range(TRACKS_PER_GENRE):
            path = folder / genre / f"{genre}.{track:05d}.wav"
            write_tone(path, hz * (1 + 0.02 * track), 1 + 0.3 * track, seed=10 * genre_index + track)
    return folder


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub that this process itself talks to, without the waits between retries."""
    # Here, because most tests do without them.
    import huggingface_hub
    from hub_server import TOKEN, HubServer

    with HubServer() as server:
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        constants = {"ENDPOINT": server.url, "HUGGINGFACE_CO_URL_TEMPLATE": template}
        for name, value in {**constants, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}.items():
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        huggingface_hub.close_session()
        yield server
    huggingface_hub.close_session()
