"""The version of the package, for the package itself and for its installation."""

__version__ = "0.3.0"
