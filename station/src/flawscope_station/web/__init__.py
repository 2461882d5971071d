"""HTTP interface and pages of a station."""
