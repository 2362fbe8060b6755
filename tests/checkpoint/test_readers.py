"""Weight files of every kind are read, and files that would run code are refused."""

from __future__ import annotations

import contextlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semask_d2.checkpoint import read_checkpoint, readers
from semask_d2.checkpoint.loading import tensors_of
from semask_d2.utils.errors import UserError

PROTOCOLS = (0, 2, 4, 5)


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((3, 4)).astype(np.float32)
    return {
        "plain": values,
        "fortran": np.asfortranarray(values),
        "transposed": rng.standard_normal((2, 3, 4)).astype(np.float32).transpose(2, 0, 1),
        "big endian": values.astype(">f4"),
        "half": values.astype(np.float16),
        "index": np.arange(6).reshape(2, 3),
        "flag": np.array([True, False]),
        "empty": np.zeros((0, 2), np.float32),
        "zero-dimensional": np.array(3, np.int64),
        "scalar": np.float32(1.5),
    }


def check_arrays(data: dict) -> None:
    tensors = tensors_of(data, "file")
    assert tensors.keys() == arrays().keys()
    for name, array in arrays().items():
        assert np.array_equal(tensors[name].numpy(), array), name
        assert tensors[name].dtype == torch.from_numpy(np.array(array, array.dtype.newbyteorder("="))).dtype


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_detectron2_pickles(tmp_path: Path, protocol: int) -> None:
    data = {"model": arrays(), "__author__": "a name", "matching_heuristics": True}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(data, protocol))
    read = read_checkpoint(tmp_path / "w.pkl")
    check_arrays(read)
    assert read["matching_heuristics"] is True


def test_pickles_written_by_numpy_1_and_python_2(tmp_path: Path) -> None:
    content = pickle.dumps({"model": arrays()}, 2).replace(b"numpy._core.", b"numpy.core.")
    (tmp_path / "w.pkl").write_bytes(content)
    check_arrays(read_checkpoint(tmp_path / "w.pkl"))
    # Python 2 wrote an array's bytes as a string
    text = np.arange(200, dtype=np.uint8).tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I200\ntcnumpy\ndtype\n"
    array += b"(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nS" + repr(text)[1:].encode() + b"\ntb"
    (tmp_path / "old.pkl").write_bytes(b"(dS'model'\n(dS'w'\n" + array + b"ss.")
    tensors = tensors_of(read_checkpoint(tmp_path / "old.pkl"), "old")
    assert tensors["w"].tolist() == list(range(200))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_pickles_of_tensors(tmp_path: Path, protocol: int) -> None:
    """Read ImageNet weights in the format of Detectron2 projects' conversion scripts."""
    state = {"w": torch.randn(3, 2).T, "p": torch.nn.Parameter(torch.randn(2)), "h": torch.ones(2).bfloat16()}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"model": state}, protocol))
    tensors = tensors_of(read_checkpoint(tmp_path / "w.pkl"), "w")
    assert all(torch.equal(tensors[name], state[name]) for name in state)


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_with_arrays(tmp_path: Path, zipped: bool) -> None:
    torch.save(
        {"state_dict": arrays(), "best": np.float64(3)}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped
    )
    read = read_checkpoint(tmp_path / "w.pth")
    check_arrays(read)
    assert read["best"] == 3


def test_safetensors(tmp_path: Path) -> None:
    state = {"a": torch.randn(3), "b": torch.ones(2, 2).half()}
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    read = tensors_of(read_checkpoint(tmp_path / "w.safetensors"), "w")
    assert all(torch.equal(read[name], state[name]) for name in state)


