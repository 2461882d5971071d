"""Challenge parts: known good and defective parts that a station must judge rightly before it answers."""
