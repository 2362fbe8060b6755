"""Utilities for the whole project: errors, safe writing of files, lookup by name, run folders, drawing."""
