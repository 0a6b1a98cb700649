"""One run: what it trains, how it continues, what it predicts."""
