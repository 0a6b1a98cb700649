"""A table of runs from one file: `python -m hf_utils.study`."""
