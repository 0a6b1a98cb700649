"""What a run says of its model: scores, files, pictures."""
