"""The feature browser, page by page and in a real browser."""
