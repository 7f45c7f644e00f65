"""Speed measurements against floors taken in the same run."""
