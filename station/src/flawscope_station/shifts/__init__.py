"""Shifts: when each begins and ends (`shift`), and reports of them (`reports`)."""
