"""The options of generate_music.py."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from hf_utils.arguments.made_dataset import MadeDatasetArguments
from hf_utils.arguments.options import option
from hf_utils.errors import UserError

_generator = partial(option, group="generator")
_clips = partial(option, group="clips")
_real = partial(option, group="real clips (only for --continue_from and --report)")
_scores = partial(option, group="scores, as columns (at once, or later for a finished folder)")
_job = partial(option, group="what to do, and where")


def _dataset_folder(options: Mapping[str, Any]) -> str:
    name = options.get("model_name_or_path", "synthetic")
    return str(Path("data", Path(name).name))


@dataclasses.dataclass
class GenerationArguments(MadeDatasetArguments):
    """What to generate, with what, how much of it, and from which real clips. Raises UserError on contradictions."""

    model_name_or_path: str = _generator(
        "facebook/musicgen-small",
        "Generator: a MusicGen (mono or stereo), or a text-to-audio pipeline of diffusers (AudioLDM2, Stable Audio, "
        "ACE-Step, LongCat). Which of the two follows from the checkpoint.",
        metavar="NAME_OR_FOLDER",
    )
    model_revision: str | None = _generator(
        None, "Branch, tag or commit of the checkpoint. (default: its main branch)"
    )
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = _generator(
        "auto", "Numbers in the network. (default: auto = bf16 where the GPU or CPU has it in hardware, else fp32)"
    )
    guidance_scale: float | None = _generator(
        None, "Weight of the text; 1 switches guidance off. (default: 3 for MusicGen, else the pipeline's)", at_least=1
    )
    top_k: int | None = _generator(
        None, "Most likely tokens to draw from; MusicGen only. (default: 250)", metavar="TOKENS", at_least=1
    )
    temperature: float | None = _generator(None, "Of the softmax; MusicGen only. (default: 1)", above=0)
    inference_steps: int | None = _generator(
        None, "Denoising steps; diffusion only. (default: the pipeline's)", metavar="STEPS", at_least=1
    )
    batch_size: int = _generator(
        8, "Clips per batch. Part of the seed rule: another batch size gives other clips.", metavar="CLIPS", at_least=1
    )

    genres: list[str] | None = _clips(
        None, "Genres, one or more. (default: the ten of GTZAN, or those of --continue_from)", metavar="GENRE"
    )
    clips_per_genre: int = _clips(80, "Clips of each genre, exactly.", metavar="CLIPS", at_least=1)
    clip_seconds: float = _clips(30.0, "Length of a clip, in seconds, exactly.", metavar="SECONDS", at_least=1)
    prompts: str | None = _clips(
        None,
        "Prompts per genre: YAML (lists and templates), CSV (genre,prompt) or text (`genre: prompt` lines). (default: "
        "configs/generate/prompts.yaml of this project)",
        metavar="FILE",
    )
    sampling_rate: int = _clips(22050, "Sampling rate of the clips, in Hz; GTZAN's own.", metavar="HZ", at_least=8000)
    rms_db: float = _clips(
        -20.0,
        "Loudness of every clip, in dBFS RMS; lower where its peak would pass full scale.",
        at_least=-40,
        below=0,
    )
    max_attempts: int = _clips(4, "Times that a clip that fails the checks is made at most.", at_least=1)
    seed: int = _clips(42, "Seed of prompts and audio.")

    continue_from: str | None = _real(
        None,
        "Start every clip from a real clip of its genre: a dataset, of which only the training split is used. The "
        "real part is cut off again. MusicGen only. (default: only from text)",
        metavar="NAME_OR_PATH",
    )
    prompt_seconds: float | None = _real(
        None, "How much of the real clip is heard, in seconds. (default: 5)", metavar="SECONDS", at_least=0.5
    )
    dataset_name: str = _real(
        "sanchit-gandhi/gtzan", "Real clips that --report compares with.", metavar="NAME_OR_PATH"
    )

    clap_model: str | None = _scores(
        None, "CLAP model for a zero-shot genre, such as laion/larger_clap_music. (default: none)", metavar="NAME"
    )
    score_with: str | None = _scores(
        None, "Folder of a run of run_classification.py, for the probability of the genre.", metavar="FOLDER"
    )
    overwrite_scores: bool = _scores(False, "Replace scores that another model gave.")

    output_dir: str | None = _job(
        None, "Folder of the dataset. (default: data/<model>)", metavar="FOLDER", derive=_dataset_folder
    )
    preview: int | None = _job(
        None, "Only show the prompts of so many clips per genre, and the cost.", metavar="CLIPS", at_least=1
    )
    report: str | None = _job(
        None,
        "Compare with real training clips, on embeddings of this checkpoint (CLAP, or any audio model). (default: no)",
        metavar="NAME_OR_FOLDER",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.overwrite_scores and self.clap_model is None and self.score_with is None:
            raise UserError(
                "overwrite_scores is given, but neither clap_model nor score_with, which would replace any"
            )
        if self.prompt_seconds is not None and self.continue_from is None:
            raise UserError("prompt_seconds is given, but not continue_from, which would use it")
        changed = self.changed_source()
        if changed and self.continue_from is None and self.report is None:
            raise UserError(
                f"{', '.join(changed)} {'is' if len(changed) == 1 else 'are'} given, but neither continue_from nor "
                "report, which would use real clips"
            )
        if self.continue_from is not None:
            if "dataset_name" in changed and self.dataset_name != self.continue_from:
                raise UserError(
                    f"dataset_name is {self.dataset_name}, but continue_from is {self.continue_from}: a report "
                    "compares with the clips that were continued, so leave dataset_name out"
                )
            self.dataset_name = self.continue_from
            self.prompt_seconds = self.prompt_seconds or 5.0
