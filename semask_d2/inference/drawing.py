"""The demo's job: from inputs to drawn files or a window."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from tqdm import tqdm

from semask_d2.d2 import CfgNode
from semask_d2.data.image_io import save_picture
from semask_d2.data.label_checks import check_labels, require_one_size
from semask_d2.data.labels import read_sample_labels
from semask_d2.inference import media
from semask_d2.inference.prediction import OPACITY, shown_segments
from semask_d2.inference.predictor import Predictor
from semask_d2.utils.errors import UnreadableFile, UserError, printable
from semask_d2.utils.files import atomic_write, remove_stale, require_writable
from semask_d2.utils.memory import out_of_memory
from semask_d2.utils.segment_drawing import draw_segments, drawn_segments
from semask_d2.utils.visualization import draw_panels, draw_segmentation

TASKS = ("semantic", "instance", "panoptic")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
FRAME = re.compile(r"\d{6,}\.png")  # the label file of a video's frame


def set_task(cfg: CfgNode, task: str | None) -> str:
    """Set a config to predict for one task, None for what it is made for; return the task's name."""
    test = cfg.MODEL.MASK_FORMER.TEST
    if task is None:
        task = "panoptic" if test.PANOPTIC_ON else "instance" if test.INSTANCE_ON else "semantic"
    if task != "semantic" and cfg.MODEL.META_ARCHITECTURE != "SeMaskMaskFormer":
        raise UserError(
            f"--task {task}: MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} finds no segments; it takes a mask "
            "model (SeMaskMaskFormer)"
        )
    frozen = cfg.is_frozen()
    cfg.defrost()
    test.SEMANTIC_ON, test.INSTANCE_ON, test.PANOPTIC_ON = (task == x for x in TASKS)
    if frozen:
        cfg.freeze()
    return task


