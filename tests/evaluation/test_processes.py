"""Two processes give the same results as one: metrics, files, and the loss on a test set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semask_d2 import build_model
from semask_d2.config import with_defaults
from semask_d2.d2 import MetadataCatalog, comm
from semask_d2.evaluation import SemanticEvaluator, mean_loss
from semask_d2.modeling.meta_arch import Execution
from tests.helpers.processes import process_group
from tests.helpers.tiny_model import CLASSES, make_inputs, tiny_cfg

COUNT = 5  # two processes cannot share them evenly
FILES = ("metrics.json", "images.json", "classes.csv")


def evaluate(folder: Path) -> dict:
    """Evaluate this process's share of the images, and return the results of all."""
    MetadataCatalog.get("processes_test").set(stuff_classes=[f"c{i}" for i in range(CLASSES)], ignore_label=255)
    evaluator = SemanticEvaluator("processes_test", output_dir=folder / f"of_{comm.get_world_size()}", boundary=True)
    share = np.array_split(np.arange(COUNT), comm.get_world_size())[comm.get_rank()]
    torch.manual_seed(0)
    model = build_model(tiny_cfg())
    inputs = [x | {"file_name": f"{i}.jpg"} for i, x in enumerate(make_inputs(*[(64, 96)] * COUNT))]
    for i in share:
        rng = np.random.default_rng(int(i))
        truth, prediction = rng.integers(0, CLASSES, (2, 8, 9)).repeat(4, 1).repeat(4, 2)
        path = folder / f"{i}.png"
        if not path.exists():
            Image.fromarray(truth.astype(np.uint8)).save(path)
        x = {"file_name": f"{i}.jpg", "sem_seg_file_name": str(path)}
        evaluator.process([x], [{"sem_seg": torch.from_numpy(prediction)}])
    return evaluator.evaluate()["sem_seg"] | {
        "loss": mean_loss(model, [[inputs[i]] for i in share], with_defaults(Execution))
    }


def one_of_two(rank: int, folder: Path) -> None:
    with process_group(folder / "meeting", rank, 2):
        (folder / f"results{rank}.json").write_text(json.dumps(evaluate(folder)))


@pytest.mark.slow
def test_two_processes_measure_what_one_does(tmp_path: Path) -> None:
    try:
        alone = evaluate(tmp_path)
    finally:
        MetadataCatalog.remove("processes_test")
    torch.multiprocessing.spawn(one_of_two, (tmp_path,), nprocs=2)
    for rank in range(2):
        results = json.loads((tmp_path / f"results{rank}.json").read_text())
        assert results.pop("loss") == pytest.approx(alone["loss"], rel=1e-6)
        assert results == {name: value for name, value in alone.items() if name != "loss"}
    for name in FILES:
        one, two = (tmp_path / f"of_{count}/processes_test/{name}" for count in (1, 2))
        assert one.read_bytes() == two.read_bytes()


def test_the_loss_is_the_mean_over_images_however_they_are_batched() -> None:
    torch.manual_seed(0)
    model = build_model(tiny_cfg()).train()
    inputs = [x | {"file_name": f"{i}.jpg"} for i, x in enumerate(make_inputs((64, 96), (96, 64), (64, 64)))]
    state = torch.get_rng_state()
    execution = with_defaults(Execution)
    together = mean_loss(model, [inputs], execution)
    assert torch.equal(torch.get_rng_state(), state)  # the evaluation leaves no trace in the training
    assert model.training
    assert all(module.training for module in model.modules())
    assert together == mean_loss(model, [[x] for x in reversed(inputs)], execution)
    assert together == pytest.approx(np.mean([mean_loss(model, [[x]], execution) for x in inputs]), rel=1e-6)
