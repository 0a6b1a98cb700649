"""The card of a dataset that this project made: what it is, how it was made, how many clips, how to use it."""

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from huggingface_hub import DatasetCardData

from hf_utils.cards.markup import Markdown, code_block, one_line, paragraphs, render_template, table
from hf_utils.data.mixing import REAL
from hf_utils.disclosure import show_source

# A recipe of configs/ and the run that it makes; any other does as well.
_RECIPE, _RUN = "configs/ast.yaml", "runs/ast"

# In place of real clips that only the user knows.
UNKNOWN_CLIPS = "path/to/genres"

# Without the cast, `datasets` decodes by torchcodec, which needs FFmpeg.
_LOADING = """\
import io

import soundfile
from datasets import Audio, load_dataset

clips = load_dataset({name}).cast_column("audio", Audio(decode=False))
clip = next(iter(next(iter(clips.values()))))
samples, sampling_rate = soundfile.read(io.BytesIO(clip["audio"]["bytes"]))"""


@dataclasses.dataclass(frozen=True)
class DatasetDescription:
    """What a card says of a dataset.

    Attributes:
        settings: a table of what it was made from and how: source, configuration, seed, versions. No secrets, no
            folders.
        counts: rows of a table, such as {"genre": "blues", "train": 100}; all with the keys of the first.
        sections: (heading, text) in order, the licence's caveats among them. Text is shown literally, with its
            paragraphs, unless it is `markup.Markdown`.
        license: a licence identifier of the Hub.
        configs: `config_name` and `data_files` of each configuration.
    """

    title: str
    summary: str
    settings: Mapping[str, object]
    counts: Sequence[Mapping[str, object]]
    sections: Sequence[tuple[str, str]] = ()
    license: str | None = None
    tags: Sequence[str] = ()
    configs: Sequence[Mapping] = ()


class Use(NamedTuple):
    """What a dataset is for, in words, and the command."""

    purpose: str
    command: str


def use_for_training(name: str, source: Mapping[str, Any], *, with_real: bool) -> Use:
    """Return how to train on the dataset.

    Args:
        name: a repository's id, or a folder.
        source: options of `SourceArguments` that give the real clips and their split.
        with_real: whether they are trained on as well, since the dataset does not hold them itself.
    """
    words = ["accelerate", "launch", "run_classification.py", _RECIPE]
    clips = source.get("dataset_name", "")
    if show_source(clips) != clips:  # a folder whose place is nobody's business
        source = {**source, "dataset_name": f"path/to/{show_source(clips)}"}
    for option, value in source.items():
        words += [f"--{option}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    words += ["--train_datasets", *([REAL] if with_real else []), name]
    clips = source.get("dataset_name", "")
    unknown = f", where `{clips}` is the folder of the real clips" if clips.startswith("path/to/") else ""
    return Use(f"To train on it, here with the recipe `{_RECIPE}`{unknown}", _join(words, name))


def use_for_evaluation(name: str) -> Use:
    """Return how to test a trained model on the dataset: one score over all its clips."""
    words = ["python", "run_classification.py", "--model_name_or_path", _RUN, "--do_eval"]
    return Use(
        f"To test on it, where `{_RUN}` is a run on the same dataset and split (its training tracks are "
        "refused as test tracks)",
        _join([*words, "--eval_datasets", f"copies={name}"], name),
    )


def _join(words: list[str], name: str) -> str:
    return shlex.join([*words, "--output_dir", f"{_RUN}-{PurePosixPath(name).name}"])


def dataset_card(description: DatasetDescription, use: Use, name: str = "path/to/this/folder") -> str:
    """Return the text of a dataset's README.md.

    Args:
        use: the command that trains or tests on it.
        name: what `load_dataset` takes: a repository's id, or a folder.
    """
    card_data = DatasetCardData(
        pretty_name=one_line(description.title),
        license=description.license,
        tags=["audio", "music", *description.tags],
        task_categories=["audio-classification"],
        configs=[dict(config) for config in description.configs] or None,
    )
    counts = description.counts
    header = list(counts[0]) if counts else []
    body = render_template(
        "dataset_card.md",
        title=description.title,
        summary=paragraphs(description.summary),
        settings=table(["setting", "value"], [(key, str(value)) for key, value in description.settings.items()]),
        counts=table(header, [[str(row[key]) for key in header] for row in counts]) if counts else Markdown("none"),
        sections=[(heading, paragraphs(text)) for heading, text in description.sections],
        usage=code_block(_LOADING.format(name=json.dumps(name)), "python"),
        purpose=Markdown(use.purpose),
        command=code_block(use.command, "bash"),
    )
    return f"---\n{card_data.to_yaml()}\n---\n\n{body}"
