"""Generate music per genre, as training data for a genre classifier: exact numbers, provenance on every clip.

    accelerate launch generate_music.py configs/generate/musicgen_small.yaml --clips_per_genre 80
    accelerate launch generate_music.py --model_name_or_path facebook/musicgen-medium --genres blues jazz
    python generate_music.py configs/generate/musicgen_small.yaml --preview 3
    python generate_music.py configs/generate/musicgen_small.yaml --report laion/larger_clap_music
    python generate_music.py configs/generate/musicgen_small.yaml --score_with runs/ast    # also when all is there

A run that was stopped goes on when its command is given again, under any number of processes, and gives the same
clips. Scores are columns beside the clips: they can be asked for at once, or later for a finished folder.
"""

import sys

from hf_utils.arguments.generation import GenerationArguments
from hf_utils.arguments.parsing import parse_arguments
from hf_utils.hub.repository import open_dataset_repository
from hf_utils.launch import importing_libraries, run_script


def main(argv: list[str] | None = None) -> int:
    """Do what the command line asks for; return the exit code, 1 if clips are missing that were to be made here."""
    description, _, examples = __doc__.partition("\n\n")
    args, _ = parse_arguments((GenerationArguments,), argv, description=description, examples=examples)
    with importing_libraries():
        # Here, because generators take seconds to import, and help and mistakes in options should not wait for them.
        from hf_utils.generation import dataset_run, plan
        from hf_utils.generation.synthesis import BatchError

    state = dataset_run.start_process()
    recipe = plan.make_recipe(args, state.device)
    if args.preview is not None:
        if state.is_main_process:
            print(f"{plan.describe_prompts(recipe, args.preview)}\n\n{plan.describe_cost(recipe)}")
        return 0
    shards = dataset_run.open_dataset(args, recipe, state.device)
    repository = open_dataset_repository(args)
    try:
        is_last = dataset_run.make_dataset(args, recipe, shards, state, repository and repository.name)
    except BatchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if is_last:
        dataset_run.publish(args, recipe, shards, state.device, repository)
    return 0


if __name__ == "__main__":
    run_script(main)
