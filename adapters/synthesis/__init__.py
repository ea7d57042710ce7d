"""Making training data with a model: seeds are expanded, answered, asked back, answered again. Imports no torch."""
