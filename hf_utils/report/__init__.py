"""Many runs -> one page: `python -m hf_utils.report`."""
