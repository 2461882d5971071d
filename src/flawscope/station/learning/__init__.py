"""What people said of pictures becomes the next version of a model: made beside the inspections, judged, and
live only by a click or by a stated rule."""
