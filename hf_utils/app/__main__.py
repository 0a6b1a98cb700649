"""`python -m hf_utils.app`."""

from hf_utils.launch import importing_libraries, run_script


def main() -> int:
    """Do what the command line asks for; return the exit code."""
    with importing_libraries():
        from hf_utils.app.app_command import main  # here, so that a missing package is one message

    return main()


run_script(main)
