"""A preprocessed image in, logits out: the network's own part of a prediction, without PyTorch."""
