"""Runs that are killed at random moments and started again must end as undisturbed ones: `make torture`."""
