"""Volumes in and out: reading NIfTI files with checks, writing them whole or not at all."""
