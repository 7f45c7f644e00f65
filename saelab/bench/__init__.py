"""Measurements of saelab itself: speed beside floors taken in the same run, and what variants find in planted worlds."""
