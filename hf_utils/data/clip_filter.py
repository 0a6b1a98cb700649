"""`--train_filter`: which made clips may be trained on, by the scores that were written beside them."""

import datasets

from hf_utils.data.clips import genre_names
from hf_utils.errors import UserError


def filter_clips(clips: datasets.Dataset, expression: str, source: str) -> datasets.Dataset:
    """Return the clips for which `expression` holds, such as `clap_genre == label and classifier_score > 0.2`.

    Args:
        clips: a clip table with columns of scores.
        expression: in the language of `pandas.DataFrame.query`, over the table's columns; `label` is the genre's name.
        source: what to call the table in messages.

    Raises:
        UserError: the expression cannot be read, names a column that is not there, or no clip is left.
    """
    columns = [name for name in clips.column_names if name != "audio"]
    table = clips.select_columns(columns).to_pandas()
    table["label"] = [genre_names(clips)[label] for label in clips["label"]]
    try:
        kept = table.query(expression).index
    except Exception as error:  # pandas raises whatever the expression made it do
        raise UserError(
            f"train_filter {expression!r} does not work on {source}: {error}. It may compare these columns: "
            f"{', '.join(columns)}."
        ) from error
    if not len(kept):
        raise UserError(f"train_filter {expression!r} leaves none of the {len(clips)} clips of {source}.")
    return clips.select(kept)
