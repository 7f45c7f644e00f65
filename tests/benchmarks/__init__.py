"""saelab beside SAELens, sparsify and dictionary_learning: `make bench-peers`.

Speed, memory and what is learned, on the same activations with the same threads, in one go. The peers live in an
environment of their own, so nothing here is collected by pytest, and only the `peer_*` modules import them.
"""
