"""Events and what is known of items and users, at rest: an append-only log that loses nothing it has acknowledged."""
