"""From the TCIA collection to an nnU-Net data set: T1ce and FLAIR on one grid, split by patient."""
