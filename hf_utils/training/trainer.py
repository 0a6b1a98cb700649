"""The stock Trainer, with what it cannot do: score whole tracks, weigh genres, keep frozen parts still, reload AST.

N tracks, W windows, K genres.
"""

import copy
import dataclasses
import logging
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.utils.tensorboard import SummaryWriter
from transformers import (
    EvalPrediction,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
)
from transformers.integrations import TensorBoardCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_utils.arguments.run_options import select_hyperparameters
from hf_utils.arguments.training_options import TRACKED_SCORES
from hf_utils.data.split_record import SplitRecord
from hf_utils.errors import UserError
from hf_utils.models.adapters import adapted_layers, merged_state, reload_adapters, save_adapters
from hf_utils.models.batch_sizes import fit_batch_size
from hf_utils.models.freezing import frozen_modules
from hf_utils.models.weights import reload_weights
from hf_utils.results.plots import decode_png
from hf_utils.results.run_results import EvaluatedSet, score_windows
from hf_utils.seeding import derive_seed
from hf_utils.training.optimizer import (
    assign_learning_rates,
    check_optimizer,
    describe_levels,
    make_parameter_groups,
)
from hf_utils.training.progress import EpochLine, ProgressBars
from hf_utils.training.resume import check_state
from hf_utils.training.selection import StopAgain, has_ended, is_patience_spent, keep_if_best
from hf_utils.training.weight_average import WeightAverage, find_batch_norms, renew_batch_norm

logger = logging.getLogger(__name__)

TENSORBOARD_FOLDER = "tensorboard"


def balanced_class_weights(labels: np.ndarray, num_genres: int) -> torch.Tensor:
    """Return float32 (K,): N / (K * count), scikit-learn's "balanced"; 1 for a genre that no track has."""
    present = np.unique(labels)
    weights = np.ones(num_genres)
    weights[present] = compute_class_weight("balanced", classes=present, y=labels)
    return torch.tensor(weights, dtype=torch.float32)


class CrossEntropy:
    """Cross-entropy summed over a batch and divided by the number of windows of the whole optimiser step.

    That number spans gradient accumulation and processes, so a step is the same however it is cut up. A model's own
    loss is a mean of each piece; several models of transformers nevertheless claim to handle `num_items_in_batch`, and
    the Trainer then scales their gradients by the number of pieces.

    Labels are genres (B,), or of mixed windows the shares of the genres (B, K).
    """

    def __init__(self, class_weights: torch.Tensor | None = None, label_smoothing: float = 0.0):
        self._class_weights = class_weights
        self._label_smoothing = label_smoothing

    def __call__(self, outputs, labels: torch.Tensor, num_items_in_batch=None) -> torch.Tensor:
        logits = outputs["logits"].float()
        weights = None if self._class_weights is None else self._class_weights.to(logits.device)
        loss = torch.nn.functional.cross_entropy(
            logits, labels, weight=weights, label_smoothing=self._label_smoothing, reduction="sum"
        )
        if num_items_in_batch is None:
            return loss / len(labels)
        # The Trainer counts all numbers of the labels.
        return loss / (num_items_in_batch / labels[0].numel())


