"""Pushing to and continuing from the Hub: `python -m hf_utils.hub` finishes an upload."""
