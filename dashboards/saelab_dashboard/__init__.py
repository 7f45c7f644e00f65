"""The pages of the feature browser, one module each with `show()`, and what they share."""
