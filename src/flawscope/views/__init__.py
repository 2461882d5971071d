"""Views of a picture, which a network sees: frames of the picture or of its parts, light, region of interest
and tiles, and the way back into the picture. Torch-free.
"""
