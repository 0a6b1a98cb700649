"""Which options of a run decide its result, and in which of them two runs differ."""

from collections.abc import Mapping
from typing import Any

from hf_utils.arguments.precedence import without_unused_length

# Where and how fast, but not what: runs that differ only in these are the same experiment.
_BOOKKEEPING = frozenset(
    """
    output_dir resume_from_checkpoint overwrite run_name cache_dir waveform_cache_dir cache_embeddings
    cache_corruptions num_proc dataloader_num_workers dataloader_persistent_workers dataloader_pin_memory
    dataloader_prefetch_factor disable_tqdm report_to log_level log_level_replica logging_steps logging_strategy
    logging_first_step save_total_limit push_to_hub hub_model_id hub_private_repo hub_strategy predict_path per_window
    unknown_below feature_memory_gb mistakes per_device_eval_batch_size
    """.split()
)

# What runs are usually told apart by.
_HYPERPARAMETERS = """
    model_name_or_path dataset_name split_protocol fold train_datasets train_filter augmentation spectrogram
    num_mel_bins level_normalization window_seconds spec_augment_time_seconds spec_augment_freq_bins windows_per_track
    mixup_alpha balanced_sampling freeze head head_pooling feature_layer standardize_features learning_rate
    lr_scheduler_type warmup_steps weight_decay head_learning_rate layer_decay lora_rank average_weights
    label_smoothing_factor class_weights num_train_epochs max_steps per_device_train_batch_size
    gradient_accumulation_steps precision seed
""".split()


def select_hyperparameters(config: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Return the options by which runs are usually compared, lists as text, without those that are not set."""
    chosen = without_unused_length({name: config.get(name) for name in _HYPERPARAMETERS})
    if "num_train_epochs" in chosen:
        del chosen["max_steps"]  # which does not count
    texts = {name: " + ".join(map(str, value)) for name, value in chosen.items() if isinstance(value, list)}
    return {name: value for name, value in (chosen | texts).items() if value is not None}


def deciding_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that say what is computed, without those of where and how fast."""
    return {name: value for name, value in config.items() if name not in _BOOKKEEPING}


def differing_options(
    first: Mapping[str, Any], second: Mapping[str, Any], *, ignored: frozenset[str] = frozenset()
) -> dict[str, tuple[Any, Any]]:
    """Return {option: (first's value, second's)} where two configurations differ in what decides a result.

    An option that only one of them has counts as None in the other. Configurations of before may have a number of
    epochs that does not count.
    """
    first, second = without_unused_length(first), without_unused_length(second)
    names = sorted((first.keys() | second.keys()) - _BOOKKEEPING - ignored)
    return {name: (first.get(name), second.get(name)) for name in names if first.get(name) != second.get(name)}
