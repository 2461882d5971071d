"""From a file to the network's input and back. Torch-free."""
