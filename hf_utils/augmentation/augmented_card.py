"""The card of a dataset of augmented clips, from its rows and its configuration."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from hf_utils.augmentation.copies import CopyPlan
from hf_utils.augmentation.corruptions import Corruption
from hf_utils.cards.dataset_card import DatasetDescription, Use, dataset_card, use_for_evaluation, use_for_training
from hf_utils.cards.markup import Markdown
from hf_utils.data.clips import genre_names
from hf_utils.data.gtzan import is_gtzan
from hf_utils.data.shards import Shards

_COLUMNS = ["label", "origin", "transforms", "snr_db", "measured_snr_db", "gain", "clipped_share"]
_COLUMN_TEXT = (
    "`parent_id` is the real track that a copy was made from, `parent_sha256` the SHA-256 of that track's 16-bit "
    "samples at their own rate, by which the leak check knows it, `transforms` what was really applied to it, with "
    "the parameters drawn, as JSON. `snr_db` and `measured_snr_db` are the noise asked for and found, by the mean "
    "power over the whole clip. Where a peak exceeded full scale, the whole clip was scaled by `gain`: divide by it "
    "to get the level back, as run_classification.py does. `clipped_share` is the share of samples that clipping "
    "would have cut instead. Every clip has the length of its original."
)
_SEED_TEXT = (
    "The result for a clip depends only on the seed, its `track_id`, the number of the copy and the transforms; the "
    "seed that follows from them is in `seed`. The same command makes the same files, on any number of processes and "
    "machines with the same versions."
)
_TRAIN_TEXT = (
    "Copies are in the split of their originals, {protocol}. Never train on a copy whose `parent_id` is a validation "
    "or test track."
)
_ORIGINALS_TEXT = (
    "The originals are in this dataset as well (origin `real`): train on it without `real`, which would count "
    "them twice."
)
_OTHER_SPLITS_TEXT = (
    "Training takes only the split train. To test on copies, make a dataset without it (`--splits test`): "
    "`--eval_datasets` takes all clips of a dataset."
)
_TEST_TEXT = (
    "This is for evaluation: never train on it. `--eval_datasets` gives one score over all its clips{originals}."
)
_KINDS_TEXT = (
    "Every corruption is a configuration, {first} for instance, and the same for everybody. For a score of "
    "each, give run_classification.py `--corruptions` with the file that this dataset was made from: it makes the "
    "same clips. Report a model that was trained on one of these kinds apart from one that was not."
)
_LICENCE_TEXT = (
    "The copies contain the music of the original dataset and have its licence and its restrictions; none is added "
    "or removed here.{gtzan} Recordings mixed into the music bring their own licence."
)
_GTZAN_TEXT = " GTZAN states none: its clips are excerpts of published recordings, usable for research at most."


def describe_augmented(
    plan: CopyPlan, shards: Shards, config: Mapping, source: Mapping[str, Any], transforms_text: str | None, name: str
) -> str:
    """Return the card of the dataset in `shards`, all of which are there.

    Args:
        config: of the folder.
        source: options that give the real clips and their split.
        transforms_text: what the transforms are, in words.
        name: what `load_dataset` takes.
    """
    tables = {split: shards.read(_COLUMNS, split) for split in plan.shards_per_split}
    is_benchmark = any(isinstance(copy.transform, Corruption) for copy in plan.copies)
    copied = pa.concat_tables(tables.values())
    what = "Corrupted" if is_benchmark else "Noisy"
    own_words = f"{transforms_text.strip()} " if transforms_text else ""
    texts = {
        "Use": _use_text(plan, config, is_benchmark),
        "Columns": _COLUMN_TEXT,
        "Seeds": _SEED_TEXT,
        "Licence": _LICENCE_TEXT.format(gtzan=_GTZAN_TEXT if is_gtzan(config["dataset"], config["protocol"]) else ""),
    }
    description = DatasetDescription(
        title=f"{what} copies of {config['dataset']} ({config['augmentation']})",
        summary=f"{own_words}{len(copied)} clips, made from {config['clips']} clips of {config['dataset']}.",
        settings={**_config_facts(config), **_measured_facts(plan, copied)},
        counts=_count_corruptions(tables) if is_benchmark else _count_genres(genre_names(plan.clips), tables),
        sections=[(heading, Markdown(text)) for heading, text in texts.items()],
        tags=["augmented", "music-genre-classification"],
        configs=_configurations(plan, config["splits"], is_benchmark),
    )
    return dataset_card(description, _use(config, source, name), name)


def _use(config: Mapping, source: Mapping[str, Any], name: str) -> Use:
    if "train" not in config["splits"]:
        return use_for_evaluation(name)
    return use_for_training(name, source, with_real=not config["include_original"])


def _use_text(plan: CopyPlan, config: Mapping, is_benchmark: bool) -> str:
    originals = config["include_original"]
    if "train" in config["splits"]:
        texts = [_TRAIN_TEXT.format(protocol=f"protocol {config['protocol']['name']}")]
        texts += [_ORIGINALS_TEXT] if originals else []
        texts += [_OTHER_SPLITS_TEXT] if len(config["splits"]) > 1 else []
    else:
        texts = [_TEST_TEXT.format(originals=", the originals among them" if originals else "")]
    if is_benchmark:
        texts.append(_KINDS_TEXT.format(first=next(copy.name for copy in plan.copies if copy.name)))
    return "\n\n".join(texts)


def _config_facts(config: Mapping) -> dict[str, str]:
    known = {key: value for key, value in config.items() if value is not None and key not in ("protocol", "versions")}
    protocol = [f"{key} {value}" for key, value in config["protocol"].items() if value is not None]
    facts = {
        "split protocol": ", ".join(protocol).removeprefix("name "),
        **{key: _text(value) for key, value in known.items()},
    }
    return {**facts, **{f"{package} version": version for package, version in config["versions"].items()}}


def _text(value) -> str:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _measured_facts(plan: CopyPlan, rows: pa.Table) -> dict[str, str]:
    copies = rows.filter(pa.compute.equal(rows["origin"], "noisy"))
    lowered = np.count_nonzero(copies["gain"].to_numpy() < 1)
    facts = {
        "copies lowered to keep their peaks": str(lowered),
        "copies that the transforms leave as they are": str(count_unchanged(copies)),
    }
    snr_db = copies["measured_snr_db"].drop_null().to_numpy()
    if snr_db.size:
        facts["measured SNR (dB): lowest, mean, highest"] = " ".join(
            f"{value:.2f}" for value in (snr_db.min(), snr_db.mean(), snr_db.max())
        )
    return facts


def count_unchanged(copies: pa.Table) -> int:
    """Return the number of copies to which nothing was applied, by their column `transforms`."""
    return sum(text == "[]" for text in copies["transforms"].to_pylist())


def _count_genres(genres: list[str], tables: Mapping[str, pa.Table]) -> list[dict]:
    counts = {split: np.bincount(table["label"].to_numpy(), minlength=len(genres)) for split, table in tables.items()}
    rows = [{"genre": g, **{split: int(c[i]) for split, c in counts.items()}} for i, g in enumerate(genres)]
    return [*rows, {"genre": "all genres", **{split: int(c.sum()) for split, c in counts.items()}}]


def _count_corruptions(tables: Mapping[str, pa.Table]) -> list[dict]:
    rows = []
    for split, table in tables.items():
        snr_db = table["measured_snr_db"].drop_null().to_numpy()
        rows.append({"split": split, "clips": len(table), "SNR (dB)": f"{snr_db.mean():.2f}" if snr_db.size else ""})
    return rows


def _configurations(plan: CopyPlan, splits: list[str], is_benchmark: bool) -> list[dict]:
    """Return where the files of each configuration are: for a benchmark one per corruption, and all together."""
    if not is_benchmark:
        return [_configuration("default", {split: f"data/{split}-*" for split in plan.shards_per_split})]
    configurations = [_configuration("all", {split: f"data/{split}_*" for split in splits}) | {"default": True}]
    for copy in plan.copies:
        files = {split: f"data/{copy.name_split(split)}-*" for split in splits}
        configurations.append(_configuration(copy.name or "clean", files))
    return configurations


def _configuration(name: str, files: Mapping[str, str]) -> dict:
    return {"config_name": name, "data_files": [{"split": s, "path": path} for s, path in files.items()]}
