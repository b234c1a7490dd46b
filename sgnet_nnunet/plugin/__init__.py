"""How nnU-Net finds the classes of this package."""
