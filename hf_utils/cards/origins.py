"""What a checkpoint was made from: its trainings, their datasets, and the licences that these state."""

from collections.abc import Mapping

from hf_utils.data.mixing import REAL
from hf_utils.disclosure import show_source


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


def license_text(results: Mapping) -> str:
    """Return which licences the data and the checkpoint state, and what follows; "" where none is stated."""
    stated = stated_licenses(results)
    if not stated:
        return ""
    listing = ", ".join(f"{show_source(name)} ({', '.join(ids)})" for name, ids in stated.items())
    text = f"Licences stated by what the model was made from: {listing}."
    if any(is_non_commercial(license) for ids in stated.values() for license in ids):
        text += " Treat this model as not for commercial use, and say so where you pass it on."
    return text
