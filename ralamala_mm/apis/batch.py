"""All inputs of a command: read, predicted, drawn and written; what cannot be read is named and passed over."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path, PurePosixPath

import numpy as np
from mmengine.structures import BaseDataElement

from ralamala_mm.datasets.config import is_segmentation
from ralamala_mm.datasets.progress import Progress
from ralamala_mm.errors import UserError
from ralamala_mm.version import __version__

from .drawing import draw
from .inputs import Source, VideoReader, check_out_dir, drawn_suffix, find_sources, name_outputs
from .outputs import Tables, VideoWriter, id_table_of, mask_id_table, write_colored, write_image, write_mask
from .predictor import Predictor, load_model

DRAWN_FROM = 0.3  # score threshold of detectors, as in MMDetection's own tools
_NAMED = 5  # classes in the summary


def infer(args: argparse.Namespace) -> None:
    """What `tools/infer.py` does; its options are the arguments.

    Raises:
        UserError: an option does not fit, or some inputs could not be read, after all others were done.
    """
    sources = find_sources(args.inputs)
    check_out_dir(Path(args.out_dir), args.inputs, sources)
    model = load_model(args.config, args.checkpoint, args.device, args.cfg_options)
    if is_segmentation(model.cfg) and args.score_threshold is not None:
        raise UserError('--score-threshold is for detectors: a segmentor gives every pixel its most likely class')
    threshold = args.score_threshold if args.score_threshold is not None else 0.0 if is_segmentation(model.cfg) else DRAWN_FROM
    if args.coloured and not is_segmentation(model.cfg):
        raise UserError('--coloured is for segmentors: a detector has no masks of all pixels')
    predictor = Predictor(model, args.batch_size, threshold, args.classes, args.tile, args.overlap, args.tta)
    work = BatchRun(predictor, sources, Path(args.out_dir), args.draw, args.coloured)
    info = dict(description=f'Predictions of {args.config} with {args.checkpoint}', made_with=f'ralamala_mm {__version__}',
                score_threshold=threshold, tile=args.tile, overlap=predictor.overlap if args.tile else None, tta=args.tta)
    work.run(info)


class ImageProgress:
    """How many images are done, and how many tiles of the one at hand, which may take minutes."""

    def __init__(self, count: int):
        self._images = Progress('images', count)
        self._tiles: Progress | None = None

    def advance(self) -> None:
        """Another image is done."""
        self._end_tiles()
        self._images.advance(1)

    def advance_tiles(self, predicted: int, count: int) -> None:
        """Another few tiles, of so many, are predicted."""
        if count > 1:
            self._tiles = self._tiles or Progress('  tiles of an image', count)
            self._tiles.advance(predicted)

    def tell(self, text: str) -> None:
        self._end_tiles()
        self._images.tell(text)

    def end(self) -> None:
        self._images.end()

    def _end_tiles(self) -> None:
        if self._tiles:
            self._tiles.end()
            self._tiles = None


class BatchRun:
    """The inputs of a command and where their results go.

    Args:
        predictor: with its model.
        sources: the inputs.
        out_dir: receives `predictions.json`, `predictions.csv`, `drawn/`, and `masks/`, `coloured/` of a segmentor.
        draws: write images with predictions drawn on them.
        colors: write a segmentor's masks in colors too.
    """

    def __init__(self, predictor: Predictor, sources: Sequence[Source], out_dir: Path, draws: bool, colors: bool):
        self.predictor = predictor
        self.sources = sources
        self.out_dir = out_dir
        self.draws, self.colors = draws, colors
        self.classes, self.palette = (predictor.model.dataset_meta[key] for key in ('classes', 'palette'))
        self.drawn_names = name_outputs(sources, drawn_suffix)
        self.mask_names = name_outputs(sources, lambda source: '.png' if source.kind == 'image' else '')
        self.failed: list[str] = []
        self.done = dict(images=0, frames=0)

    def run(self, info: dict) -> None:
        """Does it all.

        Raises:
            UserError: some inputs could not be read.
        """
        model = self.predictor.model
        self.ids = mask_id_table(self.classes, model.dataset_meta['reduce_zero_label']) if self.predictor.segments \
            else id_table_of(model.cfg, self.classes)
        with Tables(self.out_dir, self.classes, self.palette, self.ids, info, self.predictor.segments) as self.tables:
            self._do_images([source for source in self.sources if source.kind == 'image'])
            for source in self.sources:
                if source.kind != 'image':
                    self._do_video(source)
        print(self._summary(), flush=True)
        if self.failed:
            raise UserError(f'{len(self.failed)} of {len(self.sources)} inputs could not be predicted, as reported above: '
                            f'{", ".join(self.failed[:_NAMED])}{", …" if len(self.failed) > _NAMED else ""}')

    def _do_images(self, sources: list[Source]) -> None:
        if not sources:
            return
        by_path = {source.path: source for source in sources}
        progress = ImageProgress(len(sources))

        def fail(path: str, error: UserError) -> None:
            self._fail(by_path[path], error, progress.tell)
            progress.advance()

        for path, image, sample in self.predictor(self._read(sources, fail), fail, progress.advance_tiles):
            source = by_path[path]
            try:
                mask = self._write_masks(sample, self.mask_names[source])
                if self.draws:
                    write_image(self.out_dir / 'drawn' / self.drawn_names[source], self._drawn(image, sample))
            except UserError as error:
                fail(path, error)
                continue
            self.tables.add(sample, source.name, path, mask=mask)
            self.done['images'] += 1
            progress.advance()
        progress.end()

    def _read(self, sources: list[Source], fail: Callable[[str, UserError], None]) -> Iterator[tuple[str, np.ndarray]]:
        for source in sources:
            try:
                image = self.predictor.read(source.path)
            except UserError as error:
                fail(source.path, error)
                continue
            yield source.path, image

    def _do_video(self, source: Source) -> None:
        """A video's or camera's frames; a camera continues until Ctrl-C."""
        try:
            film = VideoReader(source)
        except UserError as error:
            self._fail(source, error, _tell)
            return
        if source.kind == 'camera':
            _tell(f'camera {source.path}: Ctrl-C ends it')
        progress = Progress(source.name, film.count) if film.count else None
        try:
            self._do_frames(source, film, progress)
        except UserError as error:
            self._fail(source, error, progress.tell if progress else _tell)
        else:
            if progress:
                progress.end()

    def _do_frames(self, source: Source, film: VideoReader, progress: Progress | None) -> None:
        writer = VideoWriter(self.out_dir / 'drawn' / self.drawn_names[source], film.frames_per_second)
        with writer if self.draws else nullcontext():
            try:
                for frame, image, sample in self.predictor(enumerate(film)):
                    mask = self._write_masks(sample, self.mask_names[source] / f'{frame:06}.png')
                    self.tables.add(sample, source.name, frame=frame, mask=mask)
                    if self.draws:
                        writer.write(self._drawn(image, sample))
                    self.done['frames'] += 1
                    if progress:
                        progress.advance(1)
            except KeyboardInterrupt:
                if source.kind != 'camera':
                    raise

    def _fail(self, source: Source, error: UserError, tell: Callable[[str], None]) -> None:
        self.failed.append(source.path)
        tell(f'{source.path} skipped: {error.sentence}')

    def _drawn(self, image: np.ndarray, sample: BaseDataElement) -> np.ndarray:
        return draw(image, sample, self.classes, self.palette)

    def _write_masks(self, sample: BaseDataElement, name: PurePosixPath) -> str | None:
        if not self.predictor.segments:
            return None
        write_mask(self.out_dir / 'masks' / name, sample, self.ids.categories)
        if self.colors:
            write_colored(self.out_dir / 'coloured' / name, sample, self.palette)
        return f'masks/{name}'

    def _summary(self) -> str:
        done = ' and '.join(f'{count} {what if count != 1 else what[:-1]}' for what, count in self.done.items() if count) \
            or 'no images'
        found = sorted(((count, name) for name, count in self.tables.counts.items() if count), reverse=True)
        total = sum(count for count, _ in found)
        if self.predictor.segments:
            what = ', '.join(f'{name} {100 * count / total:.0f} %' for count, name in found[:_NAMED])
        else:
            what = f'{total} objects of score {self.predictor.score_threshold:g} or more (--score-threshold)'
            what += (': ' if found else '') + ', '.join(f'{count} {name}' for count, name in found[:_NAMED])
        return f'{done}; {what}{", …" if len(found) > _NAMED else ""}; in {self.out_dir}'


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
