"""Genres in the tags of the user's own files: planned, shown, written, verified and undone."""
