"""From results to figures: every case measured, every model summarised, every pair of them tested."""
