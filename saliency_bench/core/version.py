"""The version of this package, which the distribution has too."""

__version__ = "0.2.0"
