"""Random pickles that call every name known to the reader with arguments and states that no writer produces."""

from __future__ import annotations

import io
import pickle
import random
import struct
import zipfile

import torch

NUMBERS = [0, 1, 2, 3, 4, 8, -1, 63, 255, 2**31 - 1, -(2**31), 2**40, 2**62, 2**63 - 1, -(2**63)]
TEXTS = ["", "O", "w", "cpu", "latin1", "__class__", "__defaults__", "storage", "\u20ac"]
DTYPES = ["O", "f4", "f4", "f8", "i8", "u1", "b1", "V8", "O8", "S8", "U2", "|O", "f4,O", "c16", "f16", "M8[s]"]
ATTRIBUTES = ["__defaults__", "__class__", "data", "_untyped_storage", "dtype", "array", "shape", "__setstate__"]
STORAGES = ["torch.FloatStorage", "torch.LongStorage", "torch.ByteStorage", "torch.QInt8Storage"]
RECONSTRUCT = "numpy._core.multiarray._reconstruct"
LEGACY_HEAD = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}})


class Crafter:
    """Writes random pickles from a seed, with opcodes that both torch's reader and Python's support."""

    def __init__(self, rng: random.Random, names: list[str], *, for_torch: bool):
        self.rng, self.names, self.for_torch = rng, names, for_torch
        inner = io.BytesIO()
        torch.save(torch.ones(4)._typed_storage(), inner, _use_new_zipfile_serialization=False)
        self.storage_bytes = inner.getvalue()

    def file(self, name: str) -> bytes:
        """Return a pickle of a weight dict that calls this name, and sometimes sets the state of the result."""
        made = self.call(0, name)
        for _ in range(self.rng.randrange(2)):
            made += self.state(1) + b"b"
        return b"\x80\x02}(" + text("model") + b"}(" + text("w") + made + b"uu."

    def value(self, depth: int) -> bytes:
        """Return any value, nested up to a depth of 3."""
        choices = [self.atom, self.atom, self.rebuilt]
        choices += [self.call, self.call, self.build, self.containers] if depth < 3 else []
        return self.rng.choice(choices)(depth + 1)

    def atom(self, depth: int) -> bytes:
        """Return a number, string, bytes, a constant or a name."""
        number = self.rng.choice(NUMBERS)
        content = bytes(range(8)) * self.rng.randrange(5)
        constants = [b"N", b"\x88", b"\x89", b"]", b"}", b")", b"G" + struct.pack(">d", 1e300), self.shape()]
        made = [integer(number), small(self.rng), text(self.rng.choice(TEXTS)), octets(content), named(self.any_name())]
        return self.rng.choice(constants + made)

    def containers(self, depth: int) -> bytes:
        """Return a list or a dict of any values."""
        if self.rng.random() < 0.5:
            return b"](" + self.value(depth) + self.value(depth) + b"e"
        return b"}(" + text("k") + self.value(depth) + b"u"

    def call(self, depth: int, name: str | None = None) -> bytes:
        """Return a call of a name with up to six arguments, or a new object of it."""
        arguments = tuple_of(*(self.value(depth) for _ in range(self.rng.randrange(7))))
        return named(name or self.any_name()) + arguments + self.rng.choice([b"R", b"R", b"R", b"\x81"])

    def build(self, depth: int) -> bytes:
        """Return any value with a state set."""
        return self.value(depth) + self.state(depth) + b"b"

    def state(self, depth: int) -> bytes:
        """Return a state: any value, or attributes to set."""
        if self.rng.random() < 0.4:
            return self.value(depth)
        pairs = b"}(" + text(self.rng.choice(ATTRIBUTES)) + self.value(depth) + b"u"
        return self.rng.choice([pairs, tuple_of(b"N", pairs), tuple_of(pairs, pairs), tuple_of(pairs)])

    def rebuilt(self, depth: int) -> bytes:
        """Return a dtype, array, storage or tensor, similar to what a writer writes."""
        return self.rng.choice([self.dtype, self.array, self.storage, self.tensor])()

    def any_name(self) -> str:
        return self.rng.choice(self.names)

    def shape(self) -> bytes:
        sides = [small(self.rng) if self.rng.random() < 0.8 else integer(self.rng.choice(NUMBERS)) for _ in range(4)]
        return tuple_of(*sides[: self.rng.randrange(5)])

    def dtype(self) -> bytes:
        made = named("numpy.dtype") + tuple_of(text(self.rng.choice(DTYPES)), b"\x89", b"\x88") + b"R"
        if self.rng.random() < 0.6:
            order = text(self.rng.choice(["<", ">", "|", "=", "s", "O"]))
            made += tuple_of(small(self.rng), order, b"N", b"N", b"N", integer(-1), integer(-1), b"K\x3f") + b"b"
        return made

    def array(self) -> bytes:
        made = named(RECONSTRUCT) + tuple_of(named("numpy.ndarray"), tuple_of(b"K\x00"), octets(b"b")) + b"R"
        content = octets(bytes(self.rng.choice([0, 4, 8, 16, 32])))
        return made + tuple_of(b"K\x01", self.shape(), self.dtype(), b"\x89", content) + b"b"

    def storage(self) -> bytes:
        if not self.for_torch:
            return named("torch.storage._load_from_bytes") + tuple_of(octets(self.storage_bytes)) + b"R"
        size = b"K\x04" if self.rng.random() < 0.7 else integer(self.rng.choice(NUMBERS))
        kind = named(self.rng.choice(STORAGES))
        return tuple_of(text("storage"), kind, text("0"), text("cpu"), size) + b"Q"

    def tensor(self) -> bytes:
        hooks = named("collections.OrderedDict") + b")R"
        parts = [self.storage(), small(self.rng), self.shape(), self.shape(), b"\x89", hooks]
        return named("torch._utils._rebuild_tensor_v2") + tuple_of(*parts) + b"R"


def named(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def octets(value: bytes) -> bytes:
    """Return bytes as encoded in torch's pickles."""
    return named("_codecs.encode") + tuple_of(text(value.decode("latin1")), text("latin1")) + b"R"


def integer(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    raw = pickle.encode_long(value)
    return b"\x8a" + bytes([len(raw)]) + raw


def small(rng: random.Random) -> bytes:
    return b"K" + bytes([rng.randrange(5)])


def tuple_of(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def zipped(content: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    """Return a torch file with this pickle and one storage of 16 bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        members = {"data.pkl": content, "byteorder": b"little", "data/0": bytes(range(16)), "version": b"3\n"}
        for name, part in members.items():
            archive.writestr(f"archive/{name}", part)
    return file.getvalue()


def legacy(content: bytes) -> bytes:
    """Return the file of `zipped` in torch's older format."""
    head = b"".join(pickle.dumps(part, 2) for part in LEGACY_HEAD)
    return head + content + pickle.dumps(["0"], 2) + struct.pack("<q", 4) + bytes(range(16))
