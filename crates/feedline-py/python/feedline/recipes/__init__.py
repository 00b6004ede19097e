"""Ready-made training: each module replaces the data loading of a known program and keeps its names."""
