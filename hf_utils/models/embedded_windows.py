"""Windows as embeddings: what a frozen backbone makes of them. W windows, D dimensions of an embedding, B batch."""

import numpy as np
import torch

from hf_utils.data.windows import EvaluationWindows, TrainingWindows


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
        _, start = self._windows.draw(index)
        return {"embedding": self._embeddings[self._rows[index, start]], "label": int(self._labels[index])}


def collate_embeddings(windows: list[dict]) -> dict[str, torch.Tensor]:
    """Return the inputs of a `Head`: embeddings (B, D) and labels (B,)."""
    return {
        "embeddings": torch.from_numpy(np.stack([window["embedding"] for window in windows])),
        "labels": torch.tensor([window["label"] for window in windows]),
    }
