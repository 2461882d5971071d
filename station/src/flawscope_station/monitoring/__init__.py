"""Threads that are watched and begun again, and the problems that people should see to."""
