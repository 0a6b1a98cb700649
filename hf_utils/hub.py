"""A dataset folder on the Hub: the repository first, so that a missing right shows before the work, the files last."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from hf_utils.errors import UserError


def create_dataset_repository(repo_id: str, *, private: bool) -> None:
    """Create a dataset's repository if it is not there. Raises UserError if the Hub refuses or cannot be reached."""
    from huggingface_hub import HfApi

    with _explained(repo_id):
        HfApi().create_repo(repo_id, repo_type="dataset", private=private or None, exist_ok=True)


def upload_dataset(folder: Path, repo_id: str, message: str) -> str:
    """Upload a finished dataset folder; return its address. Raises UserError as `create_dataset_repository` does."""
    from huggingface_hub import HfApi

    with _explained(repo_id):
        info = HfApi().upload_folder(
            folder_path=folder, repo_id=repo_id, repo_type="dataset", commit_message=message, ignore_patterns=[".*"]
        )
    return str(info.repo_url)


@contextlib.contextmanager
def _explained(repo_id: str) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise UserError(
            f"push_to_hub: cannot write to the dataset {repo_id}: {error}\nLog in by `hf auth login` with a token "
            "that may write, or leave push_to_hub out: a finished folder can be pushed later by the same command."
        ) from error
