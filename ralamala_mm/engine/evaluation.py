"""The options of test.py, each as in the library of the task: MMDetection's or MMSegmentation's."""

from copy import deepcopy

from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner

from ralamala_mm.datasets.walking import datasets_of
from ralamala_mm.errors import UserError

# What MMDetection's own test.py takes when the config names nothing: flips, merged by NMS.
_DEFAULT_DETECTION_TTA = dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100))
_FLIP_META_KEYS = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')


def is_segmentation(config: Config) -> bool:
    """Whether the config belongs to MMSegmentation."""
    return config.get('default_scope') == 'mmseg'


def use_test_time_augmentation(config: Config) -> None:
    """`--tta`: the config's own augmentation; detectors without one are tested flipped and not, merged by NMS.

    Raises:
        UserError: a segmentation config without one, or a detector with masks, which MMDetection cannot merge.
    """
    if config.model.get('roi_head', {}).get('mask_head') or config.model.get('mask_head'):
        raise UserError('--tta: MMDetection merges boxes, but not masks; test this model without it')
    if is_segmentation(config) and ('tta_model' not in config or 'tta_pipeline' not in config):
        raise UserError('--tta needs tta_model and tta_pipeline in the config')
    datasets = [dataset for _, dataset in datasets_of(config, ['test'])]
    if 'tta_pipeline' not in config:
        config.tta_pipeline = deepcopy(datasets[0].pipeline)
        config.tta_pipeline[-1] = dict(type='TestTimeAug', transforms=[
            [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)],
            [dict(type='PackDetInputs', meta_keys=_FLIP_META_KEYS)]])
    config.model = ConfigDict(**config.get('tta_model', _DEFAULT_DETECTION_TTA), module=config.model)
    for dataset in datasets:
        dataset.pipeline = config.tta_pipeline


def check_output(config: Config, out: str | None) -> None:
    """Whether `--out` suits the task, before anything is computed.

    Raises:
        UserError: detection, and it is not a pickle's name.
    """
    if out and not is_segmentation(config) and not out.endswith(('.pkl', '.pickle')):
        raise UserError(f'--out {out}: predictions of a detector are written to a .pkl file')


def use_segmentation_output(config: Config, out: str | None) -> None:
    """`--out` for segmentation: a folder that receives the predicted masks."""
    if out and is_segmentation(config):
        config.test_evaluator.output_dir = out
        config.test_evaluator.keep_results = True


def use_detection_output(config: Config, runner: Runner, out: str | None) -> None:
    """`--out` for detection: a pickle of all predictions."""
    if out and not is_segmentation(config):
        from mmdet.evaluation import DumpDetResults

        runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=out))
