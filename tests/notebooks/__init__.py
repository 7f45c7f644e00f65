"""The notebooks in `notebooks/`: executed in full and stored (`make notebooks`), and in short by the tests."""
