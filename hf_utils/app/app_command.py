"""A web page to try one classifier, or two side by side, on your own music; everything stays on this machine.

    python -m hf_utils.app runs/ast                       # prints the address of the page
    python -m hf_utils.app runs/clean runs/noisy --unknown_below 0.6
    python -m hf_utils.app me/gtzan-ast --push_to_space me/genres

The answers are those of `run_classification.py --do_predict`. Uploads are removed when they are answered, and all
other files when the page ends. A Space shows the same page on the Hub, with models that are there.
"""

import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hf_utils.arguments.run_arguments import RunArguments
from hf_utils.launch import importing_libraries, module_parser, setup_logging
from hf_utils.training.past_runs import adopt_data_options


def make_arguments(name: str, unknown_below: float | None) -> RunArguments:
    """Return the options of `--do_predict` for a model, with the windows of the run that trained it.

    Raises:
        UserError: `unknown_below` is no probability between 0 and 1, or the run's options cannot be read.
    """
    words = ["--model_name_or_path", name, "--do_predict", "--predict_path", os.curdir]
    if unknown_below is not None:
        words += ["--unknown_below", str(unknown_below)]
    return adopt_data_options(RunArguments.parse(words))


def show_page(models: Sequence[RunArguments]) -> None:
    """Load models and serve the page until it is interrupted. Raises UserError as `AskedModel`."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the folder is removed, at any time
    with tempfile.TemporaryDirectory(prefix="genre-page-") as folder:
        # Apart, since a browser opens whatever is beside the sounds: an uploaded page would be one of this site.
        uploads, sounds = Path(folder, "uploads"), Path(folder, "sounds")
        os.environ["GRADIO_TEMP_DIR"] = str(uploads)
        sounds.mkdir()
        with importing_libraries():  # here, because mistakes in options need neither Gradio nor PyTorch
            from hf_utils.app.asked_models import AskedModel, show_names
            from hf_utils.app.gradio_page import make_page, serve_page

        names = show_names([arguments.model.model_name_or_path for arguments in models])
        page = make_page([AskedModel(*each) for each in zip(models, names, strict=True)], sounds)
        try:
            print(f"The page: {serve_page(page, sounds)} (Ctrl-C ends it)", flush=True)
            signal.pause()
        except KeyboardInterrupt:
            pass
        finally:
            page.close(verbose=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; return the exit code. Raises UserError."""
    parser = module_parser("hf_utils.app", __doc__)
    parser.add_argument("model", help="folder of a trained classifier, its name on the Hub, or an exported file")
    parser.add_argument("second_model", nargs="?", help="another one, to be shown beside it")
    parser.add_argument(
        "--unknown_below",
        type=float,
        metavar="P",
        help="answer unknown where the likeliest genre is less probable (default: always the likeliest genre)",
    )
    parser.add_argument(
        "--push_to_space", metavar="NAME", help="write a Space such as me/genres instead, with models of the Hub"
    )
    args = parser.parse_args(argv)
    setup_logging(True, with_datasets=False)
    models = [make_arguments(name, args.unknown_below) for name in (args.model, args.second_model) if name]
    if args.push_to_space:
        from hf_utils.app.space_files import push_space

        print(f"Pushed: {push_space(args.push_to_space, models)}")
    else:
        show_page(models)
    return 0
