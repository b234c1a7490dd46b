"""A comparison to look at: plots, one page that opens offline, and a viewer for every case."""
