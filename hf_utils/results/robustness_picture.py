"""The picture of a model's robustness: accuracy over the SNR of noises, and of all other corruptions in groups."""

from collections.abc import Mapping, Sequence

from hf_utils.results.plots import shorten

_CLEAN = "#57606a"
_UNITS = {"db": "dB", "khz": "kHz", "percent": "%"}
_DPI = 100


def robustness_figure(clean: Mapping, rows: Sequence[Mapping], title: str):
    """Return a matplotlib Figure of rows as in `robustness_report.RobustnessReport`.

    Bands and bars are the middle 95 % of a bootstrap over tracks; the dashed line is the accuracy on clean tracks.
    """
    from matplotlib.figure import Figure  # here, because importing this module shall cost nothing

    noises = _group(row for row in rows if row["snr_db"] is not None)
    others = _group(row for row in rows if row["snr_db"] is None)
    num_others = sum(map(len, others.values())) + 0.6 * len(others)
    widths = [width for width, kinds in ((4.6, noises), (4.6, others)) if kinds]
    height = max(4.2 if noises else 2.0, 1.1 + 0.2 * num_others)
    figure = Figure(figsize=(sum(widths), height), layout="constrained", dpi=_DPI)
    panels = iter(figure.subplots(1, len(widths), squeeze=False)[0])
    if noises:
        _draw_noises(next(panels), noises, clean)
    if others:
        _draw_others(next(panels), others, clean)
    figure.suptitle(title, parse_math=False, fontsize=11)
    return figure


def _draw_noises(axes, kinds: Mapping[str, list[Mapping]], clean: Mapping) -> None:
    _draw_clean(axes, clean, axes.axhline, axes.axhspan)
    for index, (kind, rows) in enumerate(kinds.items()):
        rows = sorted(rows, key=lambda row: -row["snr_db"])
        snrs = [row["snr_db"] for row in rows]
        accuracies, lows, highs = ([100 * row[f"accuracy{end}"] for row in rows] for end in ("", "_low", "_high"))
        axes.plot(snrs, accuracies, "os^Dv"[index % 5] + "-", color=f"C{index % 10}", markersize=5, label=_name(kind))
        axes.fill_between(snrs, lows, highs, color=f"C{index % 10}", alpha=0.15, linewidth=0)
    axes.set_xticks(sorted({row["snr_db"] for rows in kinds.values() for row in rows}))
    axes.invert_xaxis()  # from little noise to much
    axes.set(xlabel="music to noise (SNR), dB", ylabel="accuracy, %", ylim=(-2, 102))
    axes.grid(alpha=0.3)
    for text in axes.legend(loc="best", fontsize=8).get_texts():
        text.set_parse_math(False)


def _draw_others(axes, kinds: Mapping[str, list[Mapping]], clean: Mapping) -> None:
    _draw_clean(axes, clean, axes.axvline, axes.axvspan)
    places, names, place = [], [], 0.0
    for index, (kind, rows) in enumerate(kinds.items()):
        first = place
        for row in rows:
            low, mean, high = (100 * row[f"accuracy{end}"] for end in ("_low", "", "_high"))
            axes.plot([low, high], [place, place], color=f"C{index % 10}", linewidth=1.2, alpha=0.6)
            axes.plot(mean, place, "o", color=f"C{index % 10}", markersize=5)
            places.append(place)
            names.append(f"{_name(kind)}  {_name(row['severity'])}" if place == first else _name(row["severity"]))
            place += 1
        place += 0.6
    axes.set_yticks(places, names, parse_math=False, fontsize=8)
    axes.set(xlabel="accuracy, %", xlim=(-2, 102), ylim=(place - 0.6 - 0.4, -0.6))
    axes.grid(axis="x", alpha=0.3)


def _draw_clean(axes, clean: Mapping, draw_line, draw_span) -> None:
    low, mean, high = (100 * clean[f"accuracy{end}"] for end in ("_low", "", "_high"))
    draw_span(low, high, color=_CLEAN, alpha=0.08, linewidth=0)
    draw_line(mean, color=_CLEAN, linestyle="--", linewidth=1.2, label="clean")


def _group(rows) -> dict[str, list[Mapping]]:
    kinds: dict[str, list[Mapping]] = {}
    for row in rows:
        kinds.setdefault(row["kind"], []).append(row)
    return kinds


def _name(name: str) -> str:
    return shorten(" ".join(_UNITS.get(word, word) for word in name.split("_")))
