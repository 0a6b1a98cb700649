"""Options of the data: the real clips and their split, the same in every script, then training mix and windows."""

import dataclasses
from functools import partial
from typing import Any, ClassVar, Literal

from hf_utils.arguments.options import option
from hf_utils.cores import count_cores
from hf_utils.errors import UserError

SPLITS = ("train", "validation", "test")

_data = partial(option, group="data")
_split = partial(option, group="split into training, validation and test tracks")

# Which real clips there are, in which split. Not the genres: a dataset may be made for fewer than one trains on.
_SOURCE = (
    "dataset_name dataset_config_name dataset_revision audio_column_name label_column_name on_bad_audio "
    "split_protocol split_seed num_folds fold group_segments"
).split()


@dataclasses.dataclass
class SourceArguments:
    """The real clips, and which side of the split each is on. Raises UserError on contradictions.

    Attributes:
        fewest_genres: how many `genres` may name at least: a classifier needs two, a script that makes clips one.
    """

    fewest_genres: ClassVar[int] = 2

    dataset_name: str = _data(
        "sanchit-gandhi/gtzan",
        "Dataset of the Hub, folder of genre folders or with a metadata.csv, CSV file (path,label[,track_id,split]), "
        "saved dataset, or folder of Parquet files.",
        metavar="NAME_OR_PATH",
    )
    dataset_config_name: str | None = _data(None, "Configuration of a Hub dataset. (default: its only or default one)")
    dataset_revision: str | None = _data(None, "Branch, tag or commit of a Hub dataset. (default: its main branch)")
    audio_column_name: str | None = _data(None, "Column with the audio. (default: found by its type)")
    label_column_name: str | None = _data(None, "Column with the genre. (default: found, such as genre or label)")
    genres: list[str] | None = _data(None, "Keep only these genres, in this order. (default: all)", metavar="GENRE")
    on_bad_audio: Literal["error", "skip"] = _data(
        "error",
        "After listing every unreadable, empty, silent or too short (< 0.5 s) file: stop, or go on without them.",
    )
    num_proc: int | None = _data(
        None, "Processes that decode audio. (default: one per core, at most 4)", metavar="PROCESSES", at_least=1
    )
    waveform_cache_dir: str | None = _data(
        None, "Folder for decoded audio. (default: genre_waveforms in the Hugging Face cache)", metavar="FOLDER"
    )
    split_protocol: Literal["auto", "filtered", "artist_folds", "stratified", "provided"] = _split(
        "auto",
        "filtered: the fault-filtered 443/197/290 tracks of GTZAN. artist_folds: no artist on two sides. stratified: "
        "80/10/10 %, seeded. provided: the dataset's own. (default: auto = filtered for GTZAN, else provided where "
        "the dataset has splits, else stratified)",
    )
    split_seed: int = _split(0, "Seed of the split; apart from --seed, so that runs of other seeds share one split.")
    num_folds: int = _split(10, "Number of folds of artist_folds.", metavar="FOLDS", at_least=3)
    fold: int = _split(0, "The fold that is tested, counted from 0.", at_least=0)
    group_segments: Literal["auto", "always", "never"] = _split(
        "auto",
        "Keep the pieces of a song that was cut beforehand in one split. auto: where names leave no doubt, such as "
        "jazz.00000.3 or so_what_part2. always: for any number at the end of a name.",
    )

    def __post_init__(self):
        if self.fold >= self.num_folds:
            raise UserError(f"fold is {self.fold}, expected less than num_folds, {self.num_folds}: folds count from 0")
        for name, default in (("fold", 0), ("num_folds", 10)):
            if getattr(self, name) != default and self.split_protocol != "artist_folds":
                raise UserError(
                    f"{name} is {getattr(self, name)}, but only split_protocol: artist_folds has folds, and "
                    f"split_protocol is {self.split_protocol}"
                )
        if self.genres is not None and not self.fewest_genres <= len(set(self.genres)) == len(self.genres):
            raise UserError(f"genres is {self.genres}, expected {self.fewest_genres} or more, each once")
        self.num_proc = self.num_proc or min(4, count_cores())

    def changed_source(self) -> dict[str, Any]:
        """Return the options that say which real clips there are, and their split, where they are not the default."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        return {name: getattr(self, name) for name in _SOURCE if getattr(self, name) != defaults[name]}

    def source_options(self) -> dict[str, Any]:
        """Return the options that give run_classification.py the same real clips and split, after any recipe."""
        always = {"dataset_name": self.dataset_name, "split_protocol": self.split_protocol}
        return always | self.changed_source()


_mix = partial(option, group="training mix and evaluation sets")
_windows = partial(option, group="windows and masks")


@dataclasses.dataclass
class DataArguments(SourceArguments):
    """As `SourceArguments`, with the training mix, the evaluation sets and the windows."""

    train_datasets: list[str] = _mix(
        ["real"],
        "What to train on; real is the training split of --dataset_name. A:0.5 takes half of A, drawn per genre.",
        metavar="SOURCE[:FRACTION]",
        trains=True,
    )
    train_filter: str | None = _mix(
        None,
        "Which clips of made datasets to train on, by their columns, such as 'clap_genre == label and "
        "classifier_score > 0.2'. Real clips are kept. (default: all)",
        metavar="EXPRESSION",
        trains=True,
    )
    eval_datasets: list[str] | None = _mix(
        None, "Further sets to evaluate, beside validation and test, by name. (default: none)", metavar="NAME=SOURCE"
    )
    allow_seen_tracks: bool = _mix(
        False,
        "Evaluate and select even on tracks that the weights were trained on. results.json and the card then say so. "
        "(default: stop and list them)",
    )
    corruptions: str | None = _mix(
        None,
        "YAML file of corruptions, such as configs/corruptions.yaml: also evaluate the test tracks under each of "
        "them. (default: none)",
        metavar="FILE",
    )
    cache_corruptions: bool = _mix(
        True, "Keep the corrupted tracks beside the decoded audio, for further checkpoints, where the disk has room."
    )
    window_seconds: float | None = _windows(
        None, "What the model sees at once, in seconds. (default: 10; AST: 10.24)", metavar="SECONDS", above=0
    )
    eval_hop_seconds: float | None = _windows(
        None, "Step between evaluated windows, in seconds. (default: half a window)", metavar="SECONDS", above=0
    )
    validation_hop_seconds: float | None = _windows(
        None,
        "Step between validation windows while training, by which the checkpoint is chosen, in seconds. (default: a "
        "window: everything is heard, and only once)",
        metavar="SECONDS",
        above=0,
        trains=True,
    )
    feature_memory_gb: float = _windows(
        4.0,
        "Memory that each process may use to keep features of training and validation tracks, in GB; features that do "
        "not fit are computed anew at every visit.",
        metavar="GB",
        at_least=0,
        trains=True,
    )
    augmentation: str | None = _windows(
        None,
        "YAML file of transforms, such as configs/augment/mild.yaml, drawn anew for every training window. "
        "(default: none)",
        metavar="FILE",
        trains=True,
    )
    noise_folder: str | None = _windows(
        None, "Your own recordings, for transforms and corruptions that mix them in. (default: none)", metavar="FOLDER"
    )
    train_windows: Literal["random", "grid"] = _windows(
        "random",
        "What training windows are drawn from: every position, or the back-to-back windows that cover the track.",
        trains=True,
    )
    windows_per_track: int = _windows(
        1,
        "Training windows of each track in an epoch, drawn one by one.",
        metavar="WINDOWS",
        at_least=1,
        trains=True,
    )
    mixup_alpha: float = _windows(
        0.0,
        "Mix the features and the genre of each training window with those of another one: Beta(alpha, alpha) draws "
        "the shares; 0 for none.",
        at_least=0,
        trains=True,
    )
    cache_embeddings: Literal["auto", "always", "never"] = _windows(
        "auto",
        "Compute what the head reads once per window, keep it on disk, and train the head on it. (default: auto = "
        "with --freeze backbone, --train_windows grid, no augmentation and no mixup, where the result is the same)",
        trains=True,
    )
    spec_augment_time_seconds: float = _windows(
        0.0,
        "Longest time mask on training spectrograms, in seconds; 0 for none.",
        metavar="SECONDS",
        at_least=0,
        trains=True,
    )
    spec_augment_freq_bins: int = _windows(
        0,
        "Widest frequency mask on training spectrograms, in bins; 0 for none.",
        metavar="BINS",
        at_least=0,
        trains=True,
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("eval_hop_seconds", "validation_hop_seconds"):
            window, hop = self.window_seconds, getattr(self, name)
            if window is not None and hop is not None and hop > window:
                raise UserError(f"{name} is {hop}, longer than window_seconds, {window}: some audio is never heard")
        if self.noise_folder is not None and self.augmentation is None and self.corruptions is None:
            raise UserError("noise_folder is given, but neither augmentation nor corruptions, which would use it")
        if not self.cache_corruptions and self.corruptions is None:
            raise UserError("cache_corruptions is false, but no corruptions are given, which it is about")
