"""The main job end to end on phantoms: from a collection on disk to scored masks and a picture."""
