"""Settings of a station, read from its file and checked."""
