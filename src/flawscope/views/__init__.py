"""Views of a picture, which a network sees, and the way back into the picture. Torch-free.

A view is a frame of the picture or of a part, in corrected light, within a region of interest, whole or a
tile.
"""
