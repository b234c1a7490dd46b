"""SG-Net, its gates, and the networks it is compared with."""
