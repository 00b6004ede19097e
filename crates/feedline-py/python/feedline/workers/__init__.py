"""Worker processes for Datasets of a user's own: they make the batches, and hand them over in memory that processes share."""
