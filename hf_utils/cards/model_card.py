"""The card of a checkpoint, from what its run wrote into results.json: metadata for the Hub, and the words.

What needs words is the same for every run: the split protocols, the faults of the data, how to use a checkpoint.
"""

import dataclasses
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from huggingface_hub import EvalResult, ModelCardData

from hf_utils.cards.confidence_part import confidence_part
from hf_utils.cards.markup import Markdown, code_block, escape, one_line, paragraphs, picture, render_template, table
from hf_utils.cards.origins import choose_license, datasets_of, license_text, trainings
from hf_utils.cards.run_tables import data_table, genre_table, order_sets, score_table, settings_table
from hf_utils.data.gtzan import is_gtzan
from hf_utils.disclosure import SHORTENED_NOTE, is_hub_id, show_command, show_source
from hf_utils.files import CARD_FILE, write_atomically

_METRICS = {
    "accuracy": "Accuracy",
    "f1": "Macro F1",
    "precision": "Macro precision",
    "recall": "Macro recall",
    "roc_auc": "Macro one-vs-rest ROC-AUC",
}
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


def _has_origin(origin: str):
    def applies(results: Mapping) -> bool:
        data = results["data"]
        sets = [*data.get("splits", {}).values(), *data.get("evaluation_sets", {}).values()]
        sets += [training["train"] for training in trainings(results)]
        return any(origin in each.get("origins", {}) for each in sets)

    return applies


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
        licenses=license_text(results),
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


def robustness_part(robustness: RobustnessText) -> Markdown:
    """Return the summary, picture and table of the scores under corruptions."""
    shown = picture("Scores under corruptions of the test tracks", robustness.picture)
    return Markdown("\n\n".join([paragraphs(robustness.summary), shown, table(robustness.header, robustness.rows)]))
