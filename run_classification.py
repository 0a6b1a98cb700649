"""Fine-tune, evaluate and use an audio model as a music genre classifier: one model, one training mix, one split.

    accelerate launch run_classification.py configs/ast.yaml
    accelerate launch run_classification.py --model_name_or_path ntu-spml/distilhubert --dataset_name path/to/genres
    accelerate launch run_classification.py configs/convnext.yaml configs/train/noisy.yaml --seed 1
    python run_classification.py configs/convnext.yaml --search configs/search/optuna.yaml --num_trials 30
    python run_classification.py --model_name_or_path runs/ast --do_eval --corruptions configs/corruptions.yaml
    python run_classification.py --model_name_or_path runs/ast --do_predict --predict_path ~/Music

Options come from any number of YAML files, left to right, and then from the command line.
"""

from hf_utils.arguments.classification import ClassificationTrainingArguments, DataArguments, ModelArguments
from hf_utils.arguments.parsing import parse_arguments
from hf_utils.arguments.search import SearchArguments
from hf_utils.script import run_script


def main(argv: list[str] | None = None) -> int:
    """Do what the command line asks for; return the exit code."""
    description, _, examples = __doc__.partition("\n\n")
    arguments = parse_arguments(
        (ModelArguments, DataArguments, SearchArguments, ClassificationTrainingArguments),
        argv,
        description=description,
        examples=examples,
    )
    # Here, because the Trainer takes seconds to import, and help and mistakes in options shall not wait for it.
    from hf_utils.training.job import run_job

    return run_job(*arguments)


if __name__ == "__main__":
    run_script(main)
