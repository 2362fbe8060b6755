"""One HTML page about a run: its settings, curves, and for each evaluation classes, confusion and telling images."""

from semask_d2.report.page import REPORT_NAME, write_report

__all__ = ["REPORT_NAME", "write_report"]
