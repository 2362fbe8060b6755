"""Choices and defaults that a command line shows, apart from the modules that use them, which are slow to import."""

from __future__ import annotations

TASKS = ("semantic", "instance", "panoptic")
EXPORT_SUFFIXES = {"torch_export": ".pt2", "onnx": ".onnx", "openvino": ".xml"}
TRANSFORMERS = "transformers"  # a format of export that is a folder
EXPORT_FORMATS = (*EXPORT_SUFFIXES, TRANSFORMERS)
REPORT_IMAGES = 6  # per group: worst, best, worst for a class
