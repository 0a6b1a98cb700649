"""Fine-tune, evaluate and use an audio model as a music genre classifier: one model, one training mix, one split.

    accelerate launch run_classification.py configs/ast.yaml
    accelerate launch run_classification.py --model_name_or_path ntu-spml/distilhubert --dataset_name path/to/genres
    accelerate launch run_classification.py configs/convnext.yaml configs/train/noisy.yaml --seed 1
    python run_classification.py configs/convnext.yaml --search configs/search/optuna.yaml --num_trials 30
    python run_classification.py --model_name_or_path runs/ast --do_eval --corruptions configs/corruptions.yaml
    python run_classification.py --model_name_or_path runs/ast --do_predict --predict_path ~/Music
    python run_classification.py --model_name_or_path runs/a --ensemble_with runs/b runs/c --do_eval

Options come from any number of YAML files, left to right, and then from the command line.
"""

from hf_utils.launch import claim_folder, expect_processes, importing_libraries, run_script, setup_logging


def main(argv: list[str] | None = None) -> int:
    """Do what the command line asks for; return the exit code."""
    with importing_libraries():
        # Here, because every process that only decodes imports this file, too, and transformers takes a second.
        from hf_utils.arguments.data import DataArguments
        from hf_utils.arguments.model import ModelArguments
        from hf_utils.arguments.parsing import parse_arguments
        from hf_utils.arguments.run_arguments import RunArguments
        from hf_utils.arguments.search_options import SearchArguments
        from hf_utils.arguments.training_options import TrainingOptions

        description, _, examples = __doc__.partition("\n\n")
        model_args, data_args, search_args, training_args, given = parse_arguments(
            (ModelArguments, DataArguments, SearchArguments, TrainingOptions),
            argv,
            description=description,
            examples=examples,
        )
        arguments = RunArguments(model_args, data_args, training_args, given)
        is_main_process = training_args.process_index == 0
        has_clips = search_args.search is not None or training_args.do_train or training_args.do_eval
        setup_logging(is_main_process, with_datasets=has_clips)
        expect_processes(training_args.world_size)
        # What follows is imported here because the Trainer and Optuna take seconds to import, and help and mistakes in
        # options need neither.
        if search_args.search is not None:
            from hf_utils.training.search import run_search
        elif model_args.ensemble_with:
            from hf_utils.training.ensemble import run_ensemble as run
        elif has_clips:
            from hf_utils.training.run import run
        else:
            from hf_utils.training.prediction import run_prediction as run

    if search_args.search is not None:
        print(f"The best options: {run_search(arguments, search_args)}")
        return 0
    with claim_folder(training_args.output_dir, is_main_process=is_main_process):
        return run(arguments)


if __name__ == "__main__":
    run_script(main)
