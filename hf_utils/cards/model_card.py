"""The card of a checkpoint, from what its run wrote into results.json: metadata for the Hub, tables, and the words.

What needs words is the same for every run: the split protocols, the faults of the data, how to use a checkpoint.
"""

import json
import math
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from huggingface_hub import EvalResult, ModelCardData

from hf_utils.cards.markup import Markdown, code_block, escape, one_line, paragraphs, picture, render_template, table
from hf_utils.data.mixing import REAL, parse_mix
from hf_utils.disclosure import is_hub_id, is_secret, show_command, show_source, show_value
from hf_utils.files import CARD_FILE, write_atomically

_METRICS = {
    "accuracy": "Accuracy",
    "f1": "Macro F1",
    "precision": "Macro precision",
    "recall": "Macro recall",
    "roc_auc": "Macro one-vs-rest ROC-AUC",
}
# Options that say where a run lay and how it was kept, not what was trained. The card names the data elsewhere.
_NOT_SETTINGS = re.compile(
    r".*_dir|hub_.*|push_to_hub|logging_.*|report_to|dataloader_.*|num_proc|overwrite|do_.*|predict_path|per_window"
    r"|dataset_name|train_datasets|eval_datasets|model_name_or_path|genres|save_.*|resume_from_checkpoint|run_name"
)
PROTOCOL_TEXTS = {
    "filtered": (
        "The fault-filtered split of GTZAN, made by hand: 443 training, 197 validation and 290 test tracks, without "
        "those that are faulty (Sturm, arXiv 1306.1461); no artist that is known is on two sides. Where a copy of the "
        "dataset lacks tracks, so does the split."
    ),
    "artist_folds": (
        "Fold {fold} (counted from 0) of {num_folds}, stratified by genre, seed {seed}. Tracks of one artist, and "
        "known repetitions, are on one side only; a track of an unknown artist stands alone, so an artist without a "
        "name can still be on two sides. One fold is not the cross-validated score: that pools all of them."
    ),
    "stratified": (
        "80 % training, 10 % validation and 10 % test tracks, drawn per genre with seed {seed}. Tracks of one artist "
        "or album can be on two sides, and a model that knows the artist need not know the genre: expect scores to be "
        "several points too high for music by new artists."
    ),
    "provided": (
        "The splits that came with the dataset. Nothing is known here of how they were drawn; if artists are on two "
        "sides, scores are too high for music by new artists."
    ),
}


def is_gtzan(results: Mapping) -> bool:
    """Whether the run's data is GTZAN, as far as its name and protocol tell."""
    return results["protocol"]["name"] == "filtered" or "gtzan" in str(results["config"].get("dataset_name")).lower()


def _has_origin(origin: str):
    def applies(results: Mapping) -> bool:
        sets = [*results["data"].get("splits", {}).values(), *results["data"].get("evaluation_sets", {}).values()]
        return any(origin in each.get("origins", {}) for each in sets)

    return applies


# (whether it applies to a run's results, Markdown)
CAVEATS = (
    (
        lambda results: True,
        "No track, source track, known repetition or identical recording of an evaluated set was in training: the run "
        "checks this and would not have started.",
    ),
    (
        is_gtzan,
        "GTZAN's recordings were collected without their owners' leave, and it states no licence; the weights may not "
        "be free of that.",
    ),
    (
        is_gtzan,
        "GTZAN has faults that no split cures: mislabelled and contentious tracks, repeated and distorted recordings, "
        "35 of 100 reggae tracks by one artist (Sturm, arXiv 1306.1461). Its genres are those of one collection, with "
        "one label per track.",
    ),
    (
        _has_origin("synthetic"),
        "Part of the data is generated music. MusicGen's weights are CC BY-NC 4.0: treat what it made, and this "
        "model, as not for commercial use. Other generators have their own licences, named on their dataset's card.",
    ),
    (
        _has_origin("noisy"),
        "Part of the data is altered copies of real tracks; they carry the licence of those tracks.",
    ),
)
USAGE = """from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline

classify = pipeline("audio-classification", model={model}, top_k=None{trust})
print(classify({{"raw": samples, "sampling_rate": sample_rate}}))   # mono float32, one window long

feature_extractor = AutoFeatureExtractor.from_pretrained({model}{trust})
model = AutoModelForAudioClassification.from_pretrained({model}{trust})
inputs = feature_extractor(samples, sampling_rate=feature_extractor.sampling_rate, return_tensors="pt")
probabilities = model(**inputs).logits.softmax(-1)                   # samples at that rate, one window long"""


