"""Learning from verdicts.

Candidates for the next version of a model are made beside the inspections, judged, and activated by a person.
"""
