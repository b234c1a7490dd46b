"""Evaluation of predicted masks: metrics, tables of cases, statistics, FROC curves, tuning."""
