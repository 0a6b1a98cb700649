"""Transforms described in YAML: noisy copies, on the fly, and corruptions."""
