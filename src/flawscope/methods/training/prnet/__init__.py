"""PRN, prototypical residual networks (Zhang et al., CVPR 2023)."""
