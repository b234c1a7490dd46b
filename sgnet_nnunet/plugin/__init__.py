"""Registration of this package's classes with nnU-Net, and the check of an installation."""
