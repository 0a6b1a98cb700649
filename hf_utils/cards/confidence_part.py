"""What a card says of a model's confidence: its temperature, accuracy against coverage, and thresholds."""

from collections.abc import Mapping

from hf_utils.cards.markup import Markdown, escape, table
from hf_utils.results.confidence import show_percent, tell_thresholds
from hf_utils.results.display import show_corruption, show_score

_SHOWN_COVERAGES = ("1", "0.8", "0.6", "0.4", "0.2")


def confidence_part(results: Mapping) -> Markdown:
    """Return the section on confidence; "" where nothing was evaluated."""
    confidence = results.get("confidence")
    if not confidence:
        return Markdown("")
    coverage = (
        "Accuracy of the surest tracks, by the share of tracks that are kept. Tracks under corruptions are the test "
        "tracks, with all severities of a kind taken together."
    )
    sentences = [escape(sentence) for sentence in tell_thresholds(confidence)]
    if any(confidence["thresholds"].values()):
        sentences.append(Markdown("A threshold is chosen on validation, so it is somewhat too good there."))
    parts = ["## Confidence", _tell_temperature(results), coverage, _coverage_table(confidence), *_as_list(sentences)]
    return Markdown("\n\n".join(parts))


def _as_list(sentences: list[Markdown]) -> list[str]:
    return ["\n".join(f"- {sentence}" for sentence in sentences)] if sentences else []


def _tell_temperature(results: Mapping) -> str:
    temperature = results["model"].get("temperature")
    if temperature is None:
        return "No temperature: probabilities are as the model gives them."
    return (
        f"Temperature: {temperature:g}, fitted to the validation tracks of the training (Guo et al. 2017). Logits of "
        "windows are divided by it before the softmax, in `--do_predict` and in this section. A pipeline does not do "
        "that."
    )


def _coverage_table(confidence: Mapping) -> Markdown:
    """Return a row per set and kind of corruption: accuracy by coverage, then what each threshold keeps."""
    reached = {wanted: found for wanted, found in confidence["thresholds"].items() if found is not None}
    header = ["tracks of", "tracks", *("all" if share == "1" else show_percent(share) for share in _SHOWN_COVERAGES)]
    for threshold in reached.values():
        header += [f"kept from {threshold:g}", "right"]
    named = dict(confidence["sets"])
    named |= {f"test, {show_corruption(kind)}": entry for kind, entry in confidence["corruptions"].items()}
    rows = []
    for name, entry in named.items():
        row = [name, str(entry["tracks"]), *(show_score(entry["accuracy"][share]) for share in _SHOWN_COVERAGES)]
        for wanted in reached:
            kept = entry["kept"][wanted]
            row += [show_percent(kept["kept"] / kept["tracks"]), show_score(kept["precision"])]
        rows.append(row)
    return table(header, rows)