def write_model_card(
    output_dir: str | os.PathLike,
    results: Mapping,
    *,
    command: str,
    base_model: str | None = None,
) -> None:
    """Write `README.md` for the checkpoint in `output_dir`, with metadata that the Hub understands.

    Args:
        results: what `run_results.write_results` returned. Its `robustness` is a list of rows, or a mapping with any
            of `rows`, `summary` (text) and `picture` (the name of a file beside the card).
        command: the command line of the run; secrets, and the folders of absolute paths, are left out.
        base_model: checkpoint that the run started from, if not the configuration's `model_name_or_path`.
    """
    output_dir = Path(output_dir)
    config = results["config"]
    base_model = base_model or config.get("model_name_or_path", "a model")
    datasets = _trained_on(config)
    card_data = ModelCardData(
        library_name="transformers",
        pipeline_tag="audio-classification",
        tags=["audio", "music", "music-genre-classification", *(["demo"] if results["demo"] else [])],
        base_model=base_model if is_hub_id(base_model) else None,
        datasets=[name for name in datasets if is_hub_id(name)] or None,
        metrics=["accuracy", "f1", "roc_auc"],
        model_name=one_line(output_dir.resolve().name),
        eval_results=_eval_results(results) or None,
    )
    body = _card_body(output_dir, results, base_model, datasets, command)
    write_atomically(output_dir / CARD_FILE, f"---\n{card_data.to_yaml()}\n---\n\n{body}")


def _trained_on(config):
    """Return the datasets of the training mix; `real` is the training split of `dataset_name`."""
    dataset = config.get("dataset_name", "")
    mix = parse_mix(config.get("train_datasets") or [REAL])
    return list(dict.fromkeys(dataset if name == REAL else name for name, _ in mix))


def _eval_results(results):
    config = results["config"]
    sources = dict(item.partition("=")[::2] for item in config.get("eval_datasets") or [])
    found = []
    for name, evaluation in order_sets(results["evaluations"]).items():
        source = sources.get(name, config.get("dataset_name", "dataset"))
        shown = one_line(f"{show_source(source)}, {name}")
        for metric, metric_name in _METRICS.items():
            if evaluation["track"][metric] is not None:
                found.append(
                    EvalResult(
                        task_type="audio-classification",
                        task_name="Audio Classification",
                        dataset_type=source if is_hub_id(source) else re.sub(r"[^\w.-]+", "-", show_source(source)),
                        dataset_name=f"{shown} (demo data, not a result)" if results["demo"] else shown,
                        dataset_split=one_line(name),
                        dataset_args={"protocol": results["protocol"]["name"]},
                        metric_type=metric,
                        metric_name=f"{metric_name} per track",
                        metric_value=evaluation["track"][metric],
                    )
                )
    return found


def _card_body(output_dir, results, base_model, datasets, command):
    config, evaluations = results["config"], order_sets(results["evaluations"])
    protocol = results["protocol"]
    dataset = " + ".join(map(show_source, datasets))
    main_set = "test" if "test" in evaluations else next(iter(evaluations), None)
    remote_code = "auto_map" in _read_model_config(output_dir)
    model_id = config.get("hub_model_id") or "path/to/this/folder"
    values = {"model": json.dumps(model_id), "trust": ", trust_remote_code=True" if remote_code else ""}
    shown_command = show_command(command)
    return render_template(
        "model_card.md",
        title=f"{PurePosixPath(show_source(base_model)).name} for music genres ({dataset})",
        demo=results["demo"],
        base=show_source(base_model),
        dataset=dataset,
        genres=results["genres"],
        window_seconds=config.get("window_seconds") or 10,
        sets=list(evaluations),
        main_set=main_set,
        selected="validation" in evaluations and config.get("load_best_model_at_end", True),
        training=(results.get("training") or {}).get("summary", ""),
        scores=score_table(evaluations),
        pictures=[picture(f"Confusion matrix of {name}", entry["confusion"]) for name, entry in evaluations.items()],
        genre_scores=genre_table(evaluations[main_set], results["genres"]) if main_set else "",
        robustness=robustness_part(results.get("robustness", [])),
        protocol=protocol["name"],
        protocol_text=protocol_text(protocol),
        data=data_table(results["data"]),
        caveats=[Markdown(text) for applies, text in CAVEATS if applies(results)],
        usage=code_block(USAGE.format(**values), "python"),
        predict=code_block(
            shlex.join(["python", "run_classification.py", "--model_name_or_path", model_id])
            + " --do_predict --predict_path song.mp3",
            "bash",
        ),
        remote_code=remote_code,
        command=code_block(shown_command, "bash"),
        command_note="Secrets and the folders of absolute paths are left out." if shown_command != command else "",
        settings=settings_table(results),
        versions=table(["package", "version"], list(results["versions"].items())),
    )


def _read_model_config(output_dir):
    path = output_dir / "config.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def protocol_text(protocol: Mapping) -> Markdown:
    """Return how a split, `results["protocol"]`, was drawn, and what may be concluded from its scores."""
    return Markdown(PROTOCOL_TEXTS[protocol["name"]].format_map({key: escape(v) for key, v in protocol.items()}))


def order_sets(sets: Mapping[str, Mapping]) -> dict[str, Mapping]:
    """Return `sets` with training, validation and test first, then the others as they come."""
    first = [name for name in ("train", "validation", "test") if name in sets]
    return {name: sets[name] for name in [*first, *(name for name in sets if name not in first)]}


