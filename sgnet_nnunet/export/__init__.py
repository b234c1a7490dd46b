"""Trained networks in other programs' formats."""
