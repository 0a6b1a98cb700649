"""Made clips are chosen by the scores beside them."""

import datasets
import pytest

from hf_utils.data.mixing import filter_clips
from hf_utils.errors import UserError


@pytest.fixture
def clips():
    return datasets.Dataset.from_dict(
        {
            "label": [0, 1, 1, 0],
            "track_id": ["a", "b", "c", "d"],
            "clap_genre": ["blues", "blues", "jazz", "blues"],
            "classifier_score": [0.9, 0.9, 0.1, 0.3],
        },
        features=datasets.Features(
            {
                "label": datasets.ClassLabel(names=["blues", "jazz"]),
                "track_id": datasets.Value("string"),
                "clap_genre": datasets.Value("string"),
                "classifier_score": datasets.Value("float32"),
            }
        ),
    )


@pytest.mark.parametrize(
    ("expression", "kept"),
    [
        ("clap_genre == label", ["a", "c", "d"]),
        ("clap_genre == label and classifier_score > 0.2", ["a", "d"]),
        ("label == 'jazz'", ["b", "c"]),
    ],
)
def test_the_clips_for_which_it_holds_stay(clips, expression, kept):
    assert filter_clips(clips, expression, "data/made")["track_id"] == kept


@pytest.mark.parametrize("expression", ["clap == label", "classifier_score >", "classifier_score > 2"])
def test_what_cannot_work_is_said_with_the_source(clips, expression):
    with pytest.raises(UserError, match="data/made"):
        filter_clips(clips, expression, "data/made")
