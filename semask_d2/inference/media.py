"""Images and videos on disk: finding them, reading frames, writing results, showing them in a window."""

from __future__ import annotations

import glob
import logging
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from semask_d2.data.opening import MAX_PIXELS
from semask_d2.data.rasters import ARRAY_SUFFIX
from semask_d2.utils.errors import UnreadableFile, UserError
from semask_d2.utils.files import put_in_place, require_regular, temporary_beside

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"),
    *(".jp2", ".avif"),
)
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
DEFAULT_FPS = 25.0

logger = logging.getLogger(__name__)


def find_inputs(inputs: Sequence[str]) -> list[Path]:
    """Return the files named by the arguments of a command line (files, folders and globs), each once.

    A folder stands for the images and videos directly in it; skipped entries are logged. A missing file is kept, so
    that reading it reports the error. Raises `UserError` for a folder without images or videos, and for a glob that
    matches none.
    """
    paths: list[Path] = []
    for word in inputs:
        path = Path(word).expanduser()
        if os.path.isdir(path):
            files = _folder_media(path, word)
        elif glob.has_magic(word) and not os.path.exists(path):
            matches = sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file())
            files = [p for p in matches if is_media(p) or word.lower().endswith(ARRAY_SUFFIX)]
            skipped = _skipped_files(matches)
            if not files:
                raise UserError(f"{word}: matches no image or video{f'; it matches {skipped}' if skipped else ''}")
            if skipped:
                logger.warning("%s: skipped %s", word, skipped)
        else:
            files = [path]
        paths += files
    unique: dict[str, Path] = {}
    for path in paths:
        unique.setdefault(os.path.realpath(path), path)
    return list(unique.values())


def _folder_media(folder: Path, word: str) -> list[Path]:
    """Return the images and videos directly in a folder; `word` is the folder as the user typed it."""
    try:
        entries = sorted(path for path in folder.iterdir() if path.name[0] != ".")
    except OSError as error:
        raise UserError(f"{word}: this folder cannot be listed: {error.strerror}") from error
    files = [path for path in entries if is_media(path)]
    folders = sum(path.is_dir() for path in entries)
    skipped_files = _skipped_files(entries)
    skipped = [skipped_files] if skipped_files else []
    skipped += [f"{folders} subfolder(s)"] if folders else []
    pattern = f'to include subfolders, give "{folder / "**" / "*.jpg"}" in quotes'
    if not files:
        holds = f"; it holds {' and '.join(skipped)}" if skipped else ""
        raise UserError(
            f"{word}: no image or video in this folder ({', '.join(IMAGE_SUFFIXES[:5])}, ...){holds}; {pattern}"
        )
    if skipped:
        logger.warning("%s: skipped %s%s", word, " and ".join(skipped), f"; {pattern}" if folders else "")
    return files


def _skipped_files(entries: Sequence[Path]) -> str:
    """Describe the files among `entries` that are neither images nor videos; "" if there are none."""
    others = [path for path in entries if not path.is_dir() and not is_media(path)]
    kinds = sorted({path.suffix.lower() or path.name for path in others})
    return f"{len(others)} file(s) of other kinds ({', '.join(kinds[:4])})" if others else ""


def is_media(path: Path) -> bool:
    """Return whether a path is a file with the suffix of an image or video."""
    return path.name[0] != "." and path.suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES and path.is_file()


