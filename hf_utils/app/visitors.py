"""What a visitor hands in, and what is kept of it: only its sound, until the next one or until the visitor leaves."""

import contextlib
import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from hf_utils.app.answer_view import HeardSound, render_answers, render_message, show_time
from hf_utils.app.asked_models import Answer, AskedModel
from hf_utils.app.played_sound import add_white_noise, read_mono, read_recording
from hf_utils.audio import Recording, decode, encode_flac
from hf_utils.errors import UserError
from hf_utils.files import hash_content
from hf_utils.sound_check import AudioError


@dataclasses.dataclass(frozen=True)
class HeardFile:
    """A file that was answered.

    Attributes:
        sound: a FLAC file of what the classifiers heard.
        answers: of each classifier.
    """

    sound: Path
    answers: list[Answer]


class Visitors:
    """Answers as HTML for visitors, whom nothing but a text tells apart; their sounds are in folders of `folder`."""

    def __init__(self, models: Sequence[AskedModel], folder: Path):
        self._models, self._folder = models, folder

    def hear(self, file: Path, title: str, visitor: str) -> tuple[str, HeardFile | None]:
        """Return the answers for a file, which is removed, and what is kept; where it is refused, why, and None."""
        self.forget(visitor)
        try:
            recording = read_recording(file)
            sound = self._keep(encode_flac(read_mono(recording), recording.sample_rate), visitor)
            answers = [model.ask(recording) for model in self._models]
        except (AudioError, UserError) as error:
            return render_message(f"{title} cannot be used: {error}", "refusal"), None
        finally:
            file.unlink(missing_ok=True)
        rate_khz = f"{recording.sample_rate / 1000:.4g} kHz"
        seconds = _seconds(recording)
        facts = f"{show_time(seconds, seconds)}, {rate_khz}, read by {recording.decoder}"
        shown = HeardSound(title, _url(sound), seconds, facts, recording.remarks)
        return render_answers(shown, self._models, answers), HeardFile(sound, answers)

    def hear_noisy(self, heard: HeardFile, snr_db: float, visitor: str) -> str:
        """Return the answers for a file that was heard, with white noise at this SNR."""
        for earlier in heard.sound.parent.glob("*.flac"):
            if earlier != heard.sound:
                earlier.unlink()
        try:
            samples, sample_rate = decode(heard.sound)
            sound = self._keep(encode_flac(add_white_noise(samples, sample_rate, snr_db), sample_rate), visitor)
            recording = read_recording(sound)
            answers = [model.ask(recording) for model in self._models]
        except (AudioError, UserError) as error:
            return render_message(f"With noise it cannot be used: {error}", "refusal")
        shown = HeardSound(f"With white noise at {snr_db:g} dB", _url(sound), _seconds(recording))
        return render_answers(shown, self._models, answers, heard.answers)

    def forget(self, visitor: str) -> None:
        """Remove what is kept of a visitor."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._place(visitor))

    def _keep(self, flac: bytes, visitor: str) -> Path:
        """Write a sound under a name that no other has, so that a browser does not play an earlier one."""
        path = self._place(visitor) / f"{hash_content(flac)[:16]}.flac"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(flac)
        return path

    def _place(self, visitor: str) -> Path:
        return self._folder / hash_content(visitor.encode())[:32]  # a browser may say anything


def _seconds(recording: Recording) -> float:
    return recording.num_samples / recording.sample_rate


def _url(sound: Path) -> str:
    return f"gradio_api/file={quote(str(sound))}"
