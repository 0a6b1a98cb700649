"""Hand-made runs: results.json and predictions as run_classification.py writes them."""

import json

import numpy as np

from hf_utils.files import write_csv, write_predictions

GENRES = ["blues", "jazz", "rock"]
TRACKS = [f"{GENRES[index % 3]}.{index:05d}" for index in range(60)]


def draw_probabilities(num_tracks, accuracy, seed, genres=GENRES, labels=None):
    generator = np.random.default_rng(seed)
    labels = np.arange(num_tracks) % len(genres) if labels is None else labels
    wrong = (labels + generator.integers(1, len(genres), num_tracks)) % len(genres)
    chosen = np.where(generator.random(num_tracks) < accuracy, labels, wrong)
    probabilities = generator.dirichlet(np.ones(len(genres)), num_tracks) + 1.5 * np.eye(len(genres))[chosen]
    return labels, probabilities / probabilities.sum(axis=1, keepdims=True)


def write_run(
    folder,
    model="ast",
    arm="clean",
    seed=1,
    *,
    accuracy=0.7,
    tracks=TRACKS,
    genres=GENRES,
    labels=None,
    probabilities=None,
    protocol=None,
    demo=False,
    corrupted=None,
    complete=True,
    data=None,
    training="unsaid",
    facts=None,
    **config,
):
    """A run's folder; `corrupted` is {(kind, severity, snr_db): accuracy, or chosen genres (N,)}.

    `facts` are further entries of results.json.
    """
    draw = int.from_bytes(f"{model}{arm}{seed}".encode(), "big") % 2**32
    if probabilities is None:
        labels, probabilities = draw_probabilities(len(tracks), accuracy, draw, genres, labels)
    folder.mkdir(parents=True)
    write_predictions(folder / "predictions_test.csv", tracks, labels, probabilities, genres)
    track = {"accuracy": float((probabilities.argmax(axis=1) == labels).mean())}
    results = {
        "complete": complete,
        "protocol": protocol or {"name": "stratified", "seed": 0, "num_folds": None, "fold": None},
        "genres": genres,
        "demo": demo,
        "seed": seed,
        "config": {"run_name": f"{model}/{arm}", "seed": seed, "model_name_or_path": "x/y", **config},
        "evaluations": {"test": {"num_tracks": len(tracks), "track": track}},
    }
    if data is not None:
        results["data"] = data
    if training != "unsaid":
        results["training"] = training
    if corrupted is not None:
        results["robustness"] = write_corrupted(folder, corrupted, tracks, labels, genres, draw)
        results["robustness_benchmark"] = "genre-c 1"
    (folder / "results.json").write_text(json.dumps(results | (facts or {})))
    return folder


def write_corrupted(folder, corrupted, tracks, labels, genres, draw):
    """Write robustness_predictions.csv; return the rows of results.json."""
    rows, predictions = (
        [],
        [["clean", track, genres[label], genres[label], 1.0] for track, label in zip(tracks, labels, strict=True)],
    )
    for (kind, severity, snr_db), chosen in corrupted.items():
        if np.ndim(chosen) == 0:
            chosen = draw_probabilities(len(tracks), chosen, draw + len(rows), genres, labels)[1].argmax(axis=1)
        scores = {"accuracy": float((chosen == labels).mean()), "roc_auc": 0.9, "f1": 0.5, "ece": 0.01 * len(rows)}
        rows.append({"kind": kind, "severity": severity, "snr_db": snr_db, "digest": f"{kind}{severity}", **scores})
        predictions += [
            [f"{kind}_{severity}", track, genres[label], genres[choice], 0.9]
            for track, label, choice in zip(tracks, labels, chosen, strict=True)
        ]
    header = ["corruption", "track_id", "label", "prediction", "probability"]
    write_csv(folder / "robustness_predictions.csv", header, predictions)
    return rows


def write_study(root, models=("ast", "cnn"), arms=("clean", "noisy"), seeds=(1, 2), **options):
    for model in models:
        for arm in arms:
            for seed in seeds:
                write_run(root / model / arm / f"seed-{seed}", model, arm, seed, **options)
    return root
