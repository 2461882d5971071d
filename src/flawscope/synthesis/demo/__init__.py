"""A data set that is drawn, so that nothing has to be downloaded."""
