"""What tasks and concepts are made of, as plain tuples."""
