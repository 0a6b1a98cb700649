"""The clip table: any source of clips as one `datasets.Dataset` with the same columns.

| column          | type                                                                        |
|-----------------|-----------------------------------------------------------------------------|
| `audio`         | Audio(decode=False): bytes and path of the file as it came                  |
| `label`         | ClassLabel: genres in one fixed order                                       |
| `track_id`      | string, unique, the same on every machine                                   |
| `origin`        | string: real, noisy, synthetic                                              |
| `parent_id`     | string or null: the real track that the clip was made from                  |
| `parent_sha256` | string or null: of that track's samples, as `audio.hash_samples`            |
| `split`         | string or null: train, validation or test, where the source has such splits |
| others          | flat columns that the source carries: artist, seed, SNR, prompt ...         |

`track_id` is made from the name of the file where the source has none.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import datasets
import pyarrow.compute

from hf_utils.data.columns import check_reserved, find_audio_column, find_label_column, read_texts
from hf_utils.data.genre_spellings import choose_spellings, number_labels, spelling_key
from hf_utils.data.sources import Source, read_source
from hf_utils.data.split_names import name_splits
from hf_utils.data.text_tables import resolve_paths
from hf_utils.data.track_names import name_tracks, number_unnamed, refuse_duplicates
from hf_utils.errors import UserError
from hf_utils.listing import listing_lines

logger = logging.getLogger(__name__)
CLIP_COLUMNS = ("audio", "label", "track_id", "origin", "parent_id", "parent_sha256")
_TEXT = datasets.Value("string")


def genre_names(clips: datasets.Dataset) -> list[str]:
    """Return the genres of a clip table in the order of its labels."""
    return list(clips.features["label"].names)


def label_names(clips: datasets.Dataset) -> list[str]:
    """Return the genre of every clip."""
    genres = genre_names(clips)
    return [genres[label] for label in clips["label"][:]]


def read_column(clips: datasets.Dataset, name: str) -> list:
    """Return a column of a clip table, None for every clip where it has none of that name."""
    return clips[name][:] if name in clips.column_names else [None] * len(clips)


def load_clips(
    source: str,
    *,
    config_name: str | None = None,
    revision: str | None = None,
    audio_column: str | None = None,
    label_column: str | None = None,
    genres: list[str] | None = None,
    token: str | None = None,
) -> datasets.Dataset:
    """Return the clip table of `source`. Nothing is decoded.

    Args:
        source: a Hub id, a folder of genre folders, a CSV, a folder of `save_to_disk` or of Parquet files.
        config_name: of a dataset with several configurations.
        revision: of a dataset on the Hub.
        audio_column: where the source has several, or an unusual name.
        label_column: likewise.
        genres: names and order of the labels; spelling variants are folded into them. Default: the source's own
            names in its own order, or sorted where it has only text.
        token: for private and gated datasets on the Hub.

    Raises:
        UserError: the source or a column is missing or ambiguous, a split has a name that tells nothing of its use, a
            label is unknown, a file is missing, or two clips have the same `track_id`.
    """
    rows = read_source(source, config_name=config_name, revision=revision, token=token)
    facts = rows.facts
    if not len(rows.splits):
        raise UserError(f"{source} holds no clips.")
    audio_column = find_audio_column(rows.features, facts, audio_column, source)
    label_column = find_label_column(rows.features, facts, label_column, source)
    labels = read_texts(facts, label_column, source)
    genres = genres or _order_genres(labels, facts.features[label_column])
    clips, paths, embedded = _read_files(rows, audio_column)
    # The two chosen columns mean that, whatever they are called.
    given = {
        name: read_texts(facts, name, source)
        if name in facts.column_names and name not in (audio_column, label_column)
        else [None] * len(clips)
        for name in ("track_id", "origin", "parent_id", "parent_sha256", "file")
    }
    columns = {
        "label": number_labels(labels, genres),
        "track_id": _name_clips(given, paths, embedded, rows.folder, source),
        "origin": [origin or "real" for origin in given["origin"]],
        "parent_id": given["parent_id"],
        "parent_sha256": given["parent_sha256"],
        "split": name_splits(rows.splits, source),
    }
    check_reserved(columns, source)
    features = {**dict.fromkeys(columns, _TEXT), "label": datasets.ClassLabel(names=list(genres))}
    taken = {*columns, audio_column, label_column, "audio", "file"}
    for name in facts.column_names:
        if name not in taken:
            columns[name], features[name] = facts[name][:], facts.features[name]
    if nested := sorted(set(rows.features) - set(facts.column_names) - {audio_column}):
        logger.info("Columns left out, since they are not flat: %s.", ", ".join(nested))
    described = datasets.Dataset.from_dict(columns, datasets.Features(features))
    return datasets.concatenate_datasets([clips, described], axis=1)


def _read_files(rows: Source, audio_column: str) -> tuple[datasets.Dataset, list[str | None], list[bool]]:
    """Return (table with `audio` only, its paths, whether a row holds the file's bytes), relative paths resolved."""
    clips = (rows.facts if audio_column in rows.facts.column_names else rows.files).select_columns(audio_column)
    if audio_column != "audio":
        clips = clips.rename_column(audio_column, "audio")
    clips = clips.cast_column("audio", datasets.Audio(decode=False))
    files = clips.with_format("arrow")[:]["audio"]
    paths = pyarrow.compute.struct_field(files, "path").to_pylist()
    embedded = pyarrow.compute.is_valid(pyarrow.compute.struct_field(files, "bytes")).to_pylist()
    if not any(embedded):
        paths = resolve_paths(paths, rows.folder or Path())
        # Paths first, then the type: giving the Audio type up front makes `datasets` load FFmpeg.
        clips = datasets.Dataset.from_dict({"audio": paths}).cast_column("audio", datasets.Audio(decode=False))
    missing = [
        path for path, held in zip(paths, embedded, strict=True) if not held and not (path and Path(path).is_file())
    ]
    if missing:
        lines = listing_lines([str(path) for path in missing])
        raise UserError("\n".join([f"{len(missing)} of {len(paths)} audio files are missing:", *lines]))
    return clips, paths, embedded


def _order_genres(labels: list[str | None], feature) -> list[str]:
    """Return the genres in the order of a ClassLabel's names, else sorted; of several spellings the most frequent."""
    own = getattr(feature, "names", None)
    chosen = choose_spellings(filter(None, labels))
    if own is None:
        return sorted(chosen)
    spelled = {spelling_key(name): name for name in chosen}
    return list({spelling_key(name): spelled.get(spelling_key(name), name) for name in own}.values())


def _name_clips(
    given: Mapping[str, list[str | None]],
    paths: list[str | None],
    embedded: list[bool],
    folder: Path | None,
    source: str,
) -> list[str]:
    """Return the source's own `track_id`, or names made from its files."""
    # Datasets made from files often keep the original path in `file`, and only a temporary one beside the bytes.
    originals = zip(given["file"], paths, strict=True)
    files = [original or path for original, path in originals] if any(embedded) else paths
    made = number_unnamed(name_tracks(files, folder), embedded)
    track_ids = [own or name for own, name in zip(given["track_id"], made, strict=True)]
    refuse_duplicates(track_ids, source)
    return track_ids