def is_video(path: str | os.PathLike) -> bool:
    """Return whether a file name has the suffix of a video."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """Return a distinct name without suffix for each path: its stem, plus folders and suffix if stems collide."""
    absolute_paths = [Path(os.path.abspath(path)) for path in paths]
    parents: dict[str, list[str]] = defaultdict(list)
    for path in absolute_paths:
        parents[path.stem.casefold()].append(str(path.parent))
    homes = {stem: os.path.commonpath(folders) for stem, folders in parents.items() if len(folders) > 1}
    names: list[str] = []
    taken: set[str] = set()
    for path in absolute_paths:
        name = path.stem
        if (home := homes.get(path.stem.casefold())) is not None:
            parts = path.relative_to(home).with_suffix("").parts
            name = "_".join((*parts, path.suffix[1:])) if len(parts) == 1 else "_".join(parts)
        candidate, number = name, 2
        while candidate.casefold() in taken:
            candidate, number = f"{name}_{number}", number + 1
        taken.add(candidate.casefold())
        names.append(candidate)
    return names


class Video:
    """Video file or numbered camera; iterating yields its frames as RGB uint8 (H, W, 3).

    `fps` is the frame rate and `count` the number of frames, None if unknown. Raises `UnreadableFile` (for a camera,
    `UserError`) if it cannot be opened or has no frame.
    """

    def __init__(self, source: str | os.PathLike | int):
        self.source = source
        self.capture = cv2.VideoCapture(source if isinstance(source, int) else str(require_regular(source)))
        if not self.capture.isOpened():
            if isinstance(source, int):
                raise UserError(f"--webcam {source}: no camera has this number, or another program uses it")
            reason = "is not a video that OpenCV can read" if os.path.exists(source) else "does not exist"
            raise UnreadableFile(f"{source} {reason}")
        width, height = (int(self.capture.get(x)) for x in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if width * height > MAX_PIXELS:
            raise UnreadableFile(
                f"{source} has frames of {width} x {height} pixels, but at most {MAX_PIXELS} are read: reduce its size"
            )
        fps, count = self.capture.get(cv2.CAP_PROP_FPS), self.capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.fps = fps if 0 < fps < 1000 else DEFAULT_FPS
        self.count = int(count) if count > 0 else None

    def __iter__(self) -> Iterator[np.ndarray]:
        has_frames = False
        try:
            while True:
                success, frame = self.capture.read()
                if not success:
                    break
                has_frames = True
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        finally:
            self.capture.release()
        if not has_frames:
            raise UnreadableFile(f"{self.source} has no readable frame")


class VideoFile:
    """Context manager that writes RGB frames of one size to an .mp4 file.

    The complete file appears when the block ends without an error. If not every frame can be read back from it, an
    existing file is kept and `UserError` is raised.
    """

    def __init__(self, path: str | os.PathLike, fps: float):
        self.path = Path(path)
        self.fps = fps
        self.frames = 0
        self.writer: cv2.VideoWriter | None = None

    def __enter__(self) -> VideoFile:
        self.stack = ExitStack()
        self.temporary = self.stack.enter_context(temporary_beside(self.path, ".mp4"))
        return self

    def write(self, frame: np.ndarray) -> None:
        """Append a frame (H, W, 3); the format needs even sides, so an odd one is padded with white."""
        frame = np.pad(frame, [(0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)], constant_values=255)
        if self.writer is None:
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self.writer = cv2.VideoWriter(str(self.temporary), code, self.fps, frame.shape[1::-1])
            if not self.writer.isOpened():
                raise UserError(f"{self.path}: this OpenCV cannot write MPEG-4 video; install opencv-python-headless")
        self.writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        self.frames += 1

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self.stack:  # removes the temporary file and reports errors of the file system
            if self.writer is None:
                return
            self.writer.release()
            # the user stops a camera with Ctrl-C and wants to keep its recording
            if kind is None or issubclass(kind, KeyboardInterrupt):
                self._require_whole()
                put_in_place(self.temporary, self.path)

    def _require_whole(self) -> None:
        """Read all frames back and raise `UserError` if any is missing.

        OpenCV's writer reports neither a full disk nor a frame of another size.
        """
        with open(self.temporary, "rb+") as file:
            os.fsync(file.fileno())
        capture = cv2.VideoCapture(str(self.temporary))
        count = 0
        while capture.grab():
            count += 1
        capture.release()
        if count != self.frames:
            raise UserError(
                f"{self.path}: not written, only {count} of {self.frames} frames could be read back: free disk space, "
                "or choose another folder"
            )


def has_display() -> bool:
    """Return whether there is a screen to open a window on."""
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def show(title: str, image: np.ndarray, wait: int) -> bool:
    """Show an RGB image in a window for `wait` milliseconds (0: until a key is pressed).

    Returns False if q or Escape was pressed. Raises `UserError` if OpenCV was built without window support.
    """
    try:
        cv2.imshow(title, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        return cv2.waitKey(wait) & 0xFF not in (ord("q"), 27)
    except cv2.error as error:
        raise UserError(
            "cannot open a window: this OpenCV is built without them (opencv-python-headless); add --output DIR, or "
            "install opencv-python instead"
        ) from error
