"""Measurements of saelab itself: speed beside floors of the same run, and what variants find in planted worlds."""
