"""Runs many fits and evaluations, and tables them side by side with the literature.

A cell is a category, a method and a seed. `grid` plans the cells, `cell` runs one in a process of its own,
`run` starts those processes, `tables` and `markdown` show the results beside published figures.
"""
