"""Synthetic clips: prompts, generators, gates, scores and their report."""
