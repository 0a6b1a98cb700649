"""Real weights from packages of the Python package registry: `python -m hf_utils.models.packaged`."""
