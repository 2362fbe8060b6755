"""Saving of models in a folder or on the Hugging Face hub."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from torch import nn

from semask_d2.checkpoint.hub import upload_folder
from semask_d2.checkpoint.load_report import LoadReport
from semask_d2.checkpoint.shared_folder import ModelDescription, write_shared_folder, write_transformers_model
from semask_d2.utils.errors import UserError

FORMATS = ("semask_d2", "transformers")  # of `save_pretrained`


class ShareableModel(nn.Module):
    """Model with `save_pretrained` and `push_to_hub`.

    `create_model` and `from_pretrained` set its `description`, and `load_report`, the names of the tensors that were
    loaded from the weights and of those that were not.
    """

    description: ModelDescription | None = None
    load_report: LoadReport | None = None

    def save_pretrained(
        self,
        folder: str | os.PathLike,
        *,
        license: str | None = None,
        half: bool = False,
        format: str = "semask_d2",
    ) -> None:
        """Write `config.yaml`, `model.safetensors` and a model card into `folder`, for `from_pretrained`.

        `license` is an identifier for the card, such as "apache-2.0"; `half` writes half-precision weights. The
        `format` "transformers" writes the folder that transformers' `from_pretrained` reads, for Mask2Former and
        MaskFormer on Swin or ResNet without semantic layers. Raises `UserError` where nothing can be written, and for a
        model without a `description`.
        """
        if format not in FORMATS:
            raise UserError(f"save_pretrained: format: expected {' or '.join(map(repr, FORMATS))}, got {format!r}")
        if self.description is None:
            raise UserError(
                "save_pretrained: the config and classes of this model are unknown; create it with "
                "semask_d2.create_model or semask_d2.from_pretrained, which also takes a run folder"
            )
        if format == "transformers":
            if half or license:
                raise UserError('save_pretrained: format "transformers" takes neither `license` nor `half`')
            return write_transformers_model(folder, self, self.description.cfg, self.description.classes)
        write_shared_folder(folder, self, self.description, license=license, half=half)

    def push_to_hub(
        self, repository: str, *, private: bool = False, revision: str | None = None, license: str | None = None
    ) -> str:
        """Upload what `save_pretrained` writes to the repository "owner/name", created if needed; return its address.

        `revision` is a branch. Raises `UserError` as `save_pretrained` does, and if the hub refuses the upload.
        """
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent, repository.rpartition("/")[2] or "model")
            self.save_pretrained(folder, license=license)
            return upload_folder(folder, repository, private=private, revision=revision, message="Model by semask_d2")
