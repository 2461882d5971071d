"""Store of a station: the data base of its records, and the files beside it."""
