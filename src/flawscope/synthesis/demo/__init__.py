"""Generated data set: nothing has to be downloaded."""
