"""Write noisy or otherwise altered copies of a dataset's clips, as a dataset to train or to test on.

    python augment_dataset.py configs/augment/awgn_10db.yaml --output_dir data/gtzan-awgn10 --num_proc 4
    python augment_dataset.py configs/augment/codec.yaml --dataset_name path/to/genres --preview 5    # only a look
    python augment_dataset.py configs/corruptions.yaml --splits test --output_dir data/gtzan-c --push_to_hub me/gtzan-c
    python augment_dataset.py configs/augment/mild.yaml --num_shards 3 --shard_index 0      # one of three machines

Only training clips are copied unless --splits says otherwise. A run that was stopped goes on when its command is given
again, under any number of processes, and writes the same files. --preview writes a few clips before and after, with
spectrograms, into the folder <output_dir>-preview and no dataset.
"""

import sys

from hf_utils.arguments.augmentation import AugmentationArguments, flag_augmentation
from hf_utils.arguments.parsing import parse_arguments
from hf_utils.launch import importing_libraries, run_script, setup_logging


def main(argv: list[str] | None = None) -> int:
    """Do what the command line asks for; return the exit code."""
    description, _, examples = __doc__.partition("\n\n")
    argv = flag_augmentation(sys.argv[1:] if argv is None else argv)
    args, _ = parse_arguments((AugmentationArguments,), argv, description=description, examples=examples)
    setup_logging(is_main_process=True)
    with importing_libraries():
        # Here, because it takes a second to import, and help and mistakes in options should not wait for it.
        from hf_utils.augmentation.augmented_dataset import preview_copies, write_copies

    if args.preview is not None:
        preview_copies(args)
    else:
        write_copies(args)
    return 0


if __name__ == "__main__":
    run_script(main)
