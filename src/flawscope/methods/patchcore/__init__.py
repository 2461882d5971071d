"""PatchCore (Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022)."""
