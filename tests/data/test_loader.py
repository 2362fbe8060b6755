"""Loaders give the same stream for any workers, ranks and restarts, and errors arrive as one line."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semask_d2.d2 import DatasetCatalog, MetadataCatalog, comm
from semask_d2.data import build_test_loader, build_train_loader
from semask_d2.utils.errors import UserError


@pytest.fixture
def name(pairs, request):
    name = f"loader_test_{request.node.name}"
    DatasetCatalog.register(name, lambda: pairs)
    MetadataCatalog.get(name).set(stuff_classes=list("abcde"), ignore_label=255)
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def train_batches(cfg, dicts, count, start_iter=0, **arguments):
    loader = build_train_loader(cfg, dicts=dicts, **arguments).starting_at(start_iter, seed=7)
    return list(islice(loader, count))


def flat(batches):
    return [sample for batch in batches for sample in batch]


def assert_same(a, b):
    assert [s["file_name"] for s in a] == [s["file_name"] for s in b]
    for left, right in zip(a, b, strict=True):
        assert torch.equal(left["image"], right["image"])
        assert torch.equal(left["sem_seg"], right["sem_seg"])


def test_the_number_of_workers_changes_nothing(cfg, pairs):
    cfg.INPUT.COLOR_AUG_SSD = True
    expected = flat(train_batches(cfg, pairs, 9))
    assert len(expected) == 18
    for workers in (1, 2):
        cfg.DATALOADER.NUM_WORKERS = workers
        assert_same(flat(train_batches(cfg, pairs, 9)), expected)


def test_a_resumed_stream_goes_on_where_it_was(cfg, pairs):
    uninterrupted = flat(train_batches(cfg, pairs, 9))
    resumed = flat(train_batches(cfg, pairs, 4)) + flat(train_batches(cfg, pairs, 5, start_iter=4))
    assert_same(resumed, uninterrupted)


def test_accumulation_and_ranks_split_the_same_stream(cfg, pairs, monkeypatch):
    cfg.SOLVER.IMS_PER_BATCH = 8
    whole = flat(train_batches(cfg, pairs, 3, start_iter=2))
    cfg.SOLVER.GRADIENT_ACCUMULATION_STEPS = 2
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    ranks = []
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        ranks.append(train_batches(cfg, pairs, 6, start_iter=2))
    assert {len(batch) for batch in ranks[0]} == {2}
    assert_same([sample for parts in zip(*ranks, strict=True) for sample in flat(parts)], whole)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_users_mistake_crosses_from_a_worker_as_it_is(cfg, pairs, workers):
    cfg.DATALOADER.NUM_WORKERS = workers
    Image.fromarray(np.full((30, 40), 77, np.uint8)).save(pairs[3]["sem_seg_file_name"])
    with pytest.raises(UserError, match=r"^\S+3\.png holds label id 77, but .*NUM_CLASSES is 5") as caught:
        train_batches(cfg, pairs, 4)
    assert "\n" not in str(caught.value)


def test_training_stops_at_an_unreadable_image_unless_configured(cfg, pairs, caplog):
    Path(pairs[2]["file_name"]).write_bytes(b"no image")
    with pytest.raises(UserError, match=r"2\.image\.png cannot be read as an image"):
        train_batches(cfg, pairs, 4)
    cfg.INPUT.SKIP_UNREADABLE = True
    seen = [Path(sample["file_name"]).name for sample in flat(train_batches(cfg, pairs, 7))]  # two epochs
    assert len(seen) == 14
    assert "2.image.png" not in seen
    assert set(seen) == {f"{i}.image.png" for i in (0, 1, 3, 4, 5, 6)}
    assert "2.image.png cannot be read" in caplog.text
    for pair in pairs:
        Path(pair["file_name"]).unlink(missing_ok=True)
    with pytest.raises(UserError, match="does not exist"):
        train_batches(cfg, pairs, 1)


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_skips_unreadable_images_with_a_count(cfg, name, pairs, caplog, workers):
    cfg.DATALOADER.NUM_WORKERS = workers
    whole = Path(pairs[2]["file_name"]).read_bytes()
    Path(pairs[2]["file_name"]).write_bytes(whole[: len(whole) // 2])
    Path(pairs[5]["file_name"]).unlink()
    seen = [Path(sample["file_name"]).name for sample in flat(build_test_loader(cfg, name))]
    assert seen == [f"{i}.image.png" for i in (0, 1, 3, 4, 6)]
    assert "2 unreadable image(s) skipped" in caplog.text
    assert "2.image.png" in caplog.text
    assert "5.image.png" in caplog.text


def test_a_batch_that_does_not_divide(cfg, pairs):
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.GRADIENT_ACCUMULATION_STEPS = 6, 4
    message = r"IMS_PER_BATCH is 6, .* 1 process\(es\) x SOLVER.GRADIENT_ACCUMULATION_STEPS 4: .* multiple of 4"
    with pytest.raises(UserError, match=message):
        train_batches(cfg, pairs, 1)
    cfg.SOLVER.GRADIENT_ACCUMULATION_STEPS = 0
    with pytest.raises(UserError, match=r"GRADIENT_ACCUMULATION_STEPS is 0; expected 1 or more"):
        train_batches(cfg, pairs, 1)


def test_num_classes_is_the_data_sets(cfg, name):
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 4
    cfg.DATASETS.TRAIN = (name,)
    message = rf'NUM_CLASSES is 4, but dataset "{name}" has 5 classes: set it to 5'
    with pytest.raises(UserError, match=message):
        build_train_loader(cfg)
    with pytest.raises(UserError, match=message):
        build_test_loader(cfg, name)


def test_training_reads_the_named_data_sets(cfg, name, pairs):
    cfg.DATASETS.TRAIN = (name,)
    cfg.SOLVER.IMS_PER_BATCH = 7
    epoch = next(iter(build_train_loader(cfg)))
    assert sorted(s["file_name"] for s in epoch) == sorted(p["file_name"] for p in pairs)
    cfg.DATASETS.TRAIN = ()
    with pytest.raises(UserError, match=r"no dataset to train on: add --data my\.yaml"):
        build_train_loader(cfg)


def test_images_without_instances_leave_nothing_to_train_on(cfg, name, pairs):
    pairs[:] = [{**x, "annotations": [{"iscrowd": 1}] * (i % 2)} for i, x in enumerate(pairs)]
    cfg.DATASETS.TRAIN = (name,)
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = True
    message = rf"TRAIN {name}: none of {len(pairs)} image\(s\) has a usable instance.*FILTER_EMPTY_ANNOTATIONS False"
    with pytest.raises(UserError, match=message):
        build_train_loader(cfg)
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    build_train_loader(cfg)


@pytest.mark.parametrize("world_size", [1, 3])
def test_evaluation_shows_every_image_once_in_order(cfg, name, pairs, monkeypatch, world_size):
    monkeypatch.setattr(comm, "get_world_size", lambda: world_size)
    seen = []
    for rank in range(world_size):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        loader = build_test_loader(cfg, name)
        batches = list(loader)
        assert len(loader) == len(batches)
        assert all(len(batch) == 1 for batch in batches)
        seen += [batch[0]["file_name"] for batch in batches]
    assert seen == [p["file_name"] for p in pairs]


def test_a_training_sets_ignore_label_is_the_models(cfg, name):
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 254
    with pytest.raises(UserError, match=r"IGNORE_VALUE is 254, but dataset .* the ignore_label 255: set it to 255"):
        build_train_loader(cfg)
    cfg.DATASETS.TRAIN = ()
    build_test_loader(cfg, name)  # metrics use the dataset's ignore label


def test_an_evaluation_loads_the_same_whatever_the_workers(cfg, name):
    expected = flat(build_test_loader(cfg, name))
    cfg.DATALOADER.NUM_WORKERS = 2
    loaded = flat(build_test_loader(cfg, name))
    assert [sample["file_name"] for sample in loaded] == [sample["file_name"] for sample in expected]
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(loaded, expected, strict=True))
