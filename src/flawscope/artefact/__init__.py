"""The files that flawscope writes and reads: models, checkpoints, certificates. Torch-free."""
