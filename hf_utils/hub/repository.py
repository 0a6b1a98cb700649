"""Repositories of the Hub: checked before the work starts, written by one commit at its end.

    python -m hf_utils.hub runs/ast me/gtzan-ast      # push a finished run or dataset, or finish a push that broke off

Nothing of a push is visible before its last request, the commit, succeeds. What was sent before stays on the Hub: a
second try sends what is missing, and makes no commit if nothing is.
"""

import argparse
import contextlib
import dataclasses
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import disable_progress_bars

from hf_utils.disclosure import show_value
from hf_utils.errors import UserError
from hf_utils.hub.published_files import find_kind, is_replaced, select_published

Kind = Literal["model", "dataset", "space"]

# HTTP errors of every kind, broken connections, refused names and cards, and failed transfers of large files.
HUB_ERRORS = (HTTPError, OSError, ValueError, RuntimeError)
# Sent ahead of the commit, which carries the other files itself.
_LARGE = (".safetensors", ".parquet", ".pt", ".pth")


@dataclasses.dataclass(frozen=True)
class Repository:
    """A repository that exists and that the token may write to; made by `open_repository`.

    Attributes:
        name: with its namespace, such as me/gtzan-ast.
        kind: model, dataset, or space.
        token: None for that of HF_TOKEN or `hf auth login`.
    """

    name: str
    kind: Kind
    token: str | None = dataclasses.field(default=None, repr=False)

    @property
    def api(self) -> HfApi:
        """The client with this repository's token."""
        return HfApi(token=self.token)

    def list_files(self) -> list[str]:
        """Return the paths of all its files. Raises UserError if the Hub does not answer."""
        with _explained(f"cannot list the files of {self.name}", self.token):
            return self.api.list_repo_files(self.name, repo_type=self.kind)

    def commit(
        self, contents: Mapping[str, Path | bytes], message: str, *, replaced: Callable[[str], bool] | None = None
    ) -> str:
        """Write files by one commit, unless all are there already; return the repository's address.

        Args:
            contents: path in the repository: a file here, or its bytes.
            replaced: whether a file there, by its path, is deleted if it is not among `contents`.

        Raises:
            UserError: the Hub refuses or does not answer; the message says what was sent and what was not.
        """
        options = {"repo_type": self.kind}
        sent: list[str] = []
        try:
            gone = [n for n in self.list_files() if replaced(n) and n not in contents] if replaced else []
            additions = {name: CommitOperationAdd(name, content) for name, content in contents.items()}
            for name, addition in additions.items():
                if name.endswith(_LARGE):
                    self.api.preupload_lfs_files(self.name, [addition], free_memory=False, **options)
                    sent.append(name)
            operations = [*map(CommitOperationDelete, gone), *additions.values()]
            self.api.create_commit(self.name, operations, commit_message=message, **options)
        except HUB_ERRORS as error:
            missing = [name for name in contents if name not in sent]
            raise UserError(
                f"the push to {self.name} broke off: {_describe(error, self.token)}\n"
                f"Sent, and not sent again: {', '.join(sent) or 'nothing'}.\n"
                f"Not sent: {', '.join(missing) or 'only the commit that makes all visible'}."
            ) from error
        prefix = "" if self.kind == "model" else f"{self.kind}s/"
        return f"{self.api.endpoint}/{prefix}{self.name}"


def open_repository(name: str, kind: Kind, *, private: bool | None = None, token: str | None = None) -> Repository:
    """Return the repository, created if it is not there.

    Args:
        name: without a namespace, it is in that of the token's owner.
        private: of a new repository; None as its owner has set it.
        token: with the right to write; None for that of HF_TOKEN or `hf auth login`.

    Raises:
        UserError: the token is missing, wrong or may not write there, the name cannot be one, or the Hub does not
            answer.
    """
    api = HfApi(token=token)
    option = "push_to_space" if kind == "space" else "push_to_hub"
    with _explained(f"{option}: cannot write to the {kind} {name}", token):
        owner = api.whoami()["name"]
        name = name if "/" in name else f"{owner}/{name}"
        space_sdk = "gradio" if kind == "space" else None
        api.create_repo(name, repo_type=kind, private=private, exist_ok=True, space_sdk=space_sdk)
        # create_repo is content with somebody else's repository that is there already.
        api.auth_check(name, repo_type=kind, write=True)
    return Repository(name, kind, token)


def open_dataset_repository(args) -> Repository | None:
    """Return the repository that the options of a script which makes a dataset ask to push to; None without one."""
    if not args.push_to_hub:
        return None
    return open_repository(args.push_to_hub, "dataset", private=args.hub_private_repo or None, token=args.hub_token)


def push_folder(folder: str | os.PathLike, repository: Repository) -> str:
    """Push what others need of a finished run or dataset folder; return the repository's address.

    Raises:
        UserError: the folder is unfinished, or the push breaks off; the message holds the command that finishes it.
    """
    contents = select_published(folder, repository.kind)
    try:
        return repository.commit(contents, f"Upload {repository.kind}", replaced=is_replaced(repository.kind))
    except UserError as error:
        command = shlex.join(["python", "-m", "hf_utils.hub", str(folder), repository.name])
        raise UserError(f"{error}\nEverything is in {folder}. This finishes the push:\n  {command}") from error


@contextlib.contextmanager
def _explained(what: str, token: str | None) -> Iterator[None]:
    try:
        yield
    except HUB_ERRORS as error:
        raise UserError(
            f"{what}: {_describe(error, token)}\nLog in by `hf auth login`, or set HF_TOKEN, with a token that may "
            "write there, check the name and the network (and HF_HUB_OFFLINE), or do without the Hub."
        ) from error


def _describe(error: Exception, token: str | None) -> str:
    """Return the message in one line, with its cause, without the token: some clients quote a header they refuse."""
    text = " ".join(f"{type(error).__name__}: {error} {error.__cause__ or ''}".split())
    for secret in {token, get_token()} - {None, ""}:
        text = text.replace(secret, "***")
    return show_value(text)


def main(argv: list[str] | None = None) -> int:
    """Push the folder that the command line names; return the exit code."""
    parser = argparse.ArgumentParser("python -m hf_utils.hub", description="Push a finished run or dataset folder.")
    parser.add_argument("folder", type=Path, help="Of a run of run_classification.py, or of a made dataset.")
    parser.add_argument("repository", help="Repository on the Hub, such as me/gtzan-ast.")
    parser.add_argument("--private", action="store_true", default=None, help="Make a new repository private.")
    arguments = parser.parse_args(argv)
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        kind = find_kind(arguments.folder)
        select_published(arguments.folder, kind)  # before a repository is made for nothing
        repository = open_repository(arguments.repository, kind, private=arguments.private)
        print(f"Pushed: {push_folder(arguments.folder, repository)}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
