"""Many fits and evaluations, side by side in the tables of the literature.

A cell is a category, a method and a seed. `grid` says which there are, `cell` works one off in a process of
its own, `run` starts those processes, `tables` and `markdown` show what came out beside published figures.
"""
