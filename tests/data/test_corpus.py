"""What a run's data options mean, before anything is decoded."""

import pytest

from hf_utils.arguments.data import DataArguments
from hf_utils.data.corpus import check_sources, decode_corpus, load_split_clips, parse_eval_datasets
from hf_utils.errors import UserError


def make_arguments(folder, **options) -> DataArguments:
    return DataArguments(dataset_name=str(folder), split_protocol="stratified", num_proc=1, **options)


def test_evaluation_sets_are_named():
    assert parse_eval_datasets(["live=data/live", "c=me/gtzan-c"]) == {"live": "data/live", "c": "me/gtzan-c"}
    assert parse_eval_datasets(None) == {}


@pytest.mark.parametrize("items", [["data/live"], ["=x"], ["a="], ["test=x"], ["a=x", "a=y"], ["../a=x"]])
def test_a_misspelt_evaluation_set_is_refused(items):
    with pytest.raises(UserError, match="eval_datasets"):
        parse_eval_datasets(items)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"train_datasets": ["real", "FOLDER:0.5"]}, "the same clips"),
        ({"train_datasets": ["real:2"]}, "real:2"),
        ({"eval_datasets": ["nothing"]}, "name=path"),
        ({"train_filter": "classifier_score > 0.2"}, "only the real ones"),
    ],
)
def test_a_mistake_in_the_sources_is_found_before_anything_is_read(tmp_path, options, words):
    """The folder does not even exist."""
    folder = tmp_path / "missing"
    if "train_datasets" in options:
        options["train_datasets"] = [item.replace("FOLDER", str(folder)) for item in options["train_datasets"]]
    with pytest.raises(UserError, match=words):
        check_sources(make_arguments(folder, **options))


def test_training_and_evaluation_see_the_splits_and_the_named_sets(genre_folder, tmp_path):
    args = make_arguments(genre_folder, eval_datasets=[f"again={genre_folder / 'nowhere'}"])
    clips = load_split_clips(args)
    with pytest.raises(UserError, match="nowhere"):
        decode_corpus(clips, args, 16000, train=True, seed=0)
    args = make_arguments(genre_folder, train_datasets=["real:0.5"])
    corpus = decode_corpus(load_split_clips(args), args, 16000, train=True, seed=0)
    assert list(corpus.evaluations) == ["validation", "test"] and corpus.genres == ["blues", "hiphop", "rock"]
    whole = sum(split == "train" for split in load_split_clips(args)["split"])
    assert len(corpus.train) == whole // 2 == corpus.facts["splits"]["train"]["tracks"]
    assert decode_corpus(load_split_clips(args), args, 16000, train=False, seed=0).train is None
