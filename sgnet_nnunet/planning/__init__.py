"""Experiment planner and intensity normalisation of SG-Net for nnU-Net."""
