"""From a model's probabilities to lesions: which threshold, and how small a lesion may be."""
