"""SG-Net for nnU-Net v2: hard spatial gating for small brain metastases on MRI."""

__version__ = "0.1.0"
