"""HTML report of a run: settings, curves and, for each evaluation, classes, confusion matrix and example images."""

from semask_d2.report.page import REPORT_NAME, write_report

__all__ = ["REPORT_NAME", "write_report"]
