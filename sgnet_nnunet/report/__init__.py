"""Reports of a comparison: tables, plots, an HTML page that opens offline, and a viewer of cases."""
