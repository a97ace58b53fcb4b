"""The story of a push: states, verdicts, lifecycle. Knows no library."""
