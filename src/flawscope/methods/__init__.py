"""The methods behind a common interface, and the modules that they share."""
