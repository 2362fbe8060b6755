"""`EventStorage` and the writers."""

from __future__ import annotations

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from semask_d2.d2 import EventWriter, JSONWriter, TensorboardXWriter, get_event_storage
from tests.helpers.detectron2_names import EventStorage


def test_the_innermost_open_storage_is_the_current_one():
    with EventStorage() as outer:
        with EventStorage() as inner:
            assert get_event_storage() is inner
        assert get_event_storage() is outer
    with pytest.raises(AssertionError, match="EventStorage"):
        get_event_storage()


def test_a_storage_is_left_when_its_block_fails():
    with pytest.raises(ZeroDivisionError), EventStorage():
        _ = 1 / 0
    with pytest.raises(AssertionError):
        get_event_storage()


def test_scalars_belong_to_the_iteration_in_which_they_were_put():
    storage = EventStorage(start_iter=5)
    storage.put_scalar("loss", 3)
    storage.iter = 6
    storage.put_scalars(loss=2, accuracy=0.5, smoothing_hint=True)
    storage.iter = 9
    storage.put_scalar("accuracy", 0.75, cur_iter=8)
    assert storage.iter == 9
    assert storage.latest() == {"loss": (2.0, 6), "accuracy": (0.75, 8)}
    assert storage.history("loss").values() == [(3.0, 5), (2.0, 6)]
    assert set(storage.histories()) == {"loss", "accuracy"}
    assert storage.history("accuracy").latest() == 0.75


def test_an_unknown_scalar_is_an_error_and_stays_unknown():
    storage = EventStorage()
    with pytest.raises(KeyError, match="loss"):
        storage.history("loss")
    assert "loss" not in storage.histories()


def test_smoothing_is_the_median_over_the_last_iterations():
    storage = EventStorage()
    for iteration, value in enumerate([100.0, 1.0, 2.0, 9.0]):
        storage.iter = iteration
        storage.put_scalar("loss", value)
        storage.put_scalar("lr", value, smoothing_hint=False)
    assert storage.latest_with_smoothing_hint(3) == {"loss": (2.0, 3), "lr": (9.0, 3)}
    assert storage.latest_with_smoothing_hint(20)["loss"] == (5.5, 3)


def test_the_window_counts_iterations_not_values():
    storage = EventStorage()
    for iteration in (0, 10, 20):
        storage.put_scalar("loss", iteration, cur_iter=iteration)
    assert storage.count_samples("loss", 10) == 1
    assert storage.count_samples("loss", 11) == 2
    assert storage.latest_with_smoothing_hint(11)["loss"] == (15.0, 20)


def test_a_scalar_keeps_its_smoothing_hint():
    storage = EventStorage()
    storage.put_scalar("lr", 1.0, smoothing_hint=False)
    with pytest.raises(AssertionError, match="lr"):
        storage.put_scalar("lr", 1.0)


def records(path):
    """Return a file's lines by iteration, as their order within one write is undefined."""
    return sorted((json.loads(line) for line in path.read_text().splitlines()), key=lambda record: record["iteration"])


def test_json_has_a_line_per_iteration_with_new_scalars(tmp_path):
    path = tmp_path / "metrics.json"
    writer = JSONWriter(str(path))
    with EventStorage() as storage:
        for storage.iter in range(2):
            storage.put_scalar("loss", 4.0 - 2 * storage.iter)
        writer.write()
        assert records(path) == [{"iteration": 1, "loss": 3.0}]
        writer.write()
        assert len(records(path)) == 1
        storage.put_scalar("mIoU", 50.0, cur_iter=2, smoothing_hint=False)
        storage.put_scalar("loss", 1.0, cur_iter=3)
        writer.write()
    writer.close()
    assert records(path)[1:] == [{"iteration": 2, "mIoU": 50.0}, {"iteration": 3, "loss": 2.0}]


def test_json_is_appended_to_by_a_resumed_run(tmp_path):
    path = tmp_path / "metrics.json"
    for iteration in (0, 1):
        writer = JSONWriter(str(path))
        with EventStorage(iteration) as storage:
            storage.put_scalar("loss", 1.0)
            writer.write()
        writer.close()
    assert [record["iteration"] for record in records(path)] == [0, 1]


def test_tensorboard_gets_each_scalar_once(tmp_path):
    writer = TensorboardXWriter(str(tmp_path), window_size=1)
    assert not list(tmp_path.iterdir())
    with EventStorage() as storage:
        for storage.iter in range(2):
            storage.put_scalar("loss", float(storage.iter))
            writer.write()
            writer.write()
    writer.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(0, 0.0), (1, 1.0)]


def test_a_custom_writer_must_write():
    with pytest.raises(NotImplementedError):
        EventWriter().write()
    assert issubclass(JSONWriter, EventWriter)
    assert issubclass(TensorboardXWriter, EventWriter)
