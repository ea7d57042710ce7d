"""The harness: plans and runs a suite, stores records, compares variants."""
