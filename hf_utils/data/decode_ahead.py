"""Audio files decoded by other processes, ahead of what reads them. T samples.

Nothing here imports PyTorch: a process is ready in a few tenths of a second, and holds the files of nobody else (locks
above all), since it is started afresh and not forked.
"""

import logging
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from hf_utils import audio
from hf_utils.files import show_name
from hf_utils.sound_check import AudioError

logger = logging.getLogger(__name__)

# What is sent of a file: remarks on it, then its samples in blocks; or at any time why it cannot be used.
_Message = tuple[str, ...] | np.ndarray | AudioError


def decode_ahead(files: Sequence[Path], sample_rate: int, num_proc: int) -> Iterator[Iterator[np.ndarray]]:
    """Yield for each file, in order, its samples at `sample_rate` Hz in blocks (T,), as `audio.load` returns them.

    Every process is at most one file ahead, and of a long one only some blocks, so memory is bounded. What remains of
    a file when the next one is asked for is left out. Remarks on a file are logged when its first block is read.

    The blocks raise AudioError, as `audio.decode` does, or because the decoder of that file crashed.
    """
    num_proc = min(num_proc, len(files))
    if num_proc <= 1:
        for file in files:
            yield _receive(_decode(file, sample_rate), file)
        return
    # One after the other, so that it does not depend on the speed of processes who decodes what.
    workers = [_Worker(files[i::num_proc], sample_rate) for i in range(num_proc)]
    try:
        for index, file in enumerate(files):
            messages = workers[index % num_proc].messages()
            yield _receive(messages, file)
            for _ in messages:
                pass
    finally:
        for worker in workers:
            worker.stop()


def _receive(messages: Iterator[_Message], file: Path) -> Iterator[np.ndarray]:
    for message in messages:
        if isinstance(message, AudioError):
            raise message
        if isinstance(message, np.ndarray):
            yield message
        elif message:
            logger.warning("%s: %s", show_name(str(file)), "; ".join(message))


def _decode(file: Path, sample_rate: int) -> Iterator[_Message]:
    try:
        recording = audio.inspect(file)
        yield recording.remarks
        yield from recording.blocks(sample_rate)
    except AudioError as error:
        yield error


class _Worker:
    """A process that decodes files one after the other, and waits whenever nobody reads."""

    def __init__(self, files: Sequence[Path], sample_rate: int):
        self._files, self._sample_rate = list(files), sample_rate
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, sender = context.Pipe(duplex=False)
        arguments = self._files, self._sample_rate, sender
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        sender.close()  # so that the end of the process is the end of its messages

    def messages(self) -> Iterator[_Message]:
        """Yield what the process sends of its next file."""
        del self._files[0]
        try:
            while (message := self._connection.recv()) is not None:
                yield message
        except (EOFError, OSError):
            self._process.join()
            yield AudioError(f"its decoder crashed (exit code {self._process.exitcode})")
            self._connection.close()
            self._start()

    def stop(self) -> None:
        self._process.terminate()
        self._process.join()
        self._connection.close()


def _serve(files: Sequence[Path], sample_rate: int, sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that reads
    try:
        for file in files:
            for message in _decode(file, sample_rate):
                sender.send(message)
            sender.send(None)
    except BrokenPipeError:
        pass  # nobody reads any more
