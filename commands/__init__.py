"""The commands: what each may be given, which room does it, and what is said. `cli.py` registers them."""
