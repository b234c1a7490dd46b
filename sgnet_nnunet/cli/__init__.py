"""The `sgnet` command: one module a command group, thin over the package's functions."""
