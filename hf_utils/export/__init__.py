"""A trained classifier as one file for other programs, with its features inside."""
