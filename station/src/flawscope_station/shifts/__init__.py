"""Shifts: `shift`, when each begins and ends; `reports` of them."""
