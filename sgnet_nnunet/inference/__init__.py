"""Trained models, loaded from nnU-Net's folders and applied."""
