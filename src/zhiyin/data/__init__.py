"""What happened and what exists: readers, Dataset, Histories, splits, the data doctor."""
