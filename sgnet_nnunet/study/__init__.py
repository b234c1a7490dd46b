"""A whole study, from the conversion to the report, as one workflow of Snakemake."""
