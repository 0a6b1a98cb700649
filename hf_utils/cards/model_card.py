"""The card of a checkpoint, from what its run wrote into results.json."""

import json
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from huggingface_hub import EvalResult, ModelCardData

from hf_utils.cards.markup import Markdown, code_block, escape, one_line, picture, render_template, table
from hf_utils.cards.tables import data_table, genre_table, order_sets, robustness_part, score_table, settings_table
from hf_utils.cards.text import CAVEATS, PROTOCOLS, USAGE
from hf_utils.data.mixing import REAL, parse_mix
from hf_utils.disclosure import is_hub_id, show_command, show_source
from hf_utils.files import write_atomically

CARD_FILE = "README.md"
_METRICS = {
    "accuracy": "Accuracy",
    "f1": "Macro F1",
    "precision": "Macro precision",
    "recall": "Macro recall",
    "roc_auc": "Macro one-vs-rest ROC-AUC",
}


def write_model_card(
    output_dir: str | os.PathLike,
    results: Mapping,
    *,
    command: str,
    base_model: str | None = None,
    license: str | None = None,
) -> None:
    """Write `README.md` for the checkpoint in `output_dir`, with metadata that the Hub understands.

    Args:
        results: what `results.write_results` returned. Its `robustness` is a list of rows, or a mapping with any of
            `rows`, `summary` (text) and `picture` (the name of a file beside the card).
        command: the command line of the run; secrets, and the folders of absolute paths, are left out.
        base_model: checkpoint that the run started from, if not the configuration's `model_name_or_path`.
        license: a licence identifier of the Hub; without it the card states none.
    """
    output_dir = Path(output_dir)
    config = results["config"]
    base_model = base_model or config.get("model_name_or_path", "a model")
    datasets = _trained_on(config)
    card_data = ModelCardData(
        license=license,
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
        scores=score_table(evaluations),
        pictures=[picture(f"Confusion matrix of {name}", entry["confusion"]) for name, entry in evaluations.items()],
        genre_scores=genre_table(evaluations[main_set], results["genres"]) if main_set else "",
        robustness=robustness_part(results.get("robustness", [])),
        protocol=protocol["name"],
        protocol_text=Markdown(PROTOCOLS[protocol["name"]].format_map({k: escape(v) for k, v in protocol.items()})),
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
