"""Pictures and videos on disk: finding them, reading frames, writing results, showing them in a window."""

from __future__ import annotations

import glob
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from semask_d2.data.image_io import MAX_PIXELS
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
    """The files that the words of a command line mean, each once: files, folders (what lies in them) and globs.

    A file that does not exist is kept, for its reader to complain of; what is left out of a folder is logged. Raises
    `UserError` for a folder without pictures, and a glob that matches nothing.
    """
    found: list[Path] = []
    for word in inputs:
        path = Path(word).expanduser()
        if os.path.isdir(path):
            files = _folder_media(path, word)
        elif glob.has_magic(word) and not os.path.exists(path):
            matches = sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file())
            files = [p for p in matches if is_media(p)]
            others = _left_out(matches)
            if not files:
                raise UserError(f"{word}: matches no image or video{f'; it matches {others}' if others else ''}")
            if others:
                logger.warning("%s: left out %s", word, others)
        else:
            files = [path]
        found += files
    unique: dict[str, Path] = {}
    for path in found:
        unique.setdefault(os.path.realpath(path), path)
    return list(unique.values())


def _folder_media(folder: Path, word: str) -> list[Path]:
    """The images and videos that lie in a folder itself; `word` is what the user calls it."""
    try:
        entries = sorted(path for path in folder.iterdir() if path.name[0] != ".")
    except OSError as error:
        raise UserError(f"{word}: this folder cannot be listed: {error.strerror}") from error
    files = [path for path in entries if is_media(path)]
    folders = sum(path.is_dir() for path in entries)
    strangers = _left_out(entries)
    left_out = [strangers] if strangers else []
    left_out += [f"{folders} folder(s) in it"] if folders else []
    pattern = f'for those of folders in it, give "{folder / "**" / "*.jpg"}" in quotes'
    if not files:
        holds = f"; it holds {' and '.join(left_out)}" if left_out else ""
        raise UserError(
            f"{word}: no image or video in this folder ({', '.join(IMAGE_SUFFIXES[:5])}, ...){holds}; {pattern}"
        )
    if left_out:
        logger.warning("%s: left out %s%s", word, " and ".join(left_out), f"; {pattern}" if folders else "")
    return files


def _left_out(entries: Sequence[Path]) -> str:
    """How many of some entries are files of kinds that are not read, and which kinds; "" for none."""
    strangers = [path for path in entries if not path.is_dir() and not is_media(path)]
    kinds = sorted({path.suffix.lower() or path.name for path in strangers})
    return f"{len(strangers)} file(s) of other kinds ({', '.join(kinds[:4])})" if strangers else ""


def is_media(path: Path) -> bool:
    """Whether a file's name says image or video."""
    return path.name[0] != "." and path.suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES and path.is_file()


def is_video(path: str | os.PathLike) -> bool:
    """Whether a file's name says video."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """A name without suffix for the result of each path: its stem, with folders and suffix where stems collide."""
    whole = [Path(os.path.abspath(path)) for path in paths]
    stems = [path.stem.casefold() for path in whole]
    names: list[str] = []
    taken: set[str] = set()
    for path in whole:
        name = path.stem
        if stems.count(path.stem.casefold()) > 1:
            twins = [str(other.parent) for other in whole if other.stem.casefold() == path.stem.casefold()]
            parts = path.relative_to(os.path.commonpath(twins)).with_suffix("").parts
            name = "_".join((*parts, path.suffix[1:])) if len(parts) == 1 else "_".join(parts)
        candidate, number = name, 2
        while candidate.casefold() in taken:
            candidate, number = f"{name}_{number}", number + 1
        taken.add(candidate.casefold())
        names.append(candidate)
    return names


class Video:
    """A video file, or the camera of that number: iterates its frames as RGB uint8 (H, W, 3).

    `fps` are its frames a second, `count` its frames, or None where that is not known. Raises `UnreadableFile`
    (for a camera `UserError`) where it cannot be opened or has no frame.
    """

    def __init__(self, source: str | os.PathLike | int):
        self.source = source
        self.capture = cv2.VideoCapture(source if isinstance(source, int) else str(require_regular(source)))
        if not self.capture.isOpened():
            if isinstance(source, int):
                raise UserError(f"--webcam {source}: there is no camera of this number, or another program holds it")
            reason = "is no video that OpenCV reads" if os.path.exists(source) else "does not exist"
            raise UnreadableFile(f"{source} {reason}")
        width, height = (int(self.capture.get(x)) for x in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if width * height > MAX_PIXELS:
            raise UnreadableFile(
                f"{source} has frames of {width} x {height} pixels, but at most {MAX_PIXELS} are read: make it smaller"
            )
        fps, count = self.capture.get(cv2.CAP_PROP_FPS), self.capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.fps = fps if 0 < fps < 1000 else DEFAULT_FPS
        self.count = int(count) if count > 0 else None

    def __iter__(self) -> Iterator[np.ndarray]:
        any_frame = False
        try:
            while True:
                there, frame = self.capture.read()
                if not there:
                    break
                any_frame = True
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        finally:
            self.capture.release()
        if not any_frame:
            raise UnreadableFile(f"{self.source} holds no frame that can be read")


class VideoFile:
    """Writes RGB frames of one size to an .mp4 file, which appears whole when the block ends without an error.

    Raises `UserError`, and keeps an older file, where not every frame can be read back from the new one.
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
        """Append a frame (H, W, 3); the format wants even sides, so an odd one gets a white row or column."""
        frame = np.pad(frame, [(0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)], constant_values=255)
        if self.writer is None:
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self.writer = cv2.VideoWriter(str(self.temporary), code, self.fps, frame.shape[1::-1])
            if not self.writer.isOpened():
                raise UserError(f"{self.path}: this OpenCV cannot write MPEG-4 video; install opencv-python-headless")
        self.writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        self.frames += 1

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self.stack:  # removes the temporary file, and says what the system refuses
            if self.writer is None:
                return
            self.writer.release()
            # a camera is stopped by Ctrl-C, and what it has seen is worth keeping
            if kind is None or issubclass(kind, KeyboardInterrupt):
                self._require_whole()
                put_in_place(self.temporary, self.path)

    def _require_whole(self) -> None:
        """OpenCV's writer is silent on a full disk and on a frame of another size, so the frames are read back."""
        with open(self.temporary, "rb+") as file:
            os.fsync(file.fileno())
        capture = cv2.VideoCapture(str(self.temporary))
        count = 0
        while capture.grab():
            count += 1
        capture.release()
        if count != self.frames:
            raise UserError(
                f"{self.path}: not written, only {count} of {self.frames} frames could be read back: see that the "
                "disk has room, or choose another folder"
            )


def has_display() -> bool:
    """Whether there is a screen to open a window on."""
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def show(title: str, picture: np.ndarray, wait: int) -> bool:
    """Show an RGB picture in a window for `wait` milliseconds (0: until a key); False once q or Escape is pressed.

    Raises `UserError` where OpenCV was built without windows.
    """
    try:
        cv2.imshow(title, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        return cv2.waitKey(wait) & 0xFF not in (ord("q"), 27)
    except cv2.error as error:
        raise UserError(
            "no window: this OpenCV has none (opencv-python-headless); add --output DIR, or install opencv-python "
            "in its place"
        ) from error
