"""Ready-made training: each module stands in for a known program and keeps its names."""
