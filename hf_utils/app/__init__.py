"""A web page to try classifiers on: a recording in, genres over time out, with and without noise."""
