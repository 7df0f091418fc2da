"""Proves that the environment works: imports the stack and runs mmcv's operators forward and backward."""

import warnings

warnings.filterwarnings('ignore')

import mmcv  # noqa: E402
import mmdet  # noqa: E402
import mmengine  # noqa: E402
import mmseg  # noqa: E402
import torch  # noqa: E402
from mmcv.ops import nms, roi_align  # noqa: E402

import ralamala_mm  # noqa: E402


def check_operators(device: str) -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]], device=device)
    kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7], device=device), 0.5)[1]
    assert kept.tolist() == [0, 2], f'nms kept {kept.tolist()}'
    image = torch.ones(1, 2, 8, 8, device=device, requires_grad=True)
    pooled = roi_align(image, torch.tensor([[0.0, 0, 0, 4, 4]], device=device), (2, 2))
    pooled.sum().backward()
    assert torch.allclose(pooled, torch.ones_like(pooled)), 'roi_align is wrong'
    assert torch.isclose(image.grad.sum(), torch.tensor(8.0, device=device)), 'the gradient of roi_align is wrong'


devices = ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']
for name in devices:
    check_operators(name)
ralamala_mm.RAVLT('t')
print(f'yes, on {" and ".join(devices)} (torch {torch.__version__}, mmengine {mmengine.__version__}, mmcv {mmcv.__version__}, '
      f'mmdet {mmdet.__version__}, mmseg {mmseg.__version__})')
