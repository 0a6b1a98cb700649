"""A Space of the Hub that shows the page: its app, its requirements, its card, and this package."""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from hf_utils.app.asked_models import check_genres
from hf_utils.arguments.run_arguments import RunArguments
from hf_utils.cards.markup import Markdown, render_template
from hf_utils.disclosure import is_hub_id
from hf_utils.errors import UserError
from hf_utils.hub.repository import open_repository
from hf_utils.hub.run_files import find_run_file

_PACKAGE = Path(__file__).parents[1]
_SUFFIXES = {".py", ".csv", ".html", ".md", ".css", ".js"}
_DEVELOPMENT = "# --- Development"
_APP = '''"""The page of this Space, as `python -m hf_utils.app` shows it."""

from hf_utils.app.app_command import main
from hf_utils.launch import run_script

run_script(lambda: main({words}))
'''


def push_space(name: str, models: Sequence[RunArguments]) -> str:
    """Write a Space that shows the page with models of the Hub; return its address.

    Raises:
        UserError: a model is not on the Hub, or cannot be asked; or the Space cannot be written.
    """
    for arguments in models:
        model = arguments.model.model_name_or_path
        if not is_hub_id(model) or find_run_file(model, "config.json") is None:
            raise UserError(
                f"push_to_space: {model} is not found on the Hub, where a Space has its models from. To push a run: "
                "python -m hf_utils.hub runs/ast me/gtzan-ast"
            )
        check_genres(arguments)
    contents = select_space_files(name, models)
    repository = open_repository(name, "space")
    # A module that is no more would stay otherwise.
    return repository.commit(contents, "Upload the page", replaced=lambda path: path.startswith(f"{_PACKAGE.name}/"))


def select_space_files(name: str, models: Sequence[RunArguments]) -> dict[str, Path | bytes]:
    """Return {path in the Space: file, or its bytes}."""
    names = [arguments.model.model_name_or_path for arguments in models]
    unknown_below = models[0].training.unknown_below
    words = [*names, *([] if unknown_below is None else ["--unknown_below", str(unknown_below)])]
    of_page = (_PACKAGE.parent / "requirements-app.txt").read_text(encoding="utf-8")
    of_project = (_PACKAGE.parent / "requirements.txt").read_text(encoding="utf-8").partition(_DEVELOPMENT)[0]
    metadata = {
        "title": name.rpartition("/")[2],
        "sdk": "gradio",
        "sdk_version": re.search(r"^gradio==([\w.]+)", of_page, re.MULTILINE)[1],
        "python_version": f"{sys.version_info.major}.{sys.version_info.minor}",
        "app_file": "app.py",
        "models": names,
    }
    card = render_template("space_card.md", metadata=Markdown(yaml.safe_dump(metadata, sort_keys=False)), models=names)
    files = [path for path in sorted(_PACKAGE.rglob("*")) if path.suffix in _SUFFIXES and path.is_file()]
    return {
        "README.md": card.encode(),
        "app.py": _APP.format(words=json.dumps(words)).encode(),
        "requirements.txt": f"{of_project}{of_page}".encode(),
        **{path.relative_to(_PACKAGE.parent).as_posix(): path for path in files},
    }
