"""Readers of the layouts in which public medical datasets are handed out, one module per layout."""