class Bomb:
    """An object that creates a folder when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("place", ["beside", "inside"])
def test_a_pickle_that_runs_something_is_refused_unexecuted(tmp_path: Path, protocol: int, place: str) -> None:
    proof, path = tmp_path / "executed", tmp_path / "bomb.pkl"
    bomb = Bomb(proof)
    data = {"model": {"w": np.ones(2)}, "bomb": bomb} if place == "beside" else {"model": {"w": bomb}}
    path.write_bytes(pickle.dumps(data, protocol))
    with pytest.raises(UserError, match=r"bomb\.pkl: refused.* (posix|nt)\.mkdir, which is not plain data"):
        read_checkpoint(path)
    assert not proof.exists()
    pickle.loads(path.read_bytes())  # it really would run
    assert proof.exists()


def test_a_bomb_within_a_pickled_tensor_is_refused_unexecuted(tmp_path: Path) -> None:
    """The storage of a tensor is a file inside the pickle."""
    proof = tmp_path / "executed"

    class Storage:
        def __reduce__(self) -> tuple:
            return torch.storage._load_from_bytes, (pickle.dumps(Bomb(proof), 2),)

    (tmp_path / "bomb.pkl").write_bytes(pickle.dumps({"model": {"w": Storage()}}))
    with pytest.raises(UserError, match=r"bomb\.pkl: refused"):
        read_checkpoint(tmp_path / "bomb.pkl")
    assert not proof.exists()


class Calls:
    """An object that calls a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


# names that a deny list would miss
FOREIGN = {
    "eval": Calls(eval, "1"),
    "getattr": Calls(getattr, {}, "keys"),
    "numpy.load": Calls(np.load, "x.npy"),
    "torch.load": Calls(torch.load, "x.pth"),
    "codec": b"c_codecs\nencode\n(S'text'\nS'rot13'\ntR.",
    "object array": {"model": {"w": np.array([1, "a"], object)}},
    "object scalar": b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O'\nI0\nI1\ntRS'12345678'\ntR.",
    "record array": {"model": {"w": np.zeros(2, [("a", "f4")])}},
    "persistent id": b"Panything\n.",
    "numpy's ndarray by another name": b"cnumpy.core\nmultiarray.ndarray\n.",
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN.keys())
def test_foreign_names_are_refused(tmp_path: Path, content: object) -> None:
    raw = content if isinstance(content, bytes) else pickle.dumps(content, 2)
    (tmp_path / "w.pkl").write_bytes(raw)
    with pytest.raises(UserError, match=r"w\.pkl: refused") as caught:
        read_checkpoint(tmp_path / "w.pkl")
    assert "\n" not in str(caught.value)


def test_a_dtype_cannot_be_turned_into_references(tmp_path: Path) -> None:
    """A dtype's pickled state may set flags that make numpy treat numbers as pointers; only its byte order is used."""
    flags = b"(I3\nS'<'\nNNNI-1\nI-1\nI63\ntb"  # all flags, reference counting among them
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1\ntcnumpy\ndtype\n"
    array += b"(S'f8'\nI0\nI1\ntR" + flags + b"I00\nS'\\x00\\x00\\x00\\x00\\x00\\x00\\xf0?'\ntb"
    (tmp_path / "w.pkl").write_bytes(b"(dS'w'\n" + array + b"s.")
    value = read_checkpoint(tmp_path / "w.pkl")["w"]
    assert value.dtype == np.float64
    assert not value.dtype.hasobject
    assert value.tolist() == [1.0]


