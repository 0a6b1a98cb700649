"""The picture of a quality report."""

from collections.abc import Mapping, Sequence

import numpy as np

from hf_utils.results.plots import shorten

_REAL, _SYNTHETIC = "#4477aa", "#ee6677"
_PANELS = {
    "mmd": "squared kernel distance (MMD)",
    "rms_db": "loudness (dBFS RMS)",
    "centroid_hz": "spectral centroid (Hz)",
    "flatness_db": "spectral flatness (dB)",
}


def report_figure(rows: Sequence[Mapping], name: str):
    """Return a matplotlib Figure with four panels: per genre real beside synthetic, from `synthesis_report` rows.

    Args:
        name: of the checkpoint whose embeddings were compared.
    """
    from matplotlib.figure import Figure  # here, because importing this module shall cost nothing

    figure = Figure(figsize=(max(9.0, 1.1 * len(rows) + 3), 7.5), layout="constrained", dpi=120)
    places = np.arange(len(rows))
    for axes, (key, title) in zip(figure.subplots(2, 2).flat, _PANELS.items(), strict=True):
        for offset, kind, colour in ((-0.2, "real", _REAL), (0.2, "synthetic", _SYNTHETIC)):
            column = f"mmd_{kind}" if key == "mmd" else f"{key}_{kind}"
            label = (
                {"real": "real against real", "synthetic": "synthetic against real"}[kind] if key == "mmd" else kind
            )
            spread = [row[f"{column}_sd"] for row in rows] if key == "mmd" else None
            values = [row[column] for row in rows]
            if key.endswith("_db"):
                # 0 dB is the top of a scale without a bottom: a bar would show how little there is.
                axes.plot(places + offset, values, "o", color=colour, label=label)
            else:
                axes.bar(places + offset, values, 0.38, yerr=spread, color=colour, label=label, capsize=2)
        names = [shorten(row["genre"]) for row in rows]
        axes.set_xticks(places, names, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
        axes.set_title(title, fontsize=11)
        axes.axhline(0, color="black", linewidth=0.6) if key == "mmd" else axes.margins(y=0.1)
        axes.legend(fontsize=8)
    figure.suptitle(f"Synthetic against real training clips (embeddings: {shorten(name)})", parse_math=False)
    return figure
