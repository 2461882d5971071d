"""Review of a run: a person's decisions about its pictures, in the browser."""
