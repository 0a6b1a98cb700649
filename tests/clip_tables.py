"""Clip tables of the tests, without audio."""

import datasets


def make_clips(track_ids, genres, **columns):
    """Return a clip table without audio: `genres` has one name per clip; labels are numbered in sorted order."""
    names = sorted(set(genres))
    table = {
        "label": [names.index(genre) for genre in genres],
        "track_id": list(track_ids),
        "origin": columns.pop("origin", ["real"] * len(genres)),
        "parent_id": columns.pop("parent_id", [None] * len(genres)),
        "split": columns.pop("split", [None] * len(genres)),
        **columns,
    }
    text = datasets.Value("string")
    features = {name: datasets.ClassLabel(names=names) if name == "label" else text for name in table}
    return datasets.Dataset.from_dict(table, datasets.Features(features))


def sides(clips):
    """Return {track_id: split}."""
    return dict(zip(clips["track_id"], clips["split"], strict=True))


_FEATURES = datasets.Features(
    {
        "label": datasets.ClassLabel(names=["blues", "rock"]),
        **{
            name: datasets.Value("string")
            for name in ("track_id", "origin", "parent_id", "parent_sha256", "sha256", "pcm_path")
        },
        **{name: datasets.Value("int64") for name in ("num_samples", "pcm_offset")},
        "pcm_gain": datasets.Value("float64"),
    }
)


def make_decoded(track_ids, origin="real", parents=None, digests=None, labels=None, parent_digests=None, **provenance):
    """Return a table as `waveforms.decode_clips` gives it, of samples that are nowhere."""
    count = len(track_ids)
    columns = {
        "label": labels or [number % 2 for number in range(count)],
        "track_id": list(track_ids),
        "origin": [origin] * count,
        "parent_id": parents or [None] * count,
        "parent_sha256": parent_digests or [None] * count,
        "sha256": digests or [f"{origin} {name}" for name in track_ids],
        "num_samples": [16000] * count,
        "pcm_path": ["a.pcm"] * count,
        "pcm_offset": [32000 * number for number in range(count)],
        "pcm_gain": [1.0] * count,
    }
    text = datasets.Value("string")
    features = datasets.Features({**_FEATURES, **dict.fromkeys(provenance, text)})
    return datasets.Dataset.from_dict({**columns, **provenance}, features)
