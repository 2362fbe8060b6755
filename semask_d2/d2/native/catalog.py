"""Replacement for `detectron2.data.catalog`: datasets and their metadata by name."""

from __future__ import annotations

import types
from collections import UserDict
from collections.abc import Callable
from typing import Any


class _Catalog(UserDict):
    get: Any  # a catalog's `get` takes only the name, unlike a mapping's

    def list(self) -> list[str]:
        """Return the registered names."""
        return list(self.keys())

    def remove(self, name: str) -> None:
        """Remove a name; raises KeyError if it is not registered."""
        self.pop(name)


class _DatasetCatalog(_Catalog):
    """Mapping from a dataset's name to the function that returns its list of dicts."""

    def register(self, name: str, func: Callable[[], list[dict]]) -> None:
        """Register a function without arguments, once per name."""
        assert callable(func), f"Dataset '{name}' needs a function that returns its samples."
        assert name not in self, f"Dataset '{name}' is already registered!"
        self[name] = func

    def get(self, name: str) -> list[dict]:
        """Call the registered function; raises a KeyError that lists the registered datasets."""
        if name not in self:
            raise KeyError(f"Dataset '{name}' is not registered! Available datasets are: {', '.join(self)}")
        return self[name]()


class Metadata(types.SimpleNamespace):
    """Metadata of one dataset; an attribute that is set can only be set again to the same value."""

    name: str = "N/A"

    def __getattr__(self, key: str) -> Any:
        raise AttributeError(
            f"Attribute '{key}' does not exist in the metadata of dataset '{self.name}'. "
            f"Available keys are {list(self.__dict__)}."
        )

    def __setattr__(self, key: str, value: Any) -> None:
        if key in self.__dict__:  # the first value may have any type; a second one must be comparable
            old = self.__dict__[key]
            assert old == value, (
                f"Attribute '{key}' in the metadata of '{self.name}' cannot be set to a different value! "
                f"{old} != {value}"
            )
        super().__setattr__(key, value)

    def set(self, **kwargs: Any) -> Metadata:
        """Set several attributes and return self."""
        for key, value in kwargs.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        """Return an attribute, or `default` if it is not set."""
        return getattr(self, key, default)

    def as_dict(self) -> dict[str, Any]:
        """Return all attributes as a new dict."""
        return dict(self.__dict__)


class _MetadataCatalog(_Catalog):
    """Mapping from a dataset's name to its `Metadata`; every `get` of a name returns the same object."""

    def get(self, name: str) -> Metadata:
        """Return the metadata of a dataset; the first call creates it, empty."""
        return self.data.setdefault(name, Metadata(name=name))


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