class GenreTrainer(Trainer):
    """Trainer over `TrainingWindows` and `EvaluationWindows` whose evaluation metrics are those of whole tracks."""

    def __init__(
        self,
        *,
        model,
        args,
        genres: list[str],
        class_weights: torch.Tensor | None = None,
        record: SplitRecord | None = None,
        **kwargs,
    ):
        """Take `record`, what the weights will know, beside the arguments of `Trainer`: every save holds it."""
        args = copy.copy(args)
        args.push_to_hub = False  # HubCheckpoints pushes, and only what is fit for others
        super().__init__(
            model=model,
            args=args,
            compute_metrics=self._score,
            compute_loss_func=CrossEntropy(class_weights, args.label_smoothing_factor),
            **kwargs,
        )
        # Our loss does the scaling (see CrossEntropy); no model does it.
        self.model_accepts_loss_kwargs = False
        self.genres, self.class_weights, self.record = genres, class_weights, record
        # Of the weights as they are now: see hf_utils/models/temperature.py.
        self.temperature: float | None = None
        self._evaluated: EvaluatedSet | None = None
        self._frozen_modules: list[torch.nn.Module] = []
        self._average: WeightAverage | None = None
        self._evaluation_fits = False
        for stock in (ProgressCallback, PrinterCallback):
            self.pop_callback(stock)
        if sys.stderr.isatty() and not args.disable_tqdm:
            self.add_callback(ProgressBars())
        self.add_callback(EpochLine())
        self.add_callback(TellEpoch())
        self.add_callback(StopAgain())
        tensorboard = self.pop_callback(TensorBoardCallback)
        if tensorboard is not None:
            # The stock folder is named after the machine.
            tensorboard.logging_dir = str(Path(args.output_dir, TENSORBOARD_FOLDER))
            self.add_callback(tensorboard)

    def _get_dataloader(self, dataset, description, batch_size, *, is_training=False, **kwargs):
        """As the stock one; batches of evaluation are such as there is memory for.

        Windows whose features are kept need no workers, and could not come from one on a GPU.
        """
        if not is_training:
            batch_size = self._fit_evaluation(dataset)
        before, self.args = self.args, copy.copy(self.args)
        if getattr(dataset, "features", None) is not None:
            self.args.dataloader_num_workers, self.args.dataloader_prefetch_factor = 0, None
            self.args.dataloader_persistent_workers = False
            self.args.dataloader_pin_memory &= dataset.features.device.type == "cpu"
        try:
            return super()._get_dataloader(dataset, description, batch_size, is_training=is_training, **kwargs)
        finally:
            self.args = before

    def _fit_evaluation(self, windows) -> int:
        """Return how many windows are evaluated at once: found with what is in memory when it is first asked for."""
        args = self.args

        def run(number: int) -> None:
            self.model.eval()
            inputs = self._prepare_inputs(self.data_collator([windows[0]]))
            batch = {name: values.repeat_interleave(number, dim=0) for name, values in inputs.items()}
            self.prediction_step(self.model, batch, prediction_loss_only=False)

        # Where each process has a part of the model, a try would wait for those of the others.
        if not self._evaluation_fits and not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            size = fit_batch_size(run, args.per_device_eval_batch_size, args.device)
            # Processes evaluate together, and the device of one may have less room.
            sizes = self.accelerator.gather(torch.tensor([size], device=args.device))
            args.per_device_eval_batch_size, self._evaluation_fits = int(sizes.min()), True
        return args.eval_batch_size

    def evaluate_set(self, windows, name: str) -> EvaluatedSet:
        """Return the scores and the per-track probabilities of one set; under several processes, on every one.

        With `temperature`, also the calibrated ones.
        """
        self.predict(windows, metric_key_prefix=name)
        return dataclasses.replace(self._evaluated, name=name).at_temperature(self.temperature, self.genres)

    def evaluation_loop(self, dataloader, *args, metric_key_prefix: str = "eval", **kwargs):
        """As the stock loop; remembers whose windows it scores, since `compute_metrics` is not told.

        Its loss is a mean over batches, of which the last is filled up by repetition: it would depend on the number of
        processes. Ours is the mean over windows.
        """
        self._windows = dataloader.dataset
        output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        logits, labels = map(torch.as_tensor, (output.predictions, output.label_ids))
        loss = CrossEntropy(self.class_weights, self.args.label_smoothing_factor)({"logits": logits}, labels)
        output.metrics[f"{metric_key_prefix}_loss"] = loss.item()
        return output

    def _score(self, prediction: EvalPrediction) -> dict[str, float]:
        self._evaluated = score_windows(prediction.predictions, self._windows, self.genres, "evaluation")
        scores = {key: value for key, value in self._evaluated.scores["track"].items() if key in TRACKED_SCORES}
        return scores | {"window_accuracy": self._evaluated.scores["window"]["accuracy"]}

    def create_optimizer(self, model=None):
        """As the stock one, with the groups of `--head_learning_rate` and `--layer_decay` where these are given.

        Raises:
            UserError: as `assign_learning_rates` and `check_optimizer`.
        """
        args, learning = self.args, self.model if model is None else model
        if self.optimizer is None and (args.head_learning_rate is not None or args.layer_decay < 1):
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(args, learning)
            check_optimizer(args.optim.value, optimizer_class, options)
            levels = assign_learning_rates(learning, args.learning_rate, args.head_learning_rate, args.layer_decay)
            logger.info("%s", describe_levels(learning, levels))
            decayed = self.get_decay_parameter_names(learning)
            groups = make_parameter_groups(learning, levels, decayed, args.weight_decay)
            # The stock method takes groups that come with an optimiser's options.
            self.optimizer_cls_and_kwargs = optimizer_class, {**options, "params": groups}
        return super().create_optimizer(model)

    def compute_loss(self, model, inputs, *args, **kwargs):
        """As the stock loss, with wholly frozen modules in evaluation mode: no dropout, masks or batch statistics."""
        if model.training:
            for module in self._frozen_modules:
                module.eval()
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _determine_best_metric(self, metrics: dict[str, float], trial) -> bool:
        """As `selection.keep_if_best`; also end the training where `--early_stopping_patience` is spent.

        Under `--average_weights swa`, weights from before the mean are no choice.
        """
        if self._average is not None and not self._average.has_begun:
            return False
        is_best = keep_if_best(metrics, self.args, self.state)
        if is_patience_spent(self.args, self.state):
            self.control.should_training_stop = True
        return is_best

    def _evaluate(self, *args, **kwargs) -> dict[str, float]:
        """As the stock evaluation while training, with a line where it lowers the learning rate."""
        before = self._get_learning_rate()
        metrics = super()._evaluate(*args, **kwargs)
        if (rate := self._get_learning_rate()) < before:
            logger.info("The learning rate falls from %.2g to %.2g: no better for a while", before, rate)
        return metrics

    def _run_epoch(self, *args, **kwargs) -> None:
        """As the stock epoch, but for that after the end, which would still train a step."""
        if not self.control.should_training_stop:
            super()._run_epoch(*args, **kwargs)

    def _init_training_state(self, max_steps, steps_per_epoch, num_epochs, resume_from_checkpoint, trial):
        """As the stock one; take the best checkpoint beside the one at hand, and that one's running weights.

        The state names the best checkpoint by the path it had. The run's folder may have been moved since, or copied,
        and another run be at that path.

        Raises:
            UserError: the best checkpoint so far is gone, so the run cannot end as it would have, or as `check_state`
                and `WeightAverage.resume`.
        """
        trained = super()._init_training_state(max_steps, steps_per_epoch, num_epochs, resume_from_checkpoint, trial)
        state = self.state
        if resume_from_checkpoint and state.best_global_step:
            best = Path(resume_from_checkpoint).parent / f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}"
            if best.is_dir():
                state.best_model_checkpoint = str(best)
            elif self.args.load_best_model_at_end and state.best_model_checkpoint is None:
                raise UserError(
                    f"--resume_from_checkpoint {resume_from_checkpoint}: the best checkpoint of its run, "
                    f"{best.name}, is gone, and later ones may be worse. Copy it back to {best.parent}, or start "
                    "from the beginning with --overwrite and without --resume_from_checkpoint."
                )
        if resume_from_checkpoint and not has_ended(self.args, state):
            check_state(resume_from_checkpoint, scales_loss=self.accelerator.scaler is not None)
            if self._average is not None:
                self._average.resume(self.model, resume_from_checkpoint)
        return trained

    def train(self, *args, **kwargs):
        """As the stock method. What is frozen when it is called stays frozen."""
        self._frozen_modules = frozen_modules(self.model)
        if self.args.average_weights != "none":
            self._average = WeightAverage(self.model, self.args.average_weights)
            self.add_callback(self._average)
        try:
            return super().train(*args, **kwargs)
        finally:
            if self._average is not None:
                self.remove_callback(self._average)
                self._average = None

    def _maybe_log_save_evaluate(self, *args, **kwargs) -> None:
        """As the stock method; what it evaluates and saves is the mean of `--average_weights`."""
        is_due = self.control.should_evaluate or self.control.should_save
        if self._average is None or not is_due:
            return super()._maybe_log_save_evaluate(*args, **kwargs)
        with self._average.keep_running(self.model):
            self._take_average()
            super()._maybe_log_save_evaluate(*args, **kwargs)

    def _finalize_training(self, *args, **kwargs):
        """As the stock method; without a best checkpoint to reload, the model ends as `--average_weights` has it."""
        is_reloaded = self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None
        if self._average is not None and not is_reloaded:
            self._take_average()
        return super()._finalize_training(*args, **kwargs)

    def _take_average(self) -> None:
        """Give the model the mean of its weights, if there is one yet, with batch norm statistics that fit it."""
        if not self._average.has_begun:
            return
        self._average.copy_to(self.model)
        norms = find_batch_norms(self.model, self._frozen_modules)
        if norms:
            with self.compute_loss_context_manager():
                renew_batch_norm(self.model, norms, self._training_inputs())
            for statistics in (s for norm in norms for s in (norm.running_mean, norm.running_var)):
                statistics.copy_(self.accelerator.reduce(statistics, "mean"))

    def _training_inputs(self) -> Iterator[dict[str, torch.Tensor]]:
        """Yield this process's share of the windows of the epoch as batches, in a drawn order and without labels.

        accelerate's loaders would tell the windows another epoch.
        """
        windows, batch_size = self.train_dataset, self.args.train_batch_size
        # Of the last step's epoch, also where a training goes on from its end; the margin is for sums of fractions.
        windows.set_epoch(max(0, math.ceil(self.state.epoch - 1e-6) - 1))
        # The windows of a genre lie side by side: batches of one genre would have too small a deviation.
        order = np.random.default_rng(derive_seed(self.args.seed, "batch norm")).permutation(len(windows))
        share = order[self.args.process_index :: self.args.world_size].tolist()
        loader = torch.utils.data.DataLoader(
            torch.utils.data.Subset(windows, share),
            batch_size,
            collate_fn=self.data_collator,
            num_workers=0 if getattr(windows, "features", None) is not None else self.args.dataloader_num_workers,
            drop_last=len(share) > batch_size,  # one window has no variance
            generator=torch.Generator(),  # else it would draw from that of the training
        )
        for batch in loader:
            inputs = self._prepare_inputs(batch)
            yield {name: value for name, value in inputs.items() if name != "labels"}

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self._average is not None and self.args.should_save:
            self._average.save(output_dir)

    def floating_point_ops(self, inputs) -> int:
        """Return 0. The stock estimate takes every number of the input for a word, and counts parameters each step."""
        return 0

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """As the stock method; a model with adapters is saved without them, and they beside it."""
        is_adapted = self.args.should_save and bool(adapted_layers(self.model))
        super()._save(output_dir, merged_state(self.model) if is_adapted else state_dict)
        if is_adapted:
            save_adapters(self.model, output_dir or self.args.output_dir)
        if self.record is not None and self.args.should_save:
            self.record.write(output_dir or self.args.output_dir)

    def _load_best_model(self) -> None:
        """Reload through `from_pretrained`: checkpoints of AST hold old parameter names, which the stock way skips."""
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            return super()._load_best_model()
        _reload(self.model, self.state.best_model_checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        """Resume likewise."""
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        _reload(self.model if model is None else model, resume_from_checkpoint)


def _reload(model: torch.nn.Module, folder: str) -> None:
    (reload_adapters if adapted_layers(model) else reload_weights)(model, folder)


class TellEpoch(TrainerCallback):
    """Tell the training windows their epoch.

    accelerate 1.15 does so in a single process that starts at the beginning; under several processes, and in the epoch
    that a resumed run continues, it tells the sampler and stops there, and every epoch would see the same windows.
    """

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        # In whole epochs; the margin is for sums of fractions.
        train_dataloader.dataset.set_epoch(int(state.epoch + 1e-6))


def write_tensorboard_summary(
    output_dir: str,
    evaluations: list[EvaluatedSet],
    pictures: dict[str, bytes],
    options: dict,
) -> None:
    """Add each set's picture of its confusions, a PNG file, and the options with the final scores to TensorBoard."""
    folder = Path(output_dir, TENSORBOARD_FOLDER)
    scores = {f"final/{e.name}_{key}": e.scores["track"][key] for e in evaluations for key in ("accuracy", "roc_auc")}
    with SummaryWriter(folder) as writer:
        for name, picture in pictures.items():
            writer.add_image(f"confusion/{name}", decode_png(picture), dataformats="HWC")
        writer.add_hparams(select_hyperparameters(options), scores, run_name=".")
