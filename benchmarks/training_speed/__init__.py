"""Where a training step's time goes: the parts of `benchmarks/training.py`."""
