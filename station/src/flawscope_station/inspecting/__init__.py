"""Inspection of a part, from its pictures to the answer: taken, read, judged, recorded (steps: `ticket`)."""
