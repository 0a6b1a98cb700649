"""Any checkpoint -> genre classifier: loading, heads, freezing, features, and nets of our own."""
