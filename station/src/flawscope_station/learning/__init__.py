"""Learning from verdicts: candidates for the next version of a model are made beside the inspections, judged,
and activated by a person.
"""
