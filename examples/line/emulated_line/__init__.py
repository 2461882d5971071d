"""A line to try a station with: an emulated camera, a sink that writes CSV, and a PLC."""
