"""Tasks `piqa_pairs` and `orca_dpo_pairs`: by how much a model prefers the better of two answers."""
