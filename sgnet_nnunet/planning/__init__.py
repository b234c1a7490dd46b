"""What nnU-Net asks before training: the plan and the intensity normalisation."""
