"""What paths mean, what results are called, and where they must not go."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from ralamala_mm.apis.inputs import Source, VideoReader, check_out_dir, drawn_suffix, find_sources, name_outputs
from ralamala_mm.errors import UserError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ('a/x.jpg', 'a/deep/y.PNG', 'b/x.jpg', 'b/x.png', 'b/note.txt', 'b/.hidden.jpg', 'b/.cache/z.jpg', 'b/clip.MP4'):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'')
    return tmp_path


def names(*paths: object) -> list[str]:
    return [source.name for source in find_sources([str(path) for path in paths])]


def test_names_are_the_way_from_the_folder(photos: Path):
    assert names(photos / 'a') == ['deep/y.PNG', 'x.jpg']
    assert names(photos / 'a' / 'x.jpg') == ['x.jpg']
    assert [(source.kind, source.name) for source in find_sources([str(photos / 'b'), '3'])] == [
        ('video', 'clip.MP4'), ('image', 'x.jpg'), ('image', 'x.png'), ('camera', 'camera3')]


def test_two_inputs_never_have_one_name(photos: Path):
    assert names(photos / 'a', photos / 'b') == ['a/deep/y.PNG', 'a/x.jpg', 'b/clip.MP4', 'b/x.jpg', 'b/x.png']
    assert names(photos / '*' / 'x.*') == ['a/x.jpg', 'b/x.jpg', 'b/x.png']
    # The same file by three ways is one input.
    assert names(photos / 'a' / 'x.jpg', photos / 'a' / 'x.jpg', photos / '**' / 'a' / '*.jpg') == ['x.jpg']


def test_two_results_never_have_one_name(photos: Path):
    sources = find_sources([str(photos / 'b')])
    masks = name_outputs(sources, lambda source: '.png' if source.kind == 'image' else '')
    assert {source.name: str(name) for source, name in masks.items()} == {
        'clip.MP4': 'clip', 'x.jpg': 'x.jpg.png', 'x.png': 'x.png'}
    drawn = name_outputs(sources, drawn_suffix)
    assert {source.name: str(name) for source, name in drawn.items()} == {
        'clip.MP4': 'clip.mp4', 'x.jpg': 'x.jpg', 'x.png': 'x.png'}


@pytest.mark.parametrize(('inputs', 'masks', 'drawn'), [
    (['clip.mp4', 'clip/000000.png'], ['clip.mp4', 'clip/000000.png'], ['clip.mp4', 'clip/000000.png']),
    (['x.jpg', 'x.png', 'x.jpg.png'], ['x.jpg_1.png', 'x.png', 'x.jpg.png'], ['x.jpg', 'x.png', 'x.jpg.png']),
    (['v.avi', 'v.mp4', 'v.avi.mp4'], ['v.avi', 'v.mp4', 'v.avi.mp4'], ['v.avi_1.mp4', 'v.mp4', 'v.avi.mp4']),
    (['a.gif', 'a.png', 'a.gif.png'], ['a.gif_1.png', 'a.png', 'a.gif.png'], ['a.gif_1.png', 'a.png', 'a.gif.png']),
    (['x.jpg', 'X.PNG/y.jpg'], ['x.jpg.png', 'X.PNG/y.png'], ['x.jpg', 'X.PNG/y.jpg']),
])
def test_results_that_would_lie_in_each_others_way(inputs: list[str], masks: list[str], drawn: list[str]):
    sources = [Source('video' if name.endswith(('mp4', 'avi')) else 'image', name, name) for name in inputs]
    names = name_outputs(sources, lambda source: '.png' if source.kind == 'image' else '')
    assert [str(names[source]) for source in sources] == masks
    names = name_outputs(sources, drawn_suffix)
    assert [str(names[source]) for source in sources] == drawn


def test_a_camera_is_one_input_and_no_video():
    sources = [*find_sources(['0', '00', '1']), Source('video', 'camera0.mp4', 'camera0.mp4')]
    assert [source.name for source in sources] == ['camera0', 'camera1', 'camera0.mp4']
    assert len({str(name) for name in name_outputs(sources, drawn_suffix).values()}) == 3


def test_links_to_folders_are_followed_once(photos: Path):
    (photos / 'a' / 'linked').symlink_to(photos / 'b')
    (photos / 'b' / 'back').symlink_to(photos / 'a')
    assert names(photos / 'a') == ['deep/y.PNG', 'linked/clip.MP4', 'linked/x.jpg', 'linked/x.png', 'x.jpg']


@pytest.mark.parametrize(('path', 'sentence'), [
    ('nowhere.jpg', 'nowhere.jpg does not exist'), ('a/xx.jpg', 'did you mean .*a/x.jpg'), ('*.gif', 'nothing matches'),
    ('empty', 'no images or videos')])
def test_inputs_that_are_not_there(photos: Path, path: str, sentence: str):
    (photos / 'empty').mkdir()
    with pytest.raises(UserError, match=sentence):
        find_sources([str(photos / path)])


@pytest.mark.parametrize(('out', 'inputs', 'sentence'), [
    ('a', ['a'], 'lies in the input'), ('a/out', ['a'], 'lies in the input'), ('a/x.jpg', ['b'], 'is a file'),
    ('out', ['out/drawn/x.jpg'], 'is where the input .* lies'), ('out', ['out/masks'], 'is where the input .* lies')])
def test_results_among_the_inputs(photos: Path, out: str, inputs: list[str], sentence: str):
    for part in ('drawn', 'masks'):
        (photos / 'out' / part).mkdir(parents=True)
        (photos / 'out' / part / 'x.jpg').write_bytes(b'')
    paths = [str(photos / path) for path in inputs]
    with pytest.raises(UserError, match=sentence):
        check_out_dir(photos / out, paths, find_sources(paths))
    check_out_dir(photos / 'other', paths, find_sources(paths))


def test_films_give_their_frames_or_say_why_not(tmp_path: Path):
    path = tmp_path / 'film.mp4'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), 10, (64, 48))
    for i in range(7):
        writer.write(np.full((48, 64, 3), 30 * i, np.uint8))
    writer.release()
    film = VideoReader(find_sources([str(path)])[0])
    assert (film.count, film.frames_per_second) == (7, 10)
    brightness = [frame.mean() for frame in film]
    assert brightness == pytest.approx([30 * i for i in range(7)], abs=6)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r'film.mp4 (cannot be opened|gives no frames)'):
        list(VideoReader(find_sources([str(path)])[0]))
    with pytest.raises(UserError, match='camera 97 cannot be opened'):
        VideoReader(find_sources(['97'])[0])
