"""`EventStorage.put_image`: images on their way to TensorBoard."""

from __future__ import annotations

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from semask_d2.d2 import TensorboardXWriter
from tests.helpers.detectron2_names import EventStorage


def test_tensorboard_gets_each_picture_once(tmp_path) -> None:
    writer = TensorboardXWriter(str(tmp_path))
    with EventStorage(start_iter=3) as storage:
        storage.put_image("predictions/a", torch.zeros(3, 4, 6, dtype=torch.uint8))
        storage.iter = 5
        storage.put_image("predictions/a", torch.ones(3, 4, 6))
        writer.write()
        writer.write()
    writer.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    images = events.Images("predictions/a")
    assert [(image.step, image.height, image.width) for image in images] == [(3, 4, 6), (5, 4, 6)]


def test_cleared_pictures_are_not_written(tmp_path) -> None:
    writer = TensorboardXWriter(str(tmp_path))
    with EventStorage() as storage:
        storage.put_scalar("loss", 1.0)
        storage.put_image("a", torch.zeros(3, 4, 6))
        storage.clear_images()
        writer.write()
    writer.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["images"] == []
