"""The methods behind one interface, and what they share."""
