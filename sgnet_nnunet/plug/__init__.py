"""How nnU-Net finds this package's classes, and how a user checks that it does."""
