"""What a user wants predicted: images, folders, patterns, videos and cameras, each with a name for its results."""

import glob
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from ralamala_mm.checkpoints.reading import near_names
from ralamala_mm.errors import UserError

IMAGES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm', '.pgm', '.jp2', '.avif')
VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg', '.wmv', '.flv', '.ts')
RESULT_FOLDERS = ('drawn', 'masks', 'coloured')
_WRITTEN = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')  # kinds that drawn images keep
_FRAMES_PER_SECOND = 25.0  # of a video that does not say
_MOST_FRAMES_PER_SECOND = 1000  # some files name the ticks of their clock instead


@dataclass(frozen=True)
class Source:
    """One input. `path` is a camera's number for a camera; `name` is unique among the inputs, with / between its parts."""

    kind: str  # 'image', 'video' or 'camera'
    path: str
    name: str


def find_sources(paths: Sequence[str]) -> list[Source]:
    """All inputs that paths, folders, patterns and camera numbers mean, each once, in order.

    Images and videos of a folder are named by their way from it, others by their file's name; where two would have the same
    name, all are named by their way from the folder that they have in common.

    Raises:
        UserError: there is nothing at a path, or nothing to predict in a folder.
    """
    found: dict[str, tuple[str, str]] = {}  # the real path: as given, name
    cameras = []
    for path in paths:
        if path.isascii() and path.isdigit() and not os.path.exists(path):
            cameras.append(Source('camera', str(int(path)), f'camera{int(path)}'))
            continue
        for file, name in _files_of(path):
            found.setdefault(os.path.realpath(file), (file, name))
    if len({name for _, name in found.values()}) < len(found):
        common = os.path.commonpath([os.path.dirname(real) for real in found])
        found = {real: (file, os.path.relpath(real, common)) for real, (file, _) in found.items()}
    files = [Source('video' if _has_suffix(file, VIDEOS) else 'image', file, Path(name).as_posix())
             for file, name in found.values()]
    return files + list(dict.fromkeys(cameras))


def _files_of(path: str) -> Iterator[tuple[str, str]]:
    """(file, name) for what a path or pattern means."""
    if os.path.isdir(path):
        files = sorted(_walk(path))
        if not files:
            raise UserError(f'folder {path} has no images or videos in it ({", ".join(IMAGES[:6])}, …)')
        yield from ((file, os.path.relpath(file, path)) for file in files)
    elif os.path.isfile(path):
        yield path, os.path.basename(path)
    elif glob.has_magic(path):
        matches = [match for match in sorted(glob.glob(path, recursive=True)) if os.path.isfile(match)]
        if not matches:
            raise UserError(f'nothing matches {path}')
        yield from ((match, os.path.basename(match)) for match in matches)
    else:
        raise UserError(f'input {path} does not exist{near_names(Path(path))}')


def _walk(folder: str) -> Iterator[str]:
    """The images and videos below a folder, without hidden ones."""
    seen = {os.path.realpath(folder)}  # links may lead in circles
    for root, folders, files in os.walk(folder, followlinks=True):
        real = {name: os.path.realpath(os.path.join(root, name)) for name in sorted(folders) if not name.startswith('.')}
        folders[:] = [name for name in real if real[name] not in seen]
        seen.update(real.values())
        yield from (os.path.join(root, name) for name in files
                    if not name.startswith('.') and _has_suffix(name, IMAGES + VIDEOS))


def _has_suffix(path: str, suffixes: Sequence[str]) -> bool:
    return path.lower().endswith(tuple(suffixes))


def check_out_dir(out_dir: Path, paths: Sequence[str], sources: Sequence[Source]) -> None:
    """Whether results can go there without becoming inputs, or replacing them.

    Args:
        out_dir: for the results.
        paths: as given.
        sources: what they mean.

    Raises:
        UserError: it is a file, lies in an input folder, or an input lies where results go.
    """
    if out_dir.exists() and not out_dir.is_dir():
        raise UserError(f'--out-dir {out_dir} is a file: name a folder')
    target = out_dir.resolve()
    for path in paths:
        if os.path.isdir(path) and target.is_relative_to(Path(path).resolve()):
            raise UserError(f'--out-dir {out_dir} lies in the input {path}, where the next run would take the results for '
                            'inputs: name a folder outside')
    for source in sources:
        if source.kind != 'camera' and any(Path(source.path).resolve().is_relative_to(target / part) for part in RESULT_FOLDERS):
            raise UserError(f'--out-dir {out_dir} is where the input {source.path} lies: name another folder for the results')


def name_outputs(sources: Sequence[Source], suffix: Callable[[Source], str]) -> dict[Source, PurePosixPath]:
    """A name for a result of each source: its own with another suffix, behind the old one where two would have the same.

    No result is a folder of another, also where letters' case makes no difference: a video's may be a folder of frames.

    Args:
        sources: with names of their own.
        suffix: of a source's result, with its dot.
    """
    replaced = {source: PurePosixPath(source.name).with_suffix(suffix(source)) for source in sources}
    counts = Counter(str(name).lower() for name in replaced.values())
    unchanged = {source for source, name in replaced.items() if str(name) == source.name}
    taken = {parent for source in sources for parent in PurePosixPath(source.name.lower()).parents}
    names: dict[Source, PurePosixPath] = {}
    for source in sorted(sources, key=lambda source: source not in unchanged):
        candidates = (PurePosixPath(f'{source.name}{f"_{i}" if i else ""}{suffix(source)}') for i in itertools.count())
        if source in unchanged or counts[str(replaced[source]).lower()] == 1:
            candidates = itertools.chain([replaced[source]], candidates)
        names[source] = next(name for name in candidates if PurePosixPath(str(name).lower()) not in taken)
        taken.add(PurePosixPath(str(names[source]).lower()))
    return names


def drawn_suffix(source: Source) -> str:
    """What a drawn image or video ends with: as its source, if that is a kind that can be written."""
    if source.kind != 'image':
        return '.mp4'
    suffix = PurePosixPath(source.name).suffix
    return suffix if suffix.lower() in _WRITTEN else '.png'


class VideoReader:
    """The frames of a video or a camera, one after the other; `count` is how many, 0 if nobody knows.

    Raises:
        UserError: it cannot be opened.
    """

    def __init__(self, source: Source):
        self._source = source
        self._capture = cv2.VideoCapture(int(source.path) if source.kind == 'camera' else source.path)
        if not self._capture.isOpened():
            what = f'camera {source.path} cannot be opened' if source.kind == 'camera' else \
                f'video {source.path} cannot be opened: it is damaged, or of a kind that OpenCV does not read'
            raise UserError(what)
        count = 0 if source.kind == 'camera' else int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.count = max(count, 0)
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.frames_per_second = rate if 0 < rate <= _MOST_FRAMES_PER_SECOND else _FRAMES_PER_SECOND

    def __iter__(self) -> Iterator[np.ndarray]:
        """Frames `[H, W, 3]`, BGR.

        Raises:
            UserError: there is none.
        """
        read = 0
        try:
            while True:
                is_there, frame = self._capture.read()
                if not is_there:
                    break
                read += 1
                yield frame
        finally:
            self._capture.release()
        if not read:
            raise UserError(f'{self._source.kind} {self._source.path} gives no frames: it is damaged, or of a kind that OpenCV '
                            'does not read')
