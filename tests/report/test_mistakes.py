"""Excerpts and pictures of missed tracks: what is heard, summed and coloured, by hand; pages that play them."""

import io

import numpy as np
import pytest
import soundfile
from page_reader import HOSTILE, PageReader
from PIL import Image

from hf_utils.models.attribution import Attribution
from hf_utils.report.mistakes import Choice, TrackPart, draw_attribution, encode_excerpt, sum_cells
from hf_utils.report.page import Page, Picture, Player, Players, Section, write_page


def test_cells_hold_what_they_are_made_of():
    assert sum_cells(np.array([[1, 2, 3, 4, 5], [0, 0, 1, 0, 0]]), 2).tolist() == [[3, 12], [0, 1]]
    assert sum_cells(np.arange(3), 10).tolist() == [0, 1, 2]


def test_the_window_is_where_the_chosen_genre_leads_by_most():
    logits = np.array([[9.0, 0.0, 8.5], [1.0, 5.0, 0.0], [2.0, 9.0, 1.5]])  # leads of genre 0 over genre 2: .5, 1, .5
    assert Choice("blues", "rock", 0, 2).find_window(logits) == 1


@pytest.mark.parametrize(("rate", "kept_rate"), [(16000, 16000), (44100, 22050)])
def test_an_excerpt_is_short_small_and_sounds_like_the_track(rate, kept_rate):
    time = np.arange(12 * rate) / rate
    noise = np.random.default_rng(0).normal(0, 0.02, time.size)
    samples = (1.1 * np.sin(2 * np.pi * 440 * time) + noise).astype(np.float32)  # beyond full scale
    part = TrackPart(samples, rate, 3.0, samples.size)
    ogg = encode_excerpt(part.heard, rate)
    heard, heard_rate = soundfile.read(io.BytesIO(ogg))
    assert (heard.ndim, heard_rate, heard.size) == (1, kept_rate, 10 * kept_rate) and len(ogg) <= 60_000
    assert np.abs(np.fft.rfft(heard)).argmax() == 4400  # 440 Hz in 10 s
    assert part.span == "3.0 to 15.0 s"


def test_of_a_repeated_track_only_its_own_part_is_heard():
    part = TrackPart(np.tile(np.arange(3, dtype=np.float32), 4), 2, 0.5, 3)
    assert part.heard.tolist() == [0, 1, 2] and part.span == "0.5 to 2.0 s"


@pytest.mark.parametrize("shape", [(40, 100), (4000,)])
def test_red_speaks_for_the_chosen_genre_and_blue_against_it(shape):
    """Shares above 0 in the first half of the window, below 0 in the second."""
    shares = np.ones(shape, np.float32)
    shares[..., shape[-1] // 2 :] = -1
    features = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    png = draw_attribution(Attribution(features, shares, 0.0), 2.0, 3.0)
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    redness = (pixels[..., 0] - pixels[..., 2])[:-60]  # without the numbers of the axis
    middle = redness.shape[1] // 2
    assert redness[:, : middle - 40].sum() > 1e5 and redness[:, middle + 60 :].sum() < -1e5
    assert len(png) < 60_000


def make_page(*players) -> Page:
    return Page("Page", "", "", [Section("Section", [Players("Tracks", players)])])


def test_a_page_plays_its_excerpts_and_says_what_is_heard_and_seen(tmp_path):
    picture = Picture(f"{HOSTILE} seen", "mistake-1.png", draw_attribution(Attribution(*np.ones((2, 9, 9)), 1), 0, 1))
    player = Player(HOSTILE, [f"line {HOSTILE}"], f"{HOSTILE} heard", "a+b.ogg", b"OggS", picture)
    write_page(make_page(player, Player("silent", [])), tmp_path)
    html = (tmp_path / "report.html").read_text()
    page = PageReader(html)
    [audio] = [attributes for tag, attributes in page.tags if tag == "audio"]
    assert (tmp_path / audio["src"]).read_bytes() == b"OggS" and audio["aria-label"] == f"{HOSTILE} heard"
    assert audio.keys() == {"controls", "preload", "src", "aria-label"} and audio["preload"] == "none"
    [image] = [attributes for tag, attributes in page.tags if tag == "img"]
    assert image["alt"] == picture.heading and image["src"].startswith("data:image/png")
    [policy] = [attributes["content"] for _, attributes in page.tags if attributes.get("http-equiv")]
    assert "default-src 'none'" in policy and "media-src 'self'" in policy
    assert not any(tag == "script" or name.startswith("on") for tag, attributes in page.tags for name in attributes)
    markdown = (tmp_path / "report.md").read_text()
    assert "](audio/a%2Bb.ogg)" in markdown and "](mistake-1.png)" in markdown and "<script" not in markdown
    assert (tmp_path / "mistake-1.png").read_bytes() == picture.png


def test_a_page_without_players_may_load_nothing(tmp_path):
    write_page(Page("Page", "", "", [Section("Section", [])]), tmp_path)
    assert "media-src" not in (tmp_path / "report.html").read_text() and not (tmp_path / "audio").exists()
