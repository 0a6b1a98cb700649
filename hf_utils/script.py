"""What surrounds the `main` of a script: its exit code, and the user's mistakes without a traceback."""

import sys
from collections.abc import Callable

from hf_utils.errors import UserError


def run_script(main: Callable[[], int]) -> None:
    """Call `main` and exit with its code; a user's mistake prints its message alone and exits with 2.

    The process group, if any, is ended last: a group that is alive at interpreter exit aborts some runs on CPU after
    correct results.
    """
    try:
        code = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print(
            "Interrupted. The same command continues; for training, with --resume_from_checkpoint auto added.",
            file=sys.stderr,
        )
        code = 130
    finally:
        distributed = sys.modules.get("torch.distributed")  # a mistake in the options ends before it is imported
        if distributed is not None and distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()
    sys.exit(code)
