"""From data dirs to batches: the epoch plan, the data set, the loader."""
