"""What phibench runs, as data: suites, tasks in lm-eval's own format, and the embedded mini data."""