def score_table(evaluations: Mapping[str, Mapping]) -> Markdown:
    """Return a row per evaluated set: counts, accuracy by every way of counting, and the other scores per track."""
    header = ["set", "tracks", "windows", "accuracy", "hard vote", "per window"]
    header += ["precision", "recall", "F1", "ROC-AUC", "log-loss", "ECE"]
    rows = []
    for name, entry in evaluations.items():
        track = entry["track"]
        error = math.sqrt(track["accuracy"] * (1 - track["accuracy"]) / entry["num_tracks"])
        accuracy = f"{show_number(track['accuracy'])} ± {show_number(error)}"
        others = [entry["track_hard"]["accuracy"], entry["window"]["accuracy"]]
        others += [track[score] for score in ("precision", "recall", "f1", "roc_auc", "log_loss", "ece")]
        rows.append([name, str(entry["num_tracks"]), str(entry["num_windows"]), accuracy, *map(show_number, others)])
    return table(header, rows)


def genre_table(entry: Mapping, genres: Sequence[str]) -> Markdown:
    """Return a row per genre of one evaluated set, per track."""
    rows = []
    for genre in genres:
        scores = [entry["track"][f"{score}_{genre}"] for score in ("precision", "recall", "f1", "roc_auc")]
        rows.append([genre, f"{entry['track'][f'support_{genre}']:.0f}", *map(show_number, scores)])
    return table(["genre", "tracks", "precision", "recall", "F1", "ROC-AUC"], rows)


def data_table(data: Mapping) -> Markdown:
    """Return a row per split and evaluation set with its tracks by origin, and what the training mix left out."""
    sets = order_sets(data.get("splits", {}) | data.get("evaluation_sets", {}))
    origins = sorted({origin for each in sets.values() for origin in each["origins"]})
    rows = [[name, str(e["tracks"]), *(str(e["origins"].get(o, 0)) for o in origins)] for name, e in sets.items()]
    parts = [table(["split or set", "tracks", *origins], rows)]
    if sources := data.get("train_mix", {}).get("sources"):
        mix = [{"source": show_source(name), **facts} for name, facts in sources.items()]
        parts += ["The training mix, by source:", _mapping_table(mix)]
    return Markdown("\n\n".join(parts))


def settings_table(results: Mapping) -> Markdown:
    """Return what was trained, how long, and every option that bears on it; no secrets, no folders of a machine."""
    facts = [*_flatten(results["model"]), *_flatten(results["seconds"], " (seconds)"), ("seed", str(results["seed"]))]
    hidden = {"seed", *_unused_lengths(results["config"])}
    options = [
        (name, show_value(value))
        for name, value in sorted(results["config"].items())
        if value not in (None, "", []) and not (_NOT_SETTINGS.fullmatch(name) or is_secret(name) or name in hidden)
    ]
    return table(["setting", "value"], [*facts, *options])


def _unused_lengths(config: Mapping) -> set[str]:
    """Return which options did not decide how long training was: steps win over epochs, a stage's over the run's."""
    unused = {"max_steps", "num_train_epochs"}
    for changes in config.get("stages") or [{}]:
        counted = "max_steps" if {**config, **changes}.get("max_steps", -1) > 0 else "num_train_epochs"
        unused -= {counted} - changes.keys()
    return unused


def robustness_part(robustness: Mapping | Sequence[Mapping]) -> Markdown:
    """Return the summary, picture and table of `results["robustness"]`, or the table alone of a list of rows."""
    if not isinstance(robustness, Mapping):
        robustness = {"rows": robustness}
    parts = []
    if "summary" in robustness:
        parts.append(paragraphs(robustness["summary"]))
    if "picture" in robustness:
        parts.append(picture("Scores under corruptions of the test tracks", robustness["picture"]))
    if rows := robustness.get("rows"):
        parts.append(_mapping_table(rows))
    return Markdown("\n\n".join(parts))


def show_number(value: float | None) -> str:
    """Return a score with three decimals, n/a where it is undefined."""
    return "n/a" if value is None else f"{value:.3f}"


def _mapping_table(rows: Sequence[Mapping]) -> Markdown:
    header = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_show_cell(row.get(key, "")) for key in header] for row in rows]
    return table([str(key).replace("_", " ") for key in header], cells)


def _flatten(facts: Mapping, unit: str = "", prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in facts.items():
        shown = f"{prefix}{str(name).replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _flatten(value, unit, f"{shown}, ")
        else:
            yield shown + unit, f"{value:.4g}" if isinstance(value, float) else show_value(value)


def _show_cell(value) -> str:
    return show_number(value) if value is None or isinstance(value, float) else str(value)


def show_corruption(name: str) -> str:
    """Return a kind or severity of configs/corruptions.yaml as people write it: 20_db is 20 dB."""
    return name.replace("_", " ").replace(" db", " dB")
