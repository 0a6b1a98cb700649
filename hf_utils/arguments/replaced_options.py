"""What became of options that people know from elsewhere: transformers 4 and its audio-classification example."""

import difflib
from collections.abc import Iterable

_WORKERS = "the data loader's workers are set by dataloader_num_workers, the decoding ones by num_proc"
REPLACED_OPTIONS = {
    # transformers 4: renamed or removed in version 5
    "evaluation_strategy": "use eval_strategy",
    "warmup_ratio": "use warmup_steps: below 1 it is a fraction of all steps",
    "no_cuda": "use use_cpu",
    "use_mps_device": "leave it out: the device is found; use_cpu keeps to the processor",
    "tokenizer": "leave it out: the feature extractor is loaded with model_name_or_path",
    "overwrite_output_dir": "use overwrite",
    "logging_dir": "leave it out: TensorBoard events go to the folder tensorboard in output_dir",
    "group_by_length": "leave it out: every window has the same length",
    "save_safetensors": "leave it out: weights are always saved as safetensors",
    "half_precision_backend": "use precision: auto, fp32, bf16 or fp16",
    "fp16_backend": "use precision: auto, fp32, bf16 or fp16",
    "fp16_opt_level": "use precision: auto, fp32, bf16 or fp16",
    "include_inputs_for_metrics": "use include_for_metrics: [inputs]",
    "push_to_hub_model_id": "use hub_model_id",
    "push_to_hub_organization": "use hub_model_id: organization/name",
    "push_to_hub_token": "use hub_token, on the command line only",
    "token": "use hub_token, on the command line only",
    "use_auth_token": "use hub_token, on the command line only",
    "per_gpu_train_batch_size": "use per_device_train_batch_size",
    "per_gpu_eval_batch_size": "use per_device_eval_batch_size",
    "adafactor": "use optim: adafactor",
    "dispatch_batches": "use accelerator_config: {dispatch_batches: ...}",
    "split_batches": "use accelerator_config: {split_batches: ...}",
    "torchdynamo": "use torch_compile_backend",
    # transformers' example script for audio classification
    "train_file": "use dataset_name: it takes a folder of genre folders or a CSV file",
    "eval_file": "use eval_datasets: [NAME=PATH]",
    "train_split_name": "use split_protocol: provided (the dataset's own splits), or another protocol",
    "eval_split_name": "use split_protocol: provided (the dataset's own splits), or another protocol",
    "max_train_samples": "use train_datasets: ['real:0.1'] for a tenth of each genre",
    "max_eval_samples": "leave it out: every track of a split is evaluated",
    "max_length_seconds": "use window_seconds",
    "config_name": "use model_name_or_path: a folder with only a config.json trains from random weights",
    "feature_extractor_name": "leave it out: the feature extractor is loaded with model_name_or_path",
    "freeze_feature_encoder": "use freeze: feature_encoder",
    "freeze_feature_extractor": "use freeze: feature_encoder",
    "freeze_base_model": "use freeze: backbone",
    "attention_mask": "leave it out: windows have one length, so nothing is padded and no mask is needed",
    "return_attention_mask": "leave it out: windows have one length, so nothing is padded and no mask is needed",
    "ignore_mismatched_sizes": "leave it out: a head of another size is always replaced",
    "preprocessing_num_workers": _WORKERS,
    # names that one could expect here
    "config": "name YAML files without a flag: run_classification.py configs/ast.yaml",
    "model": "use model_name_or_path",
    "dataset": "use dataset_name",
    "batch_size": "use per_device_train_batch_size and per_device_eval_batch_size",
    "lr": "use learning_rate",
    "epochs": "use num_train_epochs",
    "num_epochs": "use num_train_epochs",
    "num_workers": _WORKERS,
}


def explain_unknown(name: object, options: Iterable[str], where: str) -> str:
    """Return the message for an option that does not exist; `where` names it and its source."""
    if name in REPLACED_OPTIONS:
        return f"{where} is not an option here: {REPLACED_OPTIONS[name]}"
    nearest = difflib.get_close_matches(str(name), list(options), n=1)
    return f"{where} is not an option: " + (f"the nearest is {nearest[0]}" if nearest else "--help_all lists all")
