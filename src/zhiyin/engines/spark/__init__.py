"""Apache Spark as an engine: sessions, tasks, exchanges of rows, and the jobs made of them."""
