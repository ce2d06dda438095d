"""How one task is learned (CA-SAM, arXiv 2511.17201): the alignment layer, its losses, and training on stored embeddings.

Knows one task at a time; what becomes of several stands in `bank` and `inference`.
"""
