"""Learning from verdicts.

Candidates for the next version of a model are made while inspections go on. A person activates them.
"""
