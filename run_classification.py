"""Fine-tune, evaluate and use an audio model as a music genre classifier: one model, one training mix, one split.

    accelerate launch run_classification.py configs/ast.yaml
    accelerate launch run_classification.py --model_name_or_path ntu-spml/distilhubert --dataset_name path/to/genres
    accelerate launch run_classification.py configs/convnext.yaml configs/train/noisy.yaml --seed 1
    python run_classification.py configs/convnext.yaml --search configs/search/optuna.yaml --num_trials 30
    python run_classification.py --model_name_or_path runs/ast --do_eval --corruptions configs/corruptions.yaml
    python run_classification.py --model_name_or_path runs/ast --do_predict --predict_path ~/Music

Options come from any number of YAML files, left to right, and then from the command line.
"""

from hf_utils.arguments.data import DataArguments
from hf_utils.arguments.model import ModelArguments
from hf_utils.arguments.parsing import parse_arguments
from hf_utils.arguments.training import ClassificationTrainingArguments, SearchArguments
from hf_utils.launch import run_script
from hf_utils.training.past_runs import adopt_data_options


def main(argv: list[str] | None = None) -> int:
    """Do what the command line asks for; return the exit code."""
    description, _, examples = __doc__.partition("\n\n")
    model_args, data_args, search_args, training_args = parse_arguments(
        (ModelArguments, DataArguments, SearchArguments, ClassificationTrainingArguments),
        argv,
        description=description,
        examples=examples,
    )
    # Here, because the Trainer takes seconds to import, and help and mistakes in options shall not wait for it.
    from hf_utils import launch
    from hf_utils.training import run

    is_main_process = training_args.process_index == 0
    launch.setup_logging(is_main_process)
    launch.expect_processes(training_args.world_size)
    if not training_args.do_train:
        data_args = adopt_data_options(data_args, model_args, training_args)
    arguments = model_args, data_args, training_args
    if search_args.search is not None:
        return run.search(arguments, search_args)
    with launch.claim_folder(training_args.output_dir, is_main_process=is_main_process):
        if training_args.do_train or training_args.do_eval:
            run.train_and_evaluate(*arguments)
        if training_args.do_predict and is_main_process:
            return run.predict(*arguments)
    return 0


if __name__ == "__main__":
    run_script(main)
