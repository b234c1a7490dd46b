"""Where a prediction's time goes, beside nnU-Net's own: the parts of `benchmarks/inference.py`."""
