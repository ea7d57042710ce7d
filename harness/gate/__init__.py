"""The gate: rules on finished cells, and the verdict that becomes an exit code. Needs no torch."""
