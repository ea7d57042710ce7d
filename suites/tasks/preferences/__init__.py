"""Tasks `piqa_pairs`, `orca_dpo_pairs` and `webglm_pairs`: by how much a model prefers the better of two answers."""