class DrawingJob:
    """Draws pictures, videos or a camera into files, or where there is no `output` into a window.

    `source` are a command line's words for files (`media.find_inputs`), or a camera's number. Raises `UserError` at
    once for what cannot work: no file to read, nowhere to draw, a result that would overwrite what is read.
    """

    def __init__(
        self,
        source: Sequence[str] | int,
        *,
        output: str | None = None,
        compare: str | None = None,
        labels: bool = False,
        priors: bool = False,
        opacity: float = OPACITY,
    ):
        self.task = "semantic"
        self.camera = source if isinstance(source, int) else None
        self.inputs = [] if isinstance(source, int) else media.find_inputs(source)
        self.compare = None if compare is None else Path(compare)
        self.labels = labels
        self.priors = priors
        self.opacity = opacity
        self.output = None if output is None else Path(output)
        if self.compare is not None:
            if not os.path.isdir(self.compare):
                raise UserError(f"--compare {compare}: no such folder; expected one of label files NAME.png")
            if self.camera is not None or any(map(media.is_video, self.inputs)):
                raise UserError("--compare works for pictures, not for videos or a camera")
            self._require_own_labels()
        if self.output is None:
            if labels:
                raise UserError("--labels writes files: add --output DIR")
            if not media.has_display():
                raise UserError("there is no display to open a window on: add --output DIR")
            self.targets: list[Path] = []
        else:
            self.targets = self._targets(self.output)
            self._require_apart()
            require_writable(self.targets[0].parent, "--output")

    def draw_task(self, task: str) -> None:
        """Draw what a predictor whose config is set to `task` (`set_task`) finds; at first that is "semantic".

        Raises `UserError` for what is drawn or written of classes alone.
        """
        for word, value in (("--labels", self.labels), ("--compare", self.compare), ("--semantic-priors", self.priors)):
            if value and task != "semantic":
                raise UserError(f"{word} is for --task semantic, not for {task}; leave one of them out")
        self.task = task

    def _targets(self, output: Path) -> list[Path]:
        """The file that each input is drawn into; the camera's is the only one."""
        moving = [True] if self.camera is not None else [media.is_video(path) for path in self.inputs]
        suffix = output.suffix.lower()
        if suffix in media.IMAGE_SUFFIXES and suffix not in PICTURE_SUFFIXES and not os.path.isdir(output):
            raise UserError(f"--output {output}: pictures are written as {' or '.join(PICTURE_SUFFIXES)}")
        if suffix in (*PICTURE_SUFFIXES, *media.VIDEO_SUFFIXES) and not os.path.isdir(output):
            expected = (".mp4",) if moving[0] else PICTURE_SUFFIXES
            if len(moving) > 1:
                raise UserError(f"--output {output}: {len(moving)} inputs need a folder, not a file")
            if suffix not in expected:
                raise UserError(f"--output {output}: expected a folder, or a file that ends in {' or '.join(expected)}")
            return [output]
        names = ["camera"] if self.camera is not None else media.distinct_names(self.inputs)
        return [output / f"{name}{'.mp4' if moves else '.png'}" for name, moves in zip(names, moving, strict=True)]

    def _label_files(self) -> Iterator[Path]:
        """What --labels writes, a video's folder of numbered files as one path."""
        if self.labels:
            folder = self.targets[0].parent / "labels"
            yield folder / "classes.txt"
            yield from (folder / (t.stem if media.is_video(t) else f"{t.stem}.png") for t in self.targets)

    def _require_own_labels(self) -> None:
        """Raise `UserError` where two pictures would be compared with one label file."""
        pictures: dict[Path, Path] = {}
        for path in self.inputs:
            file = self._truth_file(path)
            if (other := pictures.setdefault(file, path)) != path:
                raise UserError(
                    f"--compare {self.compare}: {other} and {path} would both be compared with {file}; draw them in "
                    "two runs, each with its own --compare folder"
                )

    def _require_apart(self) -> None:
        """Raise `UserError` where anything that will be written is a file that is read, by whatever path."""
        read = {os.path.realpath(path): "an input" for path in self.inputs}
        if self.compare is not None:
            for file in self.compare.iterdir():
                read.setdefault(os.path.realpath(file), f"a file of --compare {self.compare}")
        numbered = {os.path.dirname(file): file for file in read if FRAME.fullmatch(os.path.basename(file))}
        for target in (*self.targets, *self._label_files()):
            real = os.path.realpath(target)
            file = real if real in read else numbered.get(real)
            if file is not None:
                written = target if file == real else target / os.path.basename(file)
                raise UserError(
                    f"--output {self.output}: {written} is {read[file]} and would be overwritten; choose another"
                )

    def run(self, predictor: Predictor) -> None:
        """Draw all; at the end raise `UserError` naming the inputs that could not be drawn."""
        files = (*self.targets, *self._label_files())
        for folder in {path.parent for path in files} | {path for path in files if os.path.isdir(path)}:
            remove_stale(folder)
        if self.labels:
            with atomic_write(self.targets[0].parent / "labels" / "classes.txt") as file:
                file.writelines(f"{i} {name}\n" for i, name in enumerate(predictor.classes.names))
        if self.camera is not None:
            self._input(predictor, self.camera, self.targets[0] if self.targets else None)
            return
        failures: list[str] = []
        targets = self.targets or [None] * len(self.inputs)
        bar = tqdm(zip(self.inputs, targets, strict=True), total=len(targets), disable=len(targets) < 2, unit="file")
        for path, target in bar:
            try:
                if not self._input(predictor, path, target):
                    break
            except UserError as error:
                failures.append(str(error))
                continue
            if target is not None:
                bar.write(printable(f"{path} -> {target}"))
        if failures:
            raise UserError(f"{len(failures)} of {len(targets)} inputs could not be drawn:\n  " + "\n  ".join(failures))

    def _input(self, predictor: Predictor, source: Path | int, target: Path | None) -> bool:
        """Draw one input; False where the user closes the window. Want of memory is a `UserError` of this input."""
        try:
            if isinstance(source, int) or media.is_video(source):
                return self._video(predictor, source, target)
            return self._picture(predictor, source, target)
        except Exception as error:
            if not out_of_memory(error):
                raise
            name = f"--webcam {source}" if isinstance(source, int) else source
            raise UserError(
                f"{name}: out of memory; lower INPUT.MIN_SIZE_TEST and INPUT.MAX_SIZE_TEST (KEY VALUE at the end "
                "of the command), or make it smaller"
            ) from error

    def _picture(self, predictor: Predictor, path: Path, target: Path | None) -> bool:
        """Draw one picture; False where the user closes the window."""
        image = predictor.read_image(path)
        truth = None if self.compare is None else self._truth(predictor, path, image.shape[:2])
        picture, labels = self._draw(predictor, image, truth)
        if target is None:
            return media.show(str(path), picture, 0)
        save_picture(target, picture)
        if self.labels:
            save_picture(target.parent / "labels" / f"{target.stem}.png", labels)
        return True

    def _video(self, predictor: Predictor, source: Path | int, target: Path | None) -> bool:
        """Draw a video or a camera frame by frame; False where the user closes the window."""
        video = media.Video(source)
        frames = tqdm(video, total=video.count, unit="frame", leave=False)
        with nullcontext() if target is None else media.VideoFile(target, video.fps) as file:
            for number, frame in enumerate(frames):
                picture, labels = self._draw(predictor, frame, None)
                if file is None or target is None:
                    if not media.show(str(source), picture, 1):
                        return False
                    continue
                file.write(picture)
                if self.labels:
                    save_picture(target.parent / "labels" / target.stem / f"{number:06d}.png", labels)
        return True

    def _draw(self, predictor: Predictor, image: np.ndarray, truth: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """The picture of one image, and its class ids."""
        prediction = predictor(image, priors=self.priors)
        if self.task != "semantic":
            ids, segments = shown_segments(prediction, self.task)
            drawn = drawn_segments(ids, segments, predictor.classes)
            return draw_segments(image, drawn, opacity=self.opacity), prediction.labels
        labels, classes, opacity = prediction.labels, predictor.classes, self.opacity
        if truth is None and not self.priors:
            return draw_segmentation(image, labels, classes, opacity=opacity), labels
        panels = draw_panels(image, labels, classes, opacity=opacity, truth=truth, priors=prediction.priors)
        return panels, prediction.labels

    def _truth_file(self, path: Path) -> Path:
        """The label file that --compare has for a picture."""
        assert self.compare is not None
        return self.compare / f"{path.stem}.png"

    def _truth(self, predictor: Predictor, path: Path, shape: tuple[int, int]) -> np.ndarray:
        file = self._truth_file(path)
        if not os.path.isfile(file):
            raise UnreadableFile(f"{path}: no label file {file} to compare with")
        truth = read_sample_labels({"sem_seg_file_name": file, "label_format": predictor.label_format})
        require_one_size(path, shape, "label file", file, truth.shape)
        check_labels(truth, num_classes=len(predictor.classes), ignore_label=predictor.classes.ignore_label, path=file)
        return truth
