"""nnU-Net trainers with the SG-Net recipe, their loss and their length."""
