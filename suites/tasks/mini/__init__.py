"""The `mini_*` tasks: small versions of published tasks on embedded data, for tests and offline machines."""
