"""What happened and what exists: readers, Dataset, Histories, splits, checks of the data."""
