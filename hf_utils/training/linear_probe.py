"""A head on a frozen backbone at full speed: what the head reads is computed once per window and kept.

Such an embedding is what the backbone makes of a window. W windows, D dimensions of an embedding, L layers, B batch,
K genres.
"""

import copy
import io
import logging
from pathlib import Path

import datasets
import huggingface_hub.constants
import numpy as np
import torch
import transformers
import xxhash
from torch import nn
from tqdm.auto import tqdm

from hf_utils.arguments.data import DataArguments
from hf_utils.data.windows import EvaluationWindows, TrainingWindows
from hf_utils.errors import UserError
from hf_utils.files import write_atomically
from hf_utils.models.freezing import find_backbone
from hf_utils.models.heads import find_standardization, fit_standardization
from hf_utils.results.run_results import EvaluatedSet
from hf_utils.training.trainer import GenreTrainer

logger = logging.getLogger(__name__)

# Part of the key: raise it when embeddings come out differently.
EMBEDDINGS_VERSION = 1


class EmbeddedWindows(torch.utils.data.Dataset):
    """Evaluated windows as their embeddings (W, D); everything else is as in `EvaluationWindows`."""

    def __init__(self, windows: EvaluationWindows, embeddings: np.ndarray):
        self.track_ids, self.labels, self.track_index = windows.track_ids, windows.labels, windows.track_index
        self._embeddings = embeddings

    def __len__(self) -> int:
        return len(self.track_index)

    def __getitem__(self, index: int) -> dict:
        return {"embedding": self._embeddings[index], "label": int(self.labels[self.track_index[index]])}


class EmbeddedTrainingWindows(torch.utils.data.Dataset):
    """The windows that `windows` draws, as the embeddings (W, D) of the `grid` that it draws from."""

    def __init__(self, windows: TrainingWindows, grid: EvaluationWindows, embeddings: np.ndarray):
        self._windows, self._labels, self._embeddings = windows, grid.labels, embeddings
        places = zip(grid.track_index.tolist(), grid.start_samples.tolist(), strict=True)
        self._rows = {place: row for row, place in enumerate(places)}

    def set_epoch(self, epoch: int) -> None:
        """As of `TrainingWindows`."""
        self._windows.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> dict:
        clip, start = self._windows.draw(index)
        return {"embedding": self._embeddings[self._rows[clip, start]], "label": int(self._labels[clip])}


def collate_embeddings(windows: list[dict]) -> dict[str, torch.Tensor]:
    """Return the inputs of a `Head`: embeddings (B, D) and labels (B,)."""
    return {
        "embeddings": torch.from_numpy(np.stack([window["embedding"] for window in windows])),
        "labels": torch.tensor([window["label"] for window in windows]),
    }


class Head(nn.Module):
    """The layers of a classifier above its backbone. They are the classifier's own: training them trains it.

    Between a projection and the output layer, classifiers of waveforms take the mean over time. It commutes with the
    projection, so an embedding is the mean of what the head reads. Any other head reads one embedding (D,) of a
    window, or one of each layer of the encoder (L, D).
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        backbone = find_backbone(model)
        for name, child in model.named_children():
            if child is not backbone:
                self.add_module(name, child)

    @property
    def first(self) -> nn.Module:
        """The layer that reads the embeddings."""
        return next(self.children())

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Return `{"logits": (B, K)}` for (B, D) or (B, L, D); the loss of `labels` is for the Trainer to compute."""
        for layer in self.children():
            embeddings = layer(embeddings)
        return {"logits": embeddings}


class ProbeTrainer(GenreTrainer):
    """A trainer of the head of another trainer's model: of windows, it sees their embeddings.

    The backbone is frozen, so embeddings of test tracks and of their corruptions serve every seed and training mix.
    """

    def __init__(self, whole: GenreTrainer, training: EmbeddedTrainingWindows, cache_dir: str | None):
        args = copy.copy(whole.args)
        args.dataloader_num_workers, args.dataloader_prefetch_factor = 0, None
        args.dataloader_persistent_workers = False
        self._whole, self._cache_dir = whole, cache_dir
        super().__init__(
            model=Head(whole.model),
            args=args,
            genres=whole.genres,
            class_weights=whole.class_weights,
            train_dataset=training,
            eval_dataset=self._embed(whole.eval_dataset),
            data_collator=collate_embeddings,
            record=whole.record,
        )

    def _embed(self, windows: EvaluationWindows) -> EmbeddedWindows:
        return EmbeddedWindows(windows, load_embeddings(self._whole, windows, self._cache_dir))

    def evaluate_set(self, windows: EvaluationWindows, name: str) -> EvaluatedSet:
        """As of `GenreTrainer`: the scores of the whole model."""
        return super().evaluate_set(self._embed(windows), name)


