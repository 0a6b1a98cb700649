"""Model and dataset cards that no name can break."""
