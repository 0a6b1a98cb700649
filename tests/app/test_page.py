"""The page in a browser: a Space, as it is pushed, started with its model from a Hub on this machine."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
import soundfile
from chromium import Chromium
from hub_server import OWNER, HubServer, Repo
from tiny_models import save_run

from hf_utils.app.app_command import make_arguments
from hf_utils.app.space_files import select_space_files


@pytest.fixture
def space(tmp_path):
    """The address of the page, served from the files of a Space; and the folder of its temporary files."""
    run, folder, temporary = save_run(tmp_path / "run"), tmp_path / "space", tmp_path / "temporary"
    arguments = make_arguments(str(run), None)
    arguments.model.model_name_or_path = f"{OWNER}/tagger"
    for name, content in select_space_files(f"{OWNER}/genres", [arguments]).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    temporary.mkdir()
    with HubServer() as hub:
        hub.repos[f"models/{OWNER}/tagger"] = model = Repo(f"{OWNER}/tagger")
        model.add({path.name: path.read_bytes() for path in run.iterdir()}, "model")
        environment = hub.environment(tmp_path / "home") | {"TMPDIR": str(temporary), "GRADIO_SERVER_NAME": "0.0.0.0"}
        process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=None, text=True
        )
        line = process.stdout.readline()
        assert line.startswith("The page: http://127.0.0.1:"), line
        yield line.split()[2], temporary
        assert os.listdir(temporary) != []
        process.terminate()
        assert process.wait(30) == 0
        assert os.listdir(temporary) == []


def list_files(folder: Path) -> list[str]:
    """Return the files that hold something."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


def expect_no_file(folder: Path, seconds: float) -> None:
    """Wait until all files are removed, but no longer than that."""
    end = time.monotonic() + seconds
    while files := list_files(folder):
        assert time.monotonic() < end, files
        time.sleep(0.05)


def expect_uploads_to_be_no_pages(address: str) -> None:
    """A page that was uploaded is not opened as one of this site."""
    part = 'Content-Disposition: form-data; name="files"; filename="a.html"'
    body = f"--x\r\n{part}\r\nContent-Type: text/html\r\n\r\n<script>1</script>\r\n--x--\r\n".encode()
    request = Request(f"{address}gradio_api/upload", body, {"Content-Type": "multipart/form-data; boundary=x"})
    with urlopen(request) as answer:
        (file,) = json.loads(answer.read())
    with urlopen(f"{address}gradio_api/file={file}") as answer:
        assert answer.headers["content-disposition"].startswith("attachment")
    Path(file).unlink()


@pytest.mark.skipif(shutil.which("chromium") is None, reason="Chromium is not installed")
def test_a_visitor_uploads_plays_and_adds_noise(space, tmp_path):
    address, temporary = space
    song = tmp_path / "my <i>song.wav"
    seconds = np.arange(3 * 16000) / 16000
    soundfile.write(song, 0.5 * np.sin(2 * np.pi * 440 * seconds), 16000)
    with urlopen(address) as answer:
        assert "default-src 'self'" in answer.headers["content-security-policy"]
    expect_uploads_to_be_no_pages(address)
    for headers in ({"Origin": "https://elsewhere.example"}, {"Origin": "null"}, {"Host": "elsewhere.example"}):
        with pytest.raises(HTTPError, match="403"):
            urlopen(Request(f"{address}gradio_api/upload", b"music", headers))
    with Chromium(tmp_path / "profile", width=390) as browser:
        browser.call("Page.navigate", url=address)
        browser.wait("document.querySelector('#upload input[type=file]')")
        browser.choose_file("#upload input[type=file]", song)
        browser.wait("document.querySelector('.verdict')")
        answer = browser.run("document.querySelector('.verdict strong').innerText")
        assert answer in ("Hip-Hop", "rock", "blues", "jazz")
        assert "0:03.0, 16 kHz" in browser.run("document.querySelector('.heard h2').innerText")
        assert browser.run("document.querySelectorAll('.strip').length") == 4
        (sound,) = list_files(temporary)
        assert sound.endswith(".flac")

        browser.run("document.querySelector('.heard audio').play()")
        browser.wait("document.querySelector('.heard').style.getPropertyValue('--played') > 0.05")
        browser.run(
            "document.querySelector('.strip').dispatchEvent(new MouseEvent('click', {bubbles: true, clientX: 300}))"
        )
        browser.wait("document.querySelector('.heard audio').currentTime > 1.5")

        browser.run("""(() => {
            const slider = document.querySelector('#noise input[type=range]');
            slider.value = 5;
            slider.dispatchEvent(new Event('input', {bubbles: true}));
            slider.dispatchEvent(new PointerEvent('pointerup', {bubbles: true}));
        })()""")
        browser.wait("document.querySelectorAll('.verdict').length == 2")
        assert "With white noise at 5 dB" in browser.text() and "Without the noise: " in browser.text()
        assert len(list_files(temporary)) == 2
        browser.run("document.querySelectorAll('.heard audio')[1].play()")
        browser.wait("document.querySelectorAll('.heard audio')[1].currentTime > 0")
        assert browser.run("document.querySelector('.heard audio').paused")

        (tmp_path / "text.mp3").write_text("no music")
        browser.choose_file("#upload input[type=file]", tmp_path / "text.mp3")
        browser.wait("document.querySelector('.refusal')")
        assert "text.mp3 cannot be used: undecodable" in browser.text()
        assert not browser.run("document.querySelector('.heard')") and list_files(temporary) == []
        assert browser.run("document.documentElement.scrollWidth") == 390
        assert browser.complaints == []
        with (tmp_path / "large.wav").open("wb") as file:
            file.truncate(150 * 2**20 + 1)
        browser.choose_file("#upload input[type=file]", tmp_path / "large.wav")
        browser.wait("/exceed the maximum allowed size of 150/.test(document.body.innerText)")
        assert list_files(temporary) == []
        assert len(browser.requests) > 20
        assert {url for url in browser.requests if not url.startswith((address, "data:", "blob:"))} == set()

        browser.choose_file("#upload input[type=file]", song)
        browser.wait("document.querySelector('.verdict')")
        assert len(list_files(temporary)) == 1
        browser.call("Page.navigate", url="about:blank")
        expect_no_file(temporary, seconds=30)
