"""Evaluators, the loop over a dataset, and logging and verifying the results."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from semask_d2.d2 import DatasetEvaluator, get_cfg
from tests.helpers.detectron2_names import DatasetEvaluators, inference_on_dataset, print_csv_format, verify_results
from tests.helpers.toy_run import Accuracy


class Watched(nn.Module):
    """Records the mode in which it is called."""

    def __init__(self):
        super().__init__()
        self.states = []

    def forward(self, batch):
        self.states.append((self.training, torch.is_grad_enabled()))
        return batch


class Constant(DatasetEvaluator):
    def __init__(self, results):
        self.results = results

    def evaluate(self):
        return self.results


BATCHES = [[1, 2], [3, 4]]


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_in_eval_mode_without_gradients_and_then_as_before(training):
    model = Watched().train(training)
    results = inference_on_dataset(model, BATCHES, Accuracy())
    assert model.states == [(False, False)] * 2
    assert model.training is training
    assert torch.is_grad_enabled()
    assert results["sem_seg"]["mIoU"] == 100


def test_the_evaluator_is_reset_each_time():
    evaluator = Accuracy()
    for _ in range(2):
        results = inference_on_dataset(lambda batch: batch, BATCHES, evaluator)
    assert results["sem_seg"]["mIoU"] == 100


def test_the_evaluator_gets_inputs_with_their_outputs():
    class Pairs(DatasetEvaluator):
        def reset(self):
            self.pairs = []

        def process(self, inputs, outputs):
            self.pairs += zip(inputs, outputs, strict=True)

        def evaluate(self):
            return {"pairs": self.pairs}

    results = inference_on_dataset(lambda batch: [10 * x for x in batch], BATCHES, Pairs())
    assert results == {"pairs": [(1, 10), (2, 20), (3, 30), (4, 40)]}


@pytest.mark.parametrize("evaluator", [None, Constant(None), DatasetEvaluators([Constant(None)])])
def test_no_results_are_an_empty_dict(evaluator):
    assert inference_on_dataset(lambda batch: batch, BATCHES, evaluator) == {}


def test_several_evaluators_work_as_one():
    several = [Accuracy(), Constant({"speed": {"fps": 1.0}})]
    results = inference_on_dataset(lambda batch: batch, BATCHES, several)
    assert results == {"sem_seg": {"mIoU": 100.0, "IoU-wall": 1.0}, "speed": {"fps": 1.0}}


def test_several_evaluators_may_not_use_the_same_task():
    with pytest.raises(AssertionError, match="sem_seg"):
        DatasetEvaluators([Constant({"sem_seg": {}}), Constant({"sem_seg": {}})]).evaluate()


def test_the_loop_logs_how_many_batches_and_how_long(d2_log):
    inference_on_dataset(lambda batch: batch, BATCHES, None)
    assert "Start inference on 2 batches" in d2_log.text
    assert "Total inference time: 0:00:0" in d2_log.text


def test_results_are_logged_as_two_lines_without_the_classes(d2_log):
    print_csv_format({"sem_seg": {"mIoU": 12.34567, "fwIoU": 2.0, "IoU-wall": 3.0}})
    lines = [record.getMessage() for record in d2_log.records]
    assert lines == ["copypaste: Task: sem_seg", "copypaste: mIoU,fwIoU", "copypaste: 12.3457,2.0000"]


def expecting(*expected):
    cfg = get_cfg()
    cfg.TEST.EXPECTED_RESULTS = list(expected)
    return cfg


def test_results_within_the_tolerance_are_fine():
    assert verify_results(expecting(), {}) is True
    cfg = expecting(["sem_seg", "mIoU", 50.0, 0.5], ["sem_seg", "fwIoU", 60.0, 0.5])
    assert verify_results(cfg, {"sem_seg": {"mIoU": 50.4, "fwIoU": 59.6}}) is True


@pytest.mark.parametrize("figures", [{"mIoU": 50.6}, {"mIoU": 49.4}, {"mIoU": float("nan")}, {"fwIoU": 50.0}])
def test_results_that_miss_the_expectation_end_the_program(figures, d2_log):
    with pytest.raises(SystemExit) as exit_:
        verify_results(expecting(["sem_seg", "mIoU", 50.0, 0.5]), {"sem_seg": figures})
    assert exit_.value.code == 1
    assert "Result verification failed!" in d2_log.text