def can_cache(trainer: GenreTrainer, option: str) -> bool:
    """Return whether `--cache_embeddings` (auto, always or never) means to train on cached embeddings.

    Raises:
        UserError: "always", but the result would not be the same.
    """
    if option == "never":
        return False
    head = {id(p) for p in Head(trainer.model).parameters()}
    learns_below = any(p.requires_grad and id(p) not in head for p in trainer.model.parameters())
    varying = [
        "any freeze but backbone" if learns_below else None,
        trainer.train_dataset.varying_option,
        trainer.data_collator.varying_option,
    ]
    varying = [name for name in varying if name]
    if option == "always" and varying:
        raise UserError(
            f"cache_embeddings is always, but embeddings do not stay the same under {', '.join(varying)}: it needs "
            "--freeze backbone, --train_windows grid, no augmentation and no mixup"
        )
    return not varying


def choose_trainer(
    trainer: GenreTrainer, clips: datasets.Dataset, window_samples: int, args: DataArguments
) -> GenreTrainer:
    """Return what is to train the model of `trainer`: itself, or a trainer of its head, which sees embeddings.

    A new head that standardises its features is given their statistics here, before anything learns.

    Checkpoints of the latter hold only the head; afterwards the model of `trainer` is trained all the same. Embeddings
    are kept beside the decoded audio of `--waveform_cache_dir`, else in `genre_embeddings` in the Hugging Face cache.

    Args:
        clips: the training mix, whose windows `trainer` has.
    """
    cache_dir = args.waveform_cache_dir and str(Path(args.waveform_cache_dir, "embeddings"))
    grid = EvaluationWindows(clips, window_samples, window_samples)
    caches = can_cache(trainer, args.cache_embeddings)
    standardization = find_standardization(trainer.model)
    if standardization is not None and not standardization.num_windows:
        # A data loader draws a seed: what follows must not depend on whether the embeddings were kept.
        with torch.random.fork_rng(devices=[]):
            fit_standardization(standardization, load_embeddings(trainer, grid, cache_dir))
    if not caches:
        return trainer
    training = EmbeddedTrainingWindows(trainer.train_dataset, grid, load_embeddings(trainer, grid, cache_dir))
    return ProbeTrainer(trainer, training, cache_dir)


def load_embeddings(trainer: GenreTrainer, windows: EvaluationWindows, cache_dir: str | None) -> np.ndarray:
    """Return float32 (W, D) or (W, L, D), from the cache if it has them.

    The key is what they depend on, so nothing goes stale.
    """
    folder = Path(cache_dir or Path(huggingface_hub.constants.HF_HOME, "genre_embeddings")).expanduser()
    path = folder / f"{_make_key(trainer, windows)}.npy"
    # All processes must agree, since they compute together.
    here = torch.tensor(path.is_file(), device=trainer.args.device)
    if bool(trainer.accelerator.gather(here[None]).all()):
        logger.info("Embeddings of %d windows from %s", len(windows), path)
        return np.load(path)
    embeddings = compute_embeddings(trainer, windows)
    if trainer.is_world_process_zero():
        buffer = io.BytesIO()
        np.save(buffer, embeddings)
        write_atomically(path, buffer.getvalue())
    return embeddings


@torch.inference_mode()
def compute_embeddings(trainer: GenreTrainer, windows: EvaluationWindows) -> np.ndarray:
    """Return what the head of the trainer's model reads for every window, float32 (W, D) or (W, L, D).

    Raises:
        UserError: the head is more than the layers above the backbone, one after the other.
    """
    model, accelerator, rows = trainer.model.eval(), trainer.accelerator, []
    batches = trainer.get_test_dataloader(windows)  # before the hook, since it tries how many windows fit
    head, heard = Head(model), []
    hook = head.first.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[0]))
    try:
        for batch in tqdm(batches, desc="Embeddings", leave=False, disable=None):
            inputs = {name: value for name, value in batch.items() if name != "labels"}
            with accelerator.autocast():
                logits = model(**inputs).logits.float()
                embeddings, again = heard[0], head(heard[0])["logits"]
                if again.ndim > logits.ndim:  # a head that takes the mean over time
                    embeddings = embeddings.mean(1)
                    again = head(embeddings)["logits"]
                again = again.float()
            heard.clear()
            # bfloat16 has three digits.
            if not torch.allclose(again, logits, atol=1e-4 if accelerator.mixed_precision == "no" else 0.1):
                raise UserError(
                    f"the head of {type(model).__name__} does not read one embedding: --cache_embeddings never"
                )
            rows.append(accelerator.gather_for_metrics(embeddings.float()).cpu())
    finally:
        hook.remove()
    return torch.cat(rows).numpy()


def _make_key(trainer: GenreTrainer, windows: EvaluationWindows) -> str:
    model = trainer.model
    versions = f"{EMBEDDINGS_VERSION} {torch.__version__} {transformers.__version__}"
    run = f"{trainer.accelerator.mixed_precision} {trainer.args.device.type}"
    texts = versions, run, model.config.to_json_string(), trainer.processing_class.to_json_string()
    key = xxhash.xxh3_128("\n".join((*texts, windows.fingerprint())).encode())
    for name, tensor in find_backbone(model).state_dict().items():
        key.update(name.encode())
        key.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return key.hexdigest()
