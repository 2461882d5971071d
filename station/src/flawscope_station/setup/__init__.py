"""New products made on the station's pages: from pictures of good parts to a model that inspects."""
