"""Which options of a run decide its result, and in which of them two runs differ."""

from collections.abc import Mapping
from typing import Any

# Where and how fast, but not what: runs that differ only in these are the same experiment.
_BOOKKEEPING = frozenset(
    """
    output_dir resume_from_checkpoint overwrite run_name cache_dir waveform_cache_dir cache_embeddings
    cache_corruptions num_proc dataloader_num_workers dataloader_persistent_workers dataloader_pin_memory
    dataloader_prefetch_factor disable_tqdm report_to log_level log_level_replica logging_steps logging_strategy
    logging_first_step save_total_limit push_to_hub hub_model_id hub_private_repo hub_strategy predict_path per_window
    """.split()
)


def differing_options(
    first: Mapping[str, Any], second: Mapping[str, Any], *, ignored: frozenset[str] = frozenset()
) -> dict[str, tuple[Any, Any]]:
    """Return {option: (first's value, second's)} where two configurations differ in what decides a result.

    An option that only one of them has counts as None in the other.
    """
    names = sorted((first.keys() | second.keys()) - _BOOKKEEPING - ignored)
    return {name: (first.get(name), second.get(name)) for name in names if first.get(name) != second.get(name)}
