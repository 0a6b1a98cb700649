"""The card of a checkpoint, from what its run wrote into results.json: metadata for the Hub, tables, and the words.

What needs words is the same for every run: the split protocols, the faults of the data, how to use a checkpoint.
"""

import dataclasses
import json
import math
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from hf_utils.arguments.options import collect_defaults
from hf_utils.arguments.precedence import override
from hf_utils.arguments.run_arguments import RUN_CLASSES
from hf_utils.arguments.run_options import differing_options
from hf_utils.cards.confidence_part import confidence_part
from hf_utils.cards.markup import Markdown, code_block, escape, one_line, paragraphs, picture, render_template, table
from hf_utils.data.gtzan import is_gtzan
from hf_utils.data.mixing import REAL
from hf_utils.disclosure import SHORTENED_NOTE, is_hub_id, is_secret, show_command, show_source, show_value
from hf_utils.files import CARD_FILE, write_atomically
from hf_utils.results.display import show_score

_METRICS = {
    "accuracy": "Accuracy",
    "f1": "Macro F1",
    "precision": "Macro precision",
    "recall": "Macro recall",
    "roc_auc": "Macro one-vs-rest ROC-AUC",
}
_SCORES_OF_TRACKS = ("precision", "recall", "f1", "roc_auc", "log_loss", "ece")  # beside accuracy, in this order
# Options that say where a run lay and how it was kept, not what was trained. The card names the data elsewhere.
_NOT_SETTINGS = re.compile(
    r".*_dir|hub_.*|push_to_hub|logging_.*|report_to|dataloader_.*|num_proc|overwrite|do_.*|predict_path|per_window|unknown_below"
    r"|dataset_name|train_datasets|eval_datasets|model_name_or_path|model_revision|genres|save_.*|run_name|seed"
    r"|resume_from_checkpoint|window_seconds|eval_hop_seconds|max_steps|num_train_epochs|mistakes"
)
# Shown whatever they are; other options only where they differ from their default.
_ALWAYS_SHOWN = ("learning_rate", "per_device_train_batch_size")
PROTOCOL_TEXTS = {
    "filtered": (
        "The fault-filtered split of GTZAN, made by hand: 443 training, 197 validation and 290 test tracks, without "
        "those that are faulty (Sturm, arXiv 1306.1461); no artist that is known is on two sides. Where a copy of the "
        "dataset lacks tracks, so does the split."
    ),
    "artist_folds": (
        "Fold {fold} (counted from 0) of {num_folds}, stratified by genre, seed {seed}. Tracks of one artist, and "
        "known repetitions, are on one side only; a track of an unknown artist is its own group, so an artist "
        "without a name can still be on two sides. One fold is not the cross-validated score: that pools all of them."
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


def _is_gtzan(results: Mapping) -> bool:
    return is_gtzan(str(results["config"].get("dataset_name")), results["protocol"])


def trainings(results: Mapping) -> list[Mapping]:
    """Return what the model learned from, in order: `results["earlier"]`, and this run's own training in that form."""
    data = results["data"]
    own = {
        "checkpoint": results["config"].get("output_dir", "this run"),
        "dataset": data.get("dataset", ""),
        "train": data.get("splits", {}).get("train", {}),
        "sources": data.get("train_mix", {}).get("sources", {}),
        "licenses": results.get("licenses", {}),
    }
    return [*results.get("earlier", ()), own]


def datasets_of(training: Mapping) -> list[str]:
    """Return the names of the datasets in one of `trainings`; `real` is the training split of its dataset."""
    names = training["sources"] or {REAL: {}}
    return [training["dataset"] if name == REAL else name for name in names]


def _has_origin(origin: str):
    def applies(results: Mapping) -> bool:
        data = results["data"]
        sets = [*data.get("splits", {}).values(), *data.get("evaluation_sets", {}).values()]
        sets += [training["train"] for training in trainings(results)]
        return any(origin in each.get("origins", {}) for each in sets)

    return applies


def stated_licenses(results: Mapping) -> dict[str, list[str]]:
    """Return {dataset or checkpoint: the licences that its card states}, of all trainings, without those of none.

    The card of an earlier training only repeats what its own data states.
    """
    stated: dict[str, list[str]] = {}
    made_here = {training["checkpoint"] for training in results.get("earlier", ()) if training["licenses"]}
    for training in trainings(results):
        stated |= {name: list(ids) for name, ids in training["licenses"].items() if ids and name not in made_here}
    return stated


def choose_license(results: Mapping) -> str | None:
    """Return the licence that the card may state for the weights; None if nothing follows from `stated_licenses`.

    One that forbids commercial use is handed on ("other" where there are several). Any other is, if it is the only
    one, and every dataset that was trained on states it.
    """
    stated = stated_licenses(results)
    ids = {license for each in stated.values() for license in each}
    restricted = {license for license in ids if is_non_commercial(license)}
    if restricted:
        return restricted.pop() if len(restricted) == 1 else "other"
    names = {name for training in trainings(results) for name in datasets_of(training)}
    return ids.pop() if len(ids) == 1 and names <= stated.keys() else None


def is_non_commercial(license: str) -> bool:
    """Return whether a licence identifier of the Hub is one of those that forbid commercial use, such as CC BY-NC."""
    return "nc" in license.lower().split("-")


def _knew_tracks(results: Mapping) -> bool:
    return bool(results["data"].get("seen_tracks"))


# (whether it applies to a run's results, Markdown)
CAVEATS = (
    (
        _knew_tracks,
        "The weights that training started from knew tracks of an evaluated set (`--allow_seen_tracks`): its scores "
        "are too good. `data.seen_tracks` in results.json counts them.",
    ),
    (
        lambda results: not _knew_tracks(results),
        "No track, source track, known repetition or identical recording of an evaluated set was in training: the run "
        "checks this and would not have started.",
    ),
    (
        _is_gtzan,
        "GTZAN's recordings were collected without their owners' leave, and it states no licence; the weights may not "
        "be free of that.",
    ),
    (
        _is_gtzan,
        "GTZAN has faults that no split cures: mislabelled and contentious tracks, repeated and distorted recordings, "
        "35 of 100 reggae tracks by one artist (Sturm, arXiv 1306.1461). Its genres are those of one collection, with "
        "one label per track.",
    ),
    (
        _has_origin("synthetic"),
        "Part of the data is generated music: its generator's licence binds what it made, and may bind this model. "
        "MusicGen's weights are CC BY-NC 4.0, so what it made is not for commercial use.",
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


@dataclasses.dataclass(frozen=True)
class RobustnessText:
    """What a card shows of the scores under corruptions; `picture` is the name of a file beside the card."""

    summary: str
    picture: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def write_model_card(
    output_dir: str | os.PathLike, results: Mapping, *, command: str, robustness: RobustnessText | None = None
) -> None:
    """Write `README.md` for the checkpoint in `output_dir`, with metadata that the Hub understands.

    Args:
        results: what `run_results.write_results` returned.
        command: the command line of the run; secrets are left out, and absolute paths shortened.
    """
    output_dir = Path(output_dir)
    base_model = results["config"].get("model_name_or_path", "a model")
    datasets = dict.fromkeys(name for training in trainings(results) for name in datasets_of(training))
    card_data = ModelCardData(
        license=choose_license(results),
        library_name="transformers",
        pipeline_tag="audio-classification",
        tags=["audio", "music", "music-genre-classification", *(["demo"] if results["demo"] else [])],
        base_model=base_model if is_hub_id(base_model) else None,
        datasets=[name for name in datasets if is_hub_id(name)] or None,
        metrics=["accuracy", "f1", "roc_auc"],
        model_name=one_line(output_dir.resolve().name),
        eval_results=_eval_results(results) or None,
    )
    body = _card_body(output_dir, results, command, robustness)
    write_atomically(output_dir / CARD_FILE, f"---\n{card_data.to_yaml()}\n---\n\n{body}")


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
                        metric_value=round(evaluation["track"][metric], 4),
                    )
                )
    return found


def _card_body(output_dir, results, command, robustness):
    config, evaluations = results["config"], order_sets(results["evaluations"])
    base, protocol = show_source(config.get("model_name_or_path", "a model")), results["protocol"]
    dataset = ", then ".join(" + ".join(map(show_source, datasets_of(each))) for each in trainings(results))
    stage = _stage_text(output_dir, config)
    main_set = "test" if "test" in evaluations else next(iter(evaluations), None)
    remote_code = "auto_map" in _read_model_config(output_dir)
    model_id = config.get("hub_model_id") or "path/to/this/folder"
    values = {"model": json.dumps(model_id), "trust": ", trust_remote_code=True" if remote_code else ""}
    shown_command = show_command(command)
    return render_template(
        "model_card.md",
        title=f"{PurePosixPath(base).name} for music genres ({dataset}){f', {stage}' if stage else ''}",
        demo=results["demo"],
        base=base,
        dataset=dataset,
        genres=results["genres"],
        windows=_windows_text(results["model"]),
        stage=stage,
        sets=list(evaluations),
        main_set=main_set,
        selected="validation" in evaluations and config.get("load_best_model_at_end", True),
        selected_on=_selection_text(results),
        training=(results.get("training") or {}).get("summary", ""),
        scores=score_table(evaluations),
        pictures=[picture(f"Confusion matrix of {name}", entry["confusion"]) for name, entry in evaluations.items()],
        genre_scores=genre_table(evaluations[main_set], results["genres"]) if main_set else "",
        calibrated=any("track_calibrated" in entry for entry in evaluations.values()),
        confidence=confidence_part(results),
        robustness=robustness_part(robustness) if robustness else "",
        protocol=protocol["name"],
        protocol_text=protocol_text(results),
        data=data_table(results),
        licenses=_license_text(results),
        caveats=[Markdown(text) for applies, text in CAVEATS if applies(results)],
        usage=code_block(USAGE.format(**values), "python"),
        predict=code_block(
            shlex.join(["python", "run_classification.py", "--model_name_or_path", model_id])
            + " --do_predict --predict_path song.mp3",
            "bash",
        ),
        remote_code=remote_code,
        command=code_block(shown_command, "bash"),
        command_note=SHORTENED_NOTE if shown_command != command else "",
        settings=settings_table(results),
        versions=table(["package", "version"], list(results["versions"].items())),
    )


def _stage_text(output_dir: Path, config: Mapping) -> str:
    """Return which stage of a run made the checkpoint; "" for the last one, and for a run without stages."""
    if not config.get("stages") or output_dir.resolve() == Path(config["output_dir"]).resolve():
        return ""
    return f"{output_dir.name.replace('-', ' ')} of {len(config['stages'])}"


def _windows_text(model: Mapping) -> str:
    """Return how long the model's windows are, and how those that cover a track lie."""
    window, hop = (model[f"{name}_samples"] / model["sample_rate"] for name in ("window", "hop"))
    lie = f"overlapping windows, one every {hop:.4g} s," if hop < window else "back-to-back windows"
    return (
        f"It hears windows of {window:.4g} s; the genre of a track is the mean of the probabilities of {lie} that "
        "cover it."
    )


def _selection_text(results: Mapping) -> str:
    """Return why the score that chose the checkpoint can differ from that of the table; "" where it cannot."""
    model = results["model"]
    hop = model.get("validation_hop_samples")  # of the last stage; the options are those of the whole run
    if hop in (None, model["hop_samples"]):
        return ""
    seconds = hop / model["sample_rate"]
    return f"While training it was measured on windows one every {seconds:.4g} s; the table has all of them."


def _license_text(results: Mapping) -> str:
    """Return which licences the data and the checkpoint state, and what follows; "" where none is stated."""
    stated = stated_licenses(results)
    if not stated:
        return ""
    listing = ", ".join(f"{show_source(name)} ({', '.join(ids)})" for name, ids in stated.items())
    text = f"Licences stated by what the model was made from: {listing}."
    if any(is_non_commercial(license) for ids in stated.values() for license in ids):
        text += " Treat this model as not for commercial use, and say so where you pass it on."
    return text


def _read_model_config(output_dir):
    path = output_dir / "config.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def protocol_text(results: Mapping) -> Markdown:
    """Return how the split of a run was drawn, and what may be concluded from its scores."""
    protocol = results["protocol"]
    text = PROTOCOL_TEXTS[protocol["name"]].format_map({key: escape(value) for key, value in protocol.items()})
    for name, genres in results["data"].get("lacking_genres", {}).items():
        text += f" **No track of {escape(', '.join(genres))} is in {name}**: its scores leave that out."
    return Markdown(text)


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
        accuracy = f"{show_score(track['accuracy'])} ± {show_score(error)}"
        others = [entry["track_hard"]["accuracy"], entry["window"]["accuracy"]]
        others += [track[score] for score in _SCORES_OF_TRACKS]
        rows.append([name, str(entry["num_tracks"]), str(entry["num_windows"]), accuracy, *map(show_score, others)])
        if calibrated := entry.get("track_calibrated"):
            scores = (show_score(calibrated[score]) for score in _SCORES_OF_TRACKS)
            rows.append([f"{name}, calibrated", "", "", show_score(calibrated["accuracy"]), "", "", *scores])
    return table(header, rows)


def genre_table(entry: Mapping, genres: Sequence[str]) -> Markdown:
    """Return a row per genre of one evaluated set, per track."""
    rows = []
    for genre in genres:
        scores = [entry["track"][f"{score}_{genre}"] for score in ("precision", "recall", "f1", "roc_auc")]
        rows.append([genre, f"{entry['track'][f'support_{genre}']:.0f}", *map(show_score, scores)])
    return table(["genre", "tracks", "precision", "recall", "F1", "ROC-AUC"], rows)


def data_table(results: Mapping) -> Markdown:
    """Return a row per split and evaluation set with its tracks by origin, and what the training mixes left out.

    What the model learned from in earlier trainings comes first.
    """
    data, history = results["data"], trainings(results)
    earlier = {f"train, {PurePosixPath(each['checkpoint']).name}": each["train"] for each in history[:-1]}
    sets = earlier | order_sets(data.get("splits", {}) | data.get("evaluation_sets", {}))
    origins = sorted({origin for each in sets.values() for origin in each["origins"]})
    rows = [[name, str(e["tracks"]), *(str(e["origins"].get(o, 0)) for o in origins)] for name, e in sets.items()]
    parts = [table(["split or set", "tracks", *origins], rows)]
    mix = [
        {"training": PurePosixPath(each["checkpoint"]).name, "source": show_source(name), **counts}
        for each in history
        for name, counts in each["sources"].items()
    ]
    if mix:
        header = list(dict.fromkeys(key for row in mix for key in row))[len(history) == 1 :]
        cells = [[_show_cell(row.get(key, "")) for key in header] for row in mix]
        titles = [{"fraction": "fraction asked for"}.get(key, key.replace("_", " ")) for key in header]
        parts += ["The training mix, by source:", table(titles, cells)]
    return Markdown("\n\n".join(parts))


def _show_cell(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def settings_table(results: Mapping) -> Markdown:
    """Return what was trained, how long, and the options that differ from their defaults; no secrets, no folders."""
    config, model = results["config"], results["model"]
    rate = model["sample_rate"]
    rows = [
        ("checkpoint", show_source(config.get("model_name_or_path", "")) + _at(model.get("revision"))),
        ("class", model["class"]),
        ("parameters", _count_parameters(model)),
        ("sampling rate", f"{rate:,} Hz"),
        ("window", f"{model['window_samples'] / rate:.4g} s ({model['window_samples']:,} samples)"),
        ("step between windows", f"{model['hop_samples'] / rate:.4g} s ({model['hop_samples']:,} samples)"),
        ("seed", str(results["seed"])),
        *_counted_lengths(config),
        *((name, show_value(config[name])) for name in _ALWAYS_SHOWN if name in config),
    ]
    for name, (_, value) in differing_options({**config, **collect_defaults(RUN_CLASSES)}, config).items():
        hidden = name in _ALWAYS_SHOWN or _NOT_SETTINGS.fullmatch(name) or is_secret(name)
        if not hidden and value not in (None, "", []):
            rows.append((name, show_value(value)))
    rows += [(f"time: {name}", _show_seconds(value)) for name, value in results["seconds"].items()]
    return table(["setting", "value"], rows)


def _count_parameters(model: Mapping) -> str:
    total, trainable = (f"{model['parameters'][name]:,}" for name in ("total", "trainable"))
    if "adapters" not in model:
        return f"{total}, of which {trainable} learned"
    summary = model["adapters"]["summary"]
    return f"{total}; {trainable} learned, of the head and of adapters that are merged now. {summary}"


def _at(revision: str | None) -> str:
    return f" at revision {revision}" if revision else ""


def _show_seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _counted_lengths(config: Mapping) -> list[tuple[str, str]]:
    """Return the option that decided how long training was, where it is not one of a stage."""
    counted = []
    for changes in config.get("stages") or [{}]:
        merged = override(config, changes, "in a stage")
        name = "max_steps" if (merged.get("max_steps") or -1) > 0 else "num_train_epochs"
        if name not in changes and name in config:  # a stage's own is shown with the stages
            counted.append((name, show_value(config[name])))
    return list(dict.fromkeys(counted))


def robustness_part(robustness: RobustnessText) -> Markdown:
    """Return the summary, picture and table of the scores under corruptions."""
    shown = picture("Scores under corruptions of the test tracks", robustness.picture)
    return Markdown("\n\n".join([paragraphs(robustness.summary), shown, table(robustness.header, robustness.rows)]))
