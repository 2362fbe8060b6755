"""The seam chooses a backend, and both backends hold the same names."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import types
from collections import UserDict
from collections.abc import Callable

import iopath.common.file_io
import pytest
from fvcore.common.registry import Registry

from semask_d2 import d2
from semask_d2.d2 import native
from semask_d2.utils.errors import UserError


@pytest.fixture
def put_detectron2(monkeypatch):
    """A function that replaces the module `detectron2` with another one, or with None for "not installed"."""
    loaded = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "detectron2"}
    real = sys.modules.get("semask_d2.d2.real")

    def put(module):
        for name in [*loaded, "semask_d2.d2.real"]:
            sys.modules.pop(name, None)
        sys.modules["detectron2"] = module

    yield put
    for name in [name for name in sys.modules if name.split(".")[0] == "detectron2"]:
        del sys.modules[name]
    sys.modules.update(loaded)
    sys.modules.pop("semask_d2.d2.real", None)
    if real is not None:
        sys.modules["semask_d2.d2.real"] = real


def broken_detectron2():
    module = types.ModuleType("detectron2")
    module.__spec__ = importlib.machinery.ModuleSpec("detectron2", None)
    return module


KINDS = {
    str: "BACKEND BACKEND_VERSION",
    types.ModuleType: "hooks comm",
    Registry: "BACKBONE_REGISTRY SEM_SEG_HEADS_REGISTRY META_ARCH_REGISTRY",
    UserDict: "DatasetCatalog MetadataCatalog",
    iopath.common.file_io.PathManager: "PathManager",
    type: """CfgNode Backbone Boxes ShapeSpec ImageList Instances DatasetEvaluator EventWriter JSONWriter
        TensorboardXWriter TrainerBase DefaultTrainer HookBase""",
    Callable: """get_cfg configurable build_backbone build_sem_seg_head build_model get_event_storage
        default_argument_parser launch setup_logger collect_env_info seed_all_rng""",
}


def test_the_seam_has_these_names_and_no_others():
    assert sorted(" ".join(KINDS.values()).split()) == sorted(d2.__all__)


@pytest.mark.parametrize("backend", [d2, native], ids=["in use", "native"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_name_is_of_its_kind(backend, kind):
    for name in KINDS[kind].split():
        assert isinstance(getattr(backend, name), kind), name


def test_the_hooks_are_hooks():
    for name in ("IterationTimer", "LRScheduler", "PeriodicWriter", "PeriodicCheckpointer", "EvalHook"):
        assert issubclass(getattr(d2.hooks, name), d2.HookBase)


def test_backend_and_version_name_the_backend_in_use():
    if d2.BACKEND == "native":
        assert importlib.metadata.version("fvcore") in d2.BACKEND_VERSION
    else:  # Detectron2 may be a clone on the path, without an installed distribution
        assert sys.modules["detectron2"].__version__ == d2.BACKEND_VERSION
    in_use = {"native": "semask_d2", "detectron2": "detectron2"}
    assert d2.TrainerBase.__module__.split(".")[0] == in_use[d2.BACKEND]


def test_unset_without_detectron2_is_native(monkeypatch, put_detectron2):
    monkeypatch.delenv("SEMASK_D2_BACKEND", raising=False)
    put_detectron2(None)
    assert d2._use_detectron2() is False


def test_native_is_native_whatever_is_installed(monkeypatch, put_detectron2):
    monkeypatch.setenv("SEMASK_D2_BACKEND", "native")
    put_detectron2(broken_detectron2())
    assert d2._use_detectron2() is False


def test_unset_with_a_broken_detectron2_is_native_with_a_warning(monkeypatch, put_detectron2):
    monkeypatch.delenv("SEMASK_D2_BACKEND", raising=False)
    put_detectron2(broken_detectron2())
    with pytest.warns(UserWarning, match="Detectron2 cannot be imported"):
        assert d2._use_detectron2() is False


@pytest.mark.parametrize("module", [None, broken_detectron2()], ids=["missing", "broken"])
def test_detectron2_that_cannot_be_imported_is_a_users_mistake(monkeypatch, put_detectron2, module):
    monkeypatch.setenv("SEMASK_D2_BACKEND", "detectron2")
    put_detectron2(module)
    with pytest.raises(UserError, match=r"SEMASK_D2_BACKEND=detectron2.*Install it, or unset"):
        d2._use_detectron2()


def test_another_value_is_a_users_mistake(monkeypatch):
    monkeypatch.setenv("SEMASK_D2_BACKEND", "Detectron")
    with pytest.raises(UserError, match="'Detectron': expected native or detectron2"):
        d2._use_detectron2()


@pytest.mark.parametrize("value", ["x", "detectron2"])
def test_a_program_ends_with_one_line(value):
    setting = f"import os, sys; os.environ['SEMASK_D2_BACKEND'] = {value!r}; sys.modules['detectron2'] = None"
    code = f"{setting}; import semask_d2.d2"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: SEMASK_D2_BACKEND=")
    assert done.stderr.count("\n") == 1
