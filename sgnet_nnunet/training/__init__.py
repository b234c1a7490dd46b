"""Trainers for nnU-Net, their losses, data loading and settings."""
