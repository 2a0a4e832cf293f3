"""Apache Flink: jobs of SQL over the log of events. Flink has a Python of its own, which this package only starts."""
