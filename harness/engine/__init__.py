"""The engine: answers lm-eval requests with a model. Knows torch and transformers, nothing of suites or stores."""
