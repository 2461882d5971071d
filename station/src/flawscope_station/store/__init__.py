"""Store of a station: the database of its records, and the files beside it."""
