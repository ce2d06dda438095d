"""CA-SAM (arXiv 2511.17201) for streams of institutions: the method, without any network code.

Importing this package is cheap: torch is imported only by the modules that need it.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
