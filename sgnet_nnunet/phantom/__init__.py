"""Phantom patients: realistic synthetic brain metastases in the collection's own layout on disk."""
