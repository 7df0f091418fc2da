"""What MMEngine lacks to be dependable here: command lines, launching, a runner that refuses what cannot work."""

from importlib.util import find_spec

if missing := [name for name in ('mmcv', 'pycocotools', 'msgspec') if find_spec(name) is None]:
    raise ImportError(f'the tools need {" and ".join(missing)}: run `make install`, or follow the README\'s section '
                      '"Install into an environment of your own"')

from .bfloat16 import keep_operators_in_fp32
from .checkpointing import checkpoint_folder, claim_folders, use_resume
from .cli import add_amp_options, add_cfg_options, add_data_options, add_traceback_option, add_trust_option, run, runner_parser
from .config import (
    build_model,
    check_output,
    drop_validation,
    load_config,
    prepare_config,
    resolve_pretrained,
    use_amp,
    use_auto_scale_lr,
    use_detection_output,
    use_segmentation_output,
    use_test_time_augmentation,
    use_visualization,
)
from .distributed import check_process_count, launched_rank, start_processes
from .preparation import Training, prepare_data, prepare_evaluation, prepare_training
from .progress import Console
from .runner import DependableRunner, build_runner
from .work_dir import RECORDERS, claim_work_dir, use_recorders

__all__ = [
    'RECORDERS', 'Console', 'DependableRunner', 'Training', 'add_amp_options', 'add_cfg_options', 'add_data_options',
    'add_traceback_option', 'add_trust_option', 'build_model', 'build_runner', 'check_output', 'check_process_count',
    'checkpoint_folder', 'claim_folders', 'claim_work_dir', 'drop_validation', 'keep_operators_in_fp32', 'launched_rank',
    'load_config', 'prepare_config', 'prepare_data', 'prepare_evaluation', 'prepare_training', 'resolve_pretrained', 'run',
    'runner_parser', 'start_processes', 'use_amp', 'use_auto_scale_lr', 'use_detection_output', 'use_recorders', 'use_resume',
    'use_segmentation_output', 'use_test_time_augmentation', 'use_visualization',
]