@pytest.mark.parametrize("content", [np.array([1, "a"], object), np.array(["text"]), np.zeros(2, [("a", "f4")])])
def test_torch_files_take_arrays_of_numbers_only(tmp_path: Path, content: np.ndarray) -> None:
    torch.save({"model": {"w": content}}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth: (refused|truncated)"):
        read_checkpoint(tmp_path / "w.pth")


@pytest.mark.parametrize("suffix", [".pkl", ".safetensors"])
def test_missing_and_truncated_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"part{suffix}"
    with pytest.raises(UserError, match=r"no such weight file.*MODEL\.WEIGHTS"):
        read_checkpoint(path)
    if suffix == ".pkl":
        content = pickle.dumps({"model": arrays()})
    else:
        content = safetensors.torch.save({"a": torch.ones(20)})
    for part in range(10):
        path.write_bytes(content[: len(content) * part // 10])
        with pytest.raises(UserError, match="part") as caught:
            read_checkpoint(path)
        assert "\n" not in str(caught.value)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(data=st.data(), suffix=st.sampled_from([".pkl", ".safetensors"]))
def test_damaged_files(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, suffix: str) -> None:
    """A changed byte causes a UserError or, if it hits a value, still gives a dict; never another exception."""
    state = {"a": torch.ones(3), "b": torch.arange(4)}
    arrays = {name: value.numpy() for name, value in state.items()}
    content = bytearray(pickle.dumps({"model": arrays}, 4) if suffix == ".pkl" else safetensors.torch.save(state))
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / f"damaged{suffix}"
    path.write_bytes(content)
    with contextlib.suppress(UserError):
        tensors_of(read_checkpoint(path), path)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_addresses_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    torch.save({"model": {"w": torch.ones(2)}}, tmp_path / "w.pth")
    monkeypatch.setattr(readers.PathManager, "get_local_path", lambda address: str(tmp_path / Path(address).name))
    assert torch.equal(read_checkpoint(f"{scheme}://example.org/models/w.pth")["model"]["w"], torch.ones(2))


def test_an_address_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(address: str) -> str:
        raise OSError("no route to host\nmore")

    monkeypatch.setattr(readers.PathManager, "get_local_path", fail)
    with pytest.raises(UserError, match=r"^https://example\.org/w\.pth: could not be downloaded: no route to host$"):
        read_checkpoint("https://example.org/w.pth")


class TestTimm:
    """Tests of timm's weights by name."""

    NAME = "swin_large_patch4_window12_384.ms_in22k"

    def test_fetched_from_the_hub(self, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture) -> None:
        asked = []

        def load(model_id: str, weights_only: bool) -> dict:
            asked.append((model_id, weights_only))
            return {"norm.weight": torch.ones(2)}

        monkeypatch.setattr("timm.models.load_state_dict_from_hf", load)
        assert torch.equal(read_checkpoint(f"timm://{self.NAME}")["norm.weight"], torch.ones(2))
        assert asked == [(f"timm/{self.NAME}", True)]
        assert f"huggingface.co/timm/{self.NAME}" in log.text

    def test_a_failed_download_is_one_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*args: object, **kwargs: object) -> None:
            raise ConnectionError("cannot reach the hub\nmore")

        monkeypatch.setattr("timm.models.load_state_dict_from_hf", fail)
        with pytest.raises(
            UserError, match=r"could not be downloaded from https://huggingface\.co/.*cannot reach the hub; download it"
        ):
            read_checkpoint(f"timm://{self.NAME}")

    @pytest.mark.parametrize(
        "name", ["swin_large_patch4_window12_384.ms_in22", "swin_large_patch4_window12_38.ms_in22k"]
    )
    def test_an_unknown_name_gets_the_nearest(self, name: str) -> None:
        with pytest.raises(UserError, match=f'no weights called "{name}".*Did you mean "{self.NAME}"'):
            read_checkpoint(f"timm://{name}")


class TestPackages:
    """Tests of the weight file inside an installed package."""

    @staticmethod
    def install(folder: Path, files: list[str]) -> None:
        info = folder / "some_weights-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-weights\nVersion: 1.0\n")
        (info / "RECORD").write_text("".join(f"{name},,\n" for name in files))
        (folder / "some_weights").mkdir()
        (folder / "some_weights" / "__init__.py").write_text("raise SystemExit('it must not be imported')")

    def test_is_read_without_an_import(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.install(tmp_path, ["some_weights/__init__.py", "some_weights/model.pth"])
        torch.save({"weight": torch.ones(2)}, tmp_path / "some_weights" / "model.pth")
        monkeypatch.syspath_prepend(tmp_path)
        assert torch.equal(read_checkpoint("pypi://some-weights")["weight"], torch.ones(2))

    @pytest.mark.parametrize("files", [[], ["some_weights/a.pth", "some_weights/b.pth"]])
    def test_must_hold_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str]) -> None:
        self.install(tmp_path, files)
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(UserError, match=r"pypi://some-weights: expected a package with one weight file, found"):
            read_checkpoint("pypi://some-weights")

    @pytest.mark.parametrize("name", ["no-such-weights", ""])
    def test_must_be_there(self, name: str) -> None:
        with pytest.raises(UserError, match=f"pypi://{name}: not installed here: pip install {name}"):
            read_checkpoint(f"pypi://{name}")
