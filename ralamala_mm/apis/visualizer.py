"""`test.py --show` and `--show-dir`: data samples of MMDetection and MMSegmentation drawn as all tools draw."""

import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.dist import master_only
from mmengine.registry import VISUALIZERS
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer

from ralamala_mm.engine.evaluation import is_segmentation
from ralamala_mm.errors import UserError

from .drawing import draw_areas, draw_instances, palette_of, side_by_side

_REPLACED = ('DetLocalVisualizer', 'SegLocalVisualizer')
_SETTINGS = {'_scope_', 'type', 'name', 'vis_backends', 'save_dir'}  # of a visualizer whose drawing nobody has set up


def use_visualization(config: Config, show: bool, show_dir: str | None, wait_time: float) -> None:
    """`--show` and `--show-dir`: draws predictions in a window or into WORK_DIR/TIMESTAMP/SHOW_DIR.

    A visualizer that the config has set up by itself stays, and so does MMDetection's for panoptic segmentation.

    Args:
        config: changed in place.
        show: in windows.
        show_dir: a folder, or None.
        wait_time: of each window, in seconds.

    Raises:
        UserError: the config has no visualization hook to do it.
    """
    if not show and not show_dir:
        return
    hook = config.default_hooks.get('visualization')
    if hook is None:
        raise UserError('--show and --show-dir need default_hooks.visualization in the config')
    hook.draw = True
    hook.show = show
    hook.wait_time = wait_time
    visualizer = config.setdefault('visualizer', dict(type=_REPLACED[is_segmentation(config)]))
    if is_segmentation(config):
        hook.interval = 1  # MMSegmentation draws every 50th image otherwise
    if show_dir and is_segmentation(config):
        visualizer.save_dir = show_dir
    elif show_dir:
        hook.test_out_dir = show_dir
    is_default = str(visualizer.type).split('.')[-1] in _REPLACED and visualizer.keys() <= _SETTINGS
    if is_default and 'panoptic_fusion_head' not in config.model:
        visualizer.type = 'SampleVisualizer'


@VISUALIZERS.register_module()
class SampleVisualizer(Visualizer):
    """Draws objects or classes of a data sample: ground truth, where the pipeline loads it, left of the prediction."""

    @master_only
    def add_datasample(self, name: str, image: np.ndarray, data_sample: BaseDataElement | None = None, draw_gt: bool = True,
                       draw_pred: bool = True, show: bool = False, wait_time: float = 0, out_file: str | None = None,
                       pred_score_thr: float = 0.3, step: int = 0) -> None:
        """Draws a data sample; shows it, writes it to a file, or hands it to the backends.

        Args:
            name: of the image for the window and the backends.
            image: `[H, W, 3]`, RGB, from 0 to 255.
            data_sample: annotations and predictions, in pixels of the image.
            draw_gt: whether annotations are drawn.
            draw_pred: whether predictions are drawn.
            show: whether a window shows it.
            wait_time: of the window, in seconds.
            out_file: where to write it, instead of to the backends.
            pred_score_thr: objects below this score are not drawn.
            step: recorded by the backends.
        """
        image = image.clip(0, 255).astype(np.uint8)
        sample = (data_sample or BaseDataElement()).cpu()
        kinds = [kind for kind, wanted in (('gt', draw_gt), ('pred', draw_pred)) if wanted]
        views = [view for kind in kinds if (view := self._view(image, sample, kind, pred_score_thr)) is not None]
        drawn = side_by_side(*views) if len(views) == 2 else (views or [image])[0]
        self.set_image(drawn)
        if show:
            self.show(drawn, win_name=name, wait_time=wait_time)
        if out_file:
            mmcv.imwrite(drawn[..., ::-1], out_file)
        else:
            self.add_image(name, drawn, step)

    def _view(self, image: np.ndarray, sample: BaseDataElement, kind: str, score: float) -> np.ndarray | None:
        """The image with what the sample has of a kind, 'gt' or 'pred'; None if it has nothing of it."""
        classes, palette = self.dataset_meta['classes'], palette_of(self.dataset_meta)
        areas = sample.get(f'{kind}_sem_seg')
        if areas is not None:
            return draw_areas(image, areas.data[0].numpy(), classes, palette)
        instances = sample.get(f'{kind}_instances')
        if instances is None:
            return None
        if 'scores' in instances:
            instances = instances[instances.scores >= score]
        return draw_instances(image, instances, classes, palette)
