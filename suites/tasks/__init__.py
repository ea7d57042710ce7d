"""phibench's tasks: lm-eval YAML with the prompts, parsers and metrics that belong to each."""
