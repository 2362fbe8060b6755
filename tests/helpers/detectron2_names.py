"""Names of the backend in use that the project itself does not import, for tests of the backends."""

from __future__ import annotations

from semask_d2 import d2

if d2.BACKEND == "detectron2":
    from detectron2.evaluation import DatasetEvaluators, inference_on_dataset, print_csv_format, verify_results
    from detectron2.utils.events import EventStorage
else:
    from semask_d2.d2.native.evaluation import (
        DatasetEvaluators,
        inference_on_dataset,
        print_csv_format,
        verify_results,
    )
    from semask_d2.d2.native.events import EventStorage

__all__ = ["DatasetEvaluators", "EventStorage", "inference_on_dataset", "print_csv_format", "verify_results"]
