"""Drawing job of `semask predict`: from inputs to result files or a window."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from semask_d2.d2 import CfgNode
from semask_d2.data.forks import forked
from semask_d2.data.image_io import save_picture
from semask_d2.data.label_checks import check_labels, require_one_size
from semask_d2.data.labels import read_sample_labels
from semask_d2.data.picture import RGB
from semask_d2.inference import media
from semask_d2.inference.prediction import OPACITY, shown_segments
from semask_d2.inference.predictor import Predictor
from semask_d2.utils.choices import TASKS
from semask_d2.utils.errors import UnreadableFile, UserError, printable
from semask_d2.utils.files import atomic_write, remove_stale, require_writable
from semask_d2.utils.memory import out_of_memory
from semask_d2.utils.segment_drawing import draw_segments, drawn_segments
from semask_d2.utils.visualization import draw_panels, draw_segmentation

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
FRAME = re.compile(r"\d{6,}\.png")  # name of the label file of a video frame


def set_task(cfg: CfgNode, task: str | None) -> str:
    """Set a config to predict one task, by default the config's task, and return the task's name."""
    test = cfg.MODEL.MASK_FORMER.TEST
    if task is None:
        task = "panoptic" if test.PANOPTIC_ON else "instance" if test.INSTANCE_ON else "semantic"
    if task != "semantic" and cfg.MODEL.META_ARCHITECTURE != "SeMaskMaskFormer":
        raise UserError(
            f"--task {task}: MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} predicts no segments; use a mask "
            "model (SeMaskMaskFormer)"
        )
    frozen = cfg.is_frozen()
    cfg.defrost()
    test.SEMANTIC_ON, test.INSTANCE_ON, test.PANOPTIC_ON = (task == x for x in TASKS)
    if frozen:
        cfg.freeze()
    return task


class DrawingJob:
    """Draw the results for images, videos or a camera into files, or without `output` into a window.

    `source` is a list of paths and globs (`media.find_inputs`) or a camera number. The constructor raises `UserError`
    if there is no file to read, nowhere to draw, or if a result would overwrite an input.
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
                raise UserError(f"--compare {compare}: no such folder; expected a folder of label files NAME.png")
            if self.camera is not None or any(map(media.is_video, self.inputs)):
                raise UserError("--compare works for images, not for videos or a camera")
            self._require_distinct_label_files()
        if self.output is None:
            if labels:
                raise UserError("--labels writes files: add --output DIR")
            if not media.has_display():
                raise UserError("no display to open a window on: add --output DIR")
            self.targets: list[Path] = []
        else:
            self.targets = self._targets(self.output)
            self._require_inputs_kept()
            require_writable(self.targets[0].parent, "--output")

    def draw_task(self, task: str) -> None:
        """Choose the task to draw, initially "semantic"; the predictor's config must be set to it (`set_task`).

        Raises `UserError` for options that only the semantic task supports.
        """
        options = (("--labels", self.labels), ("--compare", self.compare), ("--semantic-priors", self.priors))
        for option, value in options:
            if value and task != "semantic":
                raise UserError(f"{option} is for --task semantic, not for {task}; leave one of them out")
        self.task = task

    def _targets(self, output: Path) -> list[Path]:
        """Return the output file of each input; a camera has one."""
        are_videos = [True] if self.camera is not None else [media.is_video(path) for path in self.inputs]
        suffix = output.suffix.lower()
        if suffix in media.IMAGE_SUFFIXES and suffix not in PICTURE_SUFFIXES and not os.path.isdir(output):
            raise UserError(f"--output {output}: images are written as {' or '.join(PICTURE_SUFFIXES)}")
        if suffix in (*PICTURE_SUFFIXES, *media.VIDEO_SUFFIXES) and not os.path.isdir(output):
            expected = (".mp4",) if are_videos[0] else PICTURE_SUFFIXES
            if len(are_videos) > 1:
                raise UserError(f"--output {output}: {len(are_videos)} inputs need a folder, not a file")
            if suffix not in expected:
                raise UserError(f"--output {output}: expected a folder, or a file that ends in {' or '.join(expected)}")
            return [output]
        names = ["camera"] if self.camera is not None else media.distinct_names(self.inputs)
        return [
            output / f"{name}{'.mp4' if is_video else '.png'}" for name, is_video in zip(names, are_videos, strict=True)
        ]

    def _label_files(self) -> Iterator[Path]:
        """Yield the files that --labels writes; for a video, its folder of numbered files."""
        if self.labels:
            folder = self.targets[0].parent / "labels"
            yield folder / "classes.txt"
            yield from (folder / (t.stem if media.is_video(t) else f"{t.stem}.png") for t in self.targets)

    def _require_distinct_label_files(self) -> None:
        """Raise `UserError` if two images would be compared with the same label file."""
        image_of_file: dict[Path, Path] = {}
        for path in self.inputs:
            file = self._truth_file(path)
            if (other := image_of_file.setdefault(file, path)) != path:
                raise UserError(
                    f"--compare {self.compare}: {other} and {path} would both be compared with {file}; draw them in "
                    "two runs, each with its own --compare folder"
                )

    def _require_inputs_kept(self) -> None:
        """Raise `UserError` if an output would overwrite a file that is read, even through another path."""
        roles = {os.path.realpath(path): "an input" for path in self.inputs}
        if self.compare is not None:
            for file in self.compare.iterdir():
                roles.setdefault(os.path.realpath(file), f"a file of --compare {self.compare}")
        numbered = {os.path.dirname(file): file for file in roles if FRAME.fullmatch(os.path.basename(file))}
        for target in (*self.targets, *self._label_files()):
            real_path = os.path.realpath(target)
            file = real_path if real_path in roles else numbered.get(real_path)
            if file is not None:
                overwritten = target if file == real_path else target / os.path.basename(file)
                raise UserError(
                    f"--output {self.output}: {overwritten} is {roles[file]} and would be overwritten; choose another "
                    "path"
                )

    def run(self, predictor: Predictor) -> None:
        """Draw all inputs; at the end raise `UserError` that names those that could not be drawn."""
        files = (*self.targets, *self._label_files())
        for folder in {path.parent for path in files} | {path for path in files if os.path.isdir(path)}:
            remove_stale(folder)
        if self.labels:
            with atomic_write(self.targets[0].parent / "labels" / "classes.txt") as file:
                file.writelines(f"{i} {name}\n" for i, name in enumerate(predictor.classes.names))
        if self.camera is not None:
            self._draw_input(predictor, self.camera, self.targets[0] if self.targets else None)
            return
        failures: list[str] = []
        count, drawn, start = len(self.inputs), 0, time.perf_counter()
        bar = tqdm(self._results(predictor), total=count, disable=count < 2, unit="file")
        for path, target, result in zip(self.inputs, self.targets or [None] * count, bar, strict=True):
            if isinstance(result, UserError):
                failures.append(str(result))
                continue
            if not result:
                break
            drawn += result
            if target is not None:
                bar.write(printable(f"{path} -> {target}"))
        seconds = time.perf_counter() - start
        if drawn > 1:
            print(f"{drawn} images in {seconds:.1f} s, {drawn / seconds:.2f} images per second")
        if failures:
            raise UserError(f"{len(failures)} of {count} inputs could not be drawn:\n  " + "\n  ".join(failures))

    def _results(self, predictor: Predictor) -> Iterator[int | UserError]:
        """Yield, for each input in order, its number of drawn images, 0 if the user closed the window, or its error.

        Several processes may draw images (`forked`), but not videos, whose frames follow each other.
        """
        loader = None
        if self.targets and predictor.cfg.DATALOADER.NUM_WORKERS and not any(map(media.is_video, self.inputs)):
            loader = forked(predictor.model, partial(self._result, predictor), range(len(self.inputs)))
        if loader is None:
            yield from (self._result(predictor, place) for place in range(len(self.inputs)))
        else:
            yield from (result for (result,) in loader)

    def _result(self, predictor: Predictor, place: int) -> int | UserError:
        """Draw the input at `place`; return its number of images, 0 if the user closed the window, or its error."""
        try:
            return self._draw_input(predictor, self.inputs[place], self.targets[place] if self.targets else None)
        except UserError as error:
            return error

    def _draw_input(self, predictor: Predictor, source: Path | int, target: Path | None) -> int:
        """Draw one input; return its number of images, 0 if the user closed the window.

        Raises `UserError` if memory runs out.
        """
        try:
            if isinstance(source, int) or media.is_video(source):
                return self._draw_video(predictor, source, target)
            return self._draw_image(predictor, source, target)
        except Exception as error:
            if not out_of_memory(error):
                raise
            name = f"--webcam {source}" if isinstance(source, int) else source
            raise UserError(
                f"{name}: out of memory; lower INPUT.MIN_SIZE_TEST and INPUT.MAX_SIZE_TEST (KEY VALUE at the end "
                "of the command), or reduce the size of the input"
            ) from error

    def _draw_image(self, predictor: Predictor, path: Path, target: Path | None) -> int:
        """Draw one image; return 1, or 0 if the user closed the window."""
        image = predictor.read_image(path)
        truth = None if self.compare is None else self._read_truth(predictor, path, image.shape[:2])
        drawing, labels = self._draw(predictor, image, truth)
        if target is None:
            return int(media.show(str(path), drawing, 0))
        save_picture(target, drawing)
        if self.labels:
            save_picture(target.parent / "labels" / f"{target.stem}.png", labels)
        return 1

    def _draw_video(self, predictor: Predictor, source: Path | int, target: Path | None) -> int:
        """Draw a video or camera stream; return its number of frames, 0 if the user closed the window."""
        if predictor.channels != RGB:
            name = f"--webcam {source}" if isinstance(source, int) else source
            raise UserError(f"{name}: a video has 3 channels, the model takes {predictor.channels} (INPUT.CHANNELS)")
        video = media.Video(source)
        frames = tqdm(video, total=video.count, unit="frame", leave=False)
        number = -1
        with nullcontext() if target is None else media.VideoFile(target, video.fps) as file:
            for number, frame in enumerate(frames):
                drawing, labels = self._draw(predictor, frame, None)
                if file is None or target is None:
                    if not media.show(str(source), drawing, 1):
                        return 0
                    continue
                file.write(drawing)
                if self.labels:
                    save_picture(target.parent / "labels" / target.stem / f"{number:06d}.png", labels)
        return number + 1

    def _draw(self, predictor: Predictor, image: np.ndarray, truth: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the drawing of one image and its class ids."""
        prediction, image = predictor(image, priors=self.priors), predictor.shown(image)
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
        """Return the path of the label file in the --compare folder for an image."""
        assert self.compare is not None
        return self.compare / f"{path.stem}.png"

    def _read_truth(self, predictor: Predictor, path: Path, shape: tuple[int, int]) -> np.ndarray:
        """Return the ground truth (H, W) of an image; raise `UserError` if it is missing or does not fit."""
        file = self._truth_file(path)
        if not os.path.isfile(file):
            raise UnreadableFile(f"{path}: no label file {file} to compare with")
        truth = read_sample_labels({"sem_seg_file_name": file, "label_format": predictor.label_format})
        require_one_size(path, shape, "label file", file, truth.shape)
        check_labels(truth, num_classes=len(predictor.classes), ignore_label=predictor.classes.ignore_label, path=file)
        return truth
