"""What surrounds the work of a script: its log, its processes, the lock on its folder, its exit code."""

import argparse
import contextlib
import fcntl
import gc
import logging
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from hf_utils.disclosure import is_secret
from hf_utils.errors import UserError

_LOCK_FILE = ".lock"
# PyTorch's messages about a full /dev/shm: of a worker killed by a bus error, and of a file there that finds no room.
_SHARED_MEMORY_FULL = re.compile(r"raise your shared memory limit|</torch_.*>: No space left")
logger = logging.getLogger(__name__)


@contextlib.contextmanager
def importing_libraries() -> Iterator[None]:
    """Import in the block without looking for garbage, and never look for it in what the first such block made.

    Modules stay, with their million objects. To search these, again and again while there are more of them, and once
    more at exit, took 1.4 of the 5.1 s in which a song is tagged.
    """
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():  # later blocks, of a process that calls a script twice, would keep its garbage
            gc.freeze()
        gc.enable()


def setup_logging(is_main_process: bool, *, with_datasets: bool = True) -> None:
    """Our messages from the main process on standard error, and from libraries only warnings.

    A job that does without `datasets` need not wait until it is imported.
    """
    # Here, because every script imports this module before its options are read, and these imports take seconds.
    import huggingface_hub
    import transformers
    from transformers.utils.logging import disable_progress_bar

    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.WARNING)
    level = logging.INFO if is_main_process else logging.ERROR
    for name in ("hf_utils", "__main__"):
        logging.getLogger(name).setLevel(level)
    # Tables of every new head, checked more strictly by our own loading; remarks on the order of checkpoints and on
    # tensor parallelism, which is not used.
    for name in ("modeling_utils", "trainer_utils", "distributed.tensor_parallel"):
        logging.getLogger(f"transformers.{name}").setLevel(logging.ERROR)
    # Messages of libraries come once, in our format, and not through their handlers as well.
    libraries = [huggingface_hub, transformers]
    if with_datasets:
        import datasets

        libraries.append(datasets)
    for library in libraries:
        messages = logging.getLogger(library.__name__)
        messages.handlers.clear()
        messages.propagate = True
    # A bar for each file of weights that is read or written.
    disable_progress_bar()
    if with_datasets and not sys.stderr.isatty():
        datasets.disable_progress_bars()


def expect_processes(num_processes: int) -> None:
    """Stop if a launcher started several processes and this one sees no other.

    Each would do the whole work and write the same files. It happens on machines without a GPU.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched > 1 and num_processes == 1:
        raise UserError(
            f"{launched} processes were launched, but each sees only itself. On a machine without a GPU start them "
            "by `accelerate launch --config_file configs/accelerate/cpu_2.yaml ...`, or give the script --use_cpu."
        )


def lock_file(path: str | os.PathLike) -> BinaryIO | None:
    """Return a file, made if it is not there, opened to append and locked; None if another process has locked it.

    The lock lasts for as long as the file, or a copy of it that a child process inherited, is open, and so never
    outlives the processes that hold it, however they end.
    """
    while True:
        file = open(path, "ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        file.close()  # whoever held the lock has removed the file since it was opened: once more


@contextlib.contextmanager
def claim_folder(output_dir: str, *, is_main_process: bool) -> Iterator[None]:
    """Keep other runs out of `output_dir` for as long as the block, or this process, lasts.

    Raises:
        UserError: another process writes there, or nobody can.
    """
    if not is_main_process:  # what it writes, its main process has claimed
        yield
        return
    try:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        lock = lock_file(Path(output_dir, _LOCK_FILE))
    except OSError as error:
        raise UserError(f"--output_dir {output_dir} cannot be written: {error.strerror}. Choose another.") from None
    if lock is None:
        raise UserError(
            f"--output_dir {output_dir} is being written by another process. Wait for its end, or choose another "
            "folder."
        )
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # a folder in which nothing was done; any other is not empty
            if [path.name for path in Path(output_dir).iterdir()] == [_LOCK_FILE]:
                Path(output_dir, _LOCK_FILE).unlink()
                Path(output_dir).rmdir()
        lock.close()


def launch_command() -> str:
    """Return the command line of this process as a user would type it, with secrets left out."""
    launcher = "accelerate launch" if any(name.startswith("ACCELERATE_") for name in os.environ) else "python"
    words, secret = [], False
    for word in [Path(sys.argv[0]).name, *sys.argv[1:]]:
        if not secret and not is_secret(word.lstrip("-").partition("=")[0]):
            words.append(word)
        secret = word.startswith("-") and is_secret(word.lstrip("-"))
    return f"{launcher} {shlex.join(words)}"


def module_parser(module: str, doc: str) -> argparse.ArgumentParser:
    """Return a parser for `python -m <module>`: its help is `doc`, with the options after the first paragraph."""
    description, _, details = doc.partition("\n\n")
    return argparse.ArgumentParser(
        f"python -m {module}",
        description=description,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def run_script(main: Callable[[], int]) -> None:
    """Call `main` and exit with its code; a user's mistake, or want of memory, prints one message and exits with 2.

    The process group, if any, is ended last: a group that is alive at interpreter exit aborts some runs on CPU after
    correct results.
    """
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter's last flush fails, too
        code = 1
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except RuntimeError as error:
        if not _SHARED_MEMORY_FULL.search(str(error)):
            raise
        print(
            "error: the workers of the data loader ran out of shared memory, /dev/shm. Give it more (Docker: `docker "
            "run --shm-size 8g ...`), or do without workers: --dataloader_num_workers 0.",
            file=sys.stderr,
        )
        code = 2
    except KeyboardInterrupt:
        print(
            "Interrupted. The same command continues; for training, with --resume_from_checkpoint auto added.",
            file=sys.stderr,
        )
        code = 130
    finally:
        distributed = sys.modules.get("torch.distributed")  # a mistake in the options ends before it is imported
        if distributed is not None and distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()
    sys.exit(code)
