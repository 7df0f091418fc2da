"""Detectors as one function from an image to boxes, scores, labels and masks.

MMDetection's own way from feature maps to results cannot be traced: it asks in Python how many boxes are left, cuts lists by
such counts and writes into results by index. Here its heads are called as they are, and what lies between them is written
anew with operators whose sizes stay open.

Shapes: one image; K anchors, proposals or detections, C classes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ralamala_mm.errors import UserError

from .operators import highest, paste, roi_align, suppress

LARGEST_RATIO = 4.135166556742356  # |log(16/1000)|: MMDetection's limit for how much a box grows

# The types that each part of a detector may be of; what is called as it is may be of any.
_DETECTORS = ('RetinaNet', 'FasterRCNN', 'MaskRCNN', 'CascadeRCNN')
_DENSE_HEADS = ('RetinaHead', 'RetinaSepBNHead')
_ROI_HEADS = ('StandardRoIHead', 'CascadeRoIHead')
_BOX_HEADS = ('Shared2FCBBoxHead', 'Shared4Conv1FCBBoxHead', 'ConvFCBBoxHead', 'BBoxHead')
_NMS_SETTINGS = ('type', 'iou_threshold', 'class_agnostic', 'split_thr')  # the last is how MMCV saves memory


def check_detector(model: nn.Module) -> None:
    """Whether the detector's parts are those that are written anew here.

    Raises:
        UserError: it names the first part that is not.
    """
    check_type(model, _DETECTORS)
    roi_head = getattr(model, 'roi_head', None)
    if roi_head is None:
        check_type(model.bbox_head, _DENSE_HEADS)
        _check_settings(model.bbox_head.test_cfg, 'test_cfg', ['nms_pre', 'max_per_img'])
    else:
        check_type(model.rpn_head, ['RPNHead'])
        check_type(roi_head, _ROI_HEADS)
        for head in _as_list(roi_head.bbox_head):
            check_type(head, _BOX_HEADS)
        for head in _as_list(roi_head.mask_head) if roi_head.with_mask else []:
            check_type(head, ['FCNMaskHead'])
        _check_settings(model.rpn_head.test_cfg, 'test_cfg.rpn', ['nms_pre', 'max_per_img'])
        _check_settings(roi_head.test_cfg, 'test_cfg.rcnn', ['max_per_img'])
        if roi_head.with_mask and roi_head.test_cfg.mask_thr_binary < 0:
            raise UserError('ONNX export needs test_cfg.rcnn.mask_thr_binary of at least 0, such as 0.5')
    for head in _box_heads(model):
        check_type(head.bbox_coder, ['DeltaXYWHBBoxCoder'])
        if getattr(head, 'custom_cls_channels', False) or getattr(head.loss_cls, 'custom_cls_channels', False):
            raise UserError(f'ONNX export does not support the activation of {type(head.loss_cls).__name__}')
    for extractor in _extractors(model):
        check_type(extractor, ['SingleRoIExtractor'])
        check_type(extractor.roi_layers[0], ['RoIAlign'])
        if extractor.roi_layers[0].pool_mode != 'avg':
            raise UserError("ONNX export supports RoIAlign pool_mode='avg' only")


def check_type(part: object, known: Sequence[str]) -> None:
    """Whether a model, or a part of it, is of one of the types that are written anew.

    Raises:
        UserError: it is not.
    """
    if type(part).__name__ not in known:
        raise UserError(f'ONNX export supports {" or ".join(known)}, not {type(part).__name__}: --backbone-only exports the '
                        'backbone of any model')


def _check_settings(settings: dict, name: str, limits: Sequence[str]) -> None:
    nms = settings.get('nms') or dict(type=None)
    if nms.get('type', 'nms') != 'nms':
        raise UserError(f"ONNX export supports NMS of type 'nms', not '{nms['type']}': set {name}.nms.type='nms'")
    if unknown := [key for key in nms if key not in _NMS_SETTINGS]:
        raise UserError(f'ONNX export does not support {name}.nms.{unknown[0]} (supported: {", ".join(_NMS_SETTINGS)}): remove '
                        'it from the config')
    for key in limits:
        if settings.get(key, -1) < 1:
            raise UserError(f'ONNX export needs a positive {name}.{key}, such as 1000')


def _box_heads(model: nn.Module) -> list[nn.Module]:
    roi_head = getattr(model, 'roi_head', None)
    if roi_head is None:
        return [model.bbox_head]
    heads = roi_head.bbox_head
    return [model.rpn_head, *(heads if isinstance(heads, nn.ModuleList) else [heads])]


def _extractors(model: nn.Module) -> list[nn.Module]:
    roi_head = getattr(model, 'roi_head', None)
    found = [getattr(roi_head, name, None) for name in ('bbox_roi_extractor', 'mask_roi_extractor')]
    return [extractor for one in found if one is not None for extractor in (one if isinstance(one, nn.ModuleList) else [one])]


def decode(coder: object, boxes: Tensor, deltas: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """Boxes `[K, 4]` moved and stretched by deltas `[K, 4]`, within the image if the coder says so."""
    deltas = deltas * deltas.new_tensor(coder.stds) + deltas.new_tensor(coder.means)
    centre, size = (boxes[:, :2] + boxes[:, 2:]) * 0.5, boxes[:, 2:] - boxes[:, :2]
    shift, growth = size * deltas[:, :2], deltas[:, 2:]
    if coder.add_ctr_clamp:
        shift, growth = shift.clamp(-coder.ctr_clamp, coder.ctr_clamp), growth.clamp(max=LARGEST_RATIO)
    else:
        growth = growth.clamp(-LARGEST_RATIO, LARGEST_RATIO)
    centre, size = centre + shift, size * growth.exp()
    moved = torch.cat([centre - size * 0.5, centre + size * 0.5], dim=1)
    if not coder.clip_border:
        return moved
    edge = torch.stack([width, height, width, height]).to(moved.dtype)
    return torch.minimum(moved.clamp(min=0), edge)


def flat(maps: Tensor, channels: int) -> Tensor:
    """`[1, A·channels, h, w]` → `[h·w·A, channels]`, in the order of the anchors."""
    return maps[0].permute(1, 2, 0).reshape(-1, channels)


def not_tiny(boxes: Tensor, settings: dict) -> Tensor:
    """Places of the boxes larger than `min_bbox_size`, or of all."""
    smallest = settings.get('min_bbox_size', -1)
    size = boxes[:, 2:] - boxes[:, :2]
    return (size > smallest).all(dim=1).nonzero()[:, 0] if smallest >= 0 else torch.arange(boxes.shape[0], device=boxes.device)


class DenseDetector(nn.Module):
    """RetinaNet: image `[1, 3, H, W]`, normalized and padded → boxes `[K, 4]`, scores `[K]`, labels `[K]`."""

    outputs = ('boxes', 'scores', 'labels')

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, height: Tensor, width: Tensor) -> tuple[Tensor, ...]:
        head, settings = self.model.bbox_head, self.model.bbox_head.test_cfg
        class_maps, delta_maps = head(self.model.extract_feat(image))
        anchors = head.prior_generator.grid_priors([m.shape[-2:] for m in class_maps], device=image.device)
        parts = [self._of_level(*level, height, width) for level in zip(class_maps, delta_maps, anchors, strict=True)]
        boxes, scores, labels = (torch.cat(part) for part in zip(*parts, strict=True))
        large = not_tiny(boxes, settings)
        boxes, scores, labels = boxes[large], scores[large], labels[large]
        kept = _suppress(boxes, scores, labels, settings)
        return boxes[kept], scores[kept], labels[kept]

    def _of_level(self, classes: Tensor, deltas: Tensor, anchors: Tensor, height: Tensor, width: Tensor) -> tuple[Tensor, ...]:
        """The best of one feature map."""
        head, settings = self.model.bbox_head, self.model.bbox_head.test_cfg
        logits = flat(classes, head.cls_out_channels)
        scores = logits.sigmoid() if head.use_sigmoid_cls else logits.softmax(-1)[:, :-1]
        every = scores.reshape(-1)
        above = (every > settings.score_thr).nonzero()[:, 0]
        best, order = highest(every[above], settings.nms_pre)
        chosen = above[order]
        rows = torch.div(chosen, scores.shape[1], rounding_mode='floor')
        boxes = decode(head.bbox_coder, anchors[rows], flat(deltas, 4)[rows], height, width)
        return boxes, best, chosen - rows * scores.shape[1]


class TwoStageDetector(nn.Module):
    """Faster, Mask and Cascade R-CNN: a normalized, padded image → boxes, scores, labels and, with mask heads, masks.

    The second stage's images of masks are as large as the image that comes in, without its padding: `[K, H, W]`, bool.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.outputs = ('boxes', 'scores', 'labels', *(['masks'] if model.roi_head.with_mask else []))

    def forward(self, image: Tensor, height: Tensor, width: Tensor) -> tuple[Tensor, ...]:
        maps = self.model.extract_feat(image)
        proposals = self._propose(maps, height, width)
        boxes, scores, labels = self._classify(maps, proposals, height, width)
        if 'masks' not in self.outputs:
            return boxes, scores, labels
        return boxes, scores, labels, self._masks(maps, boxes, labels, height, width)

    def _propose(self, maps: tuple[Tensor, ...], height: Tensor, width: Tensor) -> Tensor:
        """Proposals `[K, 4]`."""
        head, settings = self.model.rpn_head, self.model.rpn_head.test_cfg
        class_maps, delta_maps = head(maps)
        anchors = head.prior_generator.grid_priors([m.shape[-2:] for m in class_maps], device=maps[0].device)
        parts = []
        for level, (classes, deltas, priors) in enumerate(zip(class_maps, delta_maps, anchors, strict=True)):
            logits = flat(classes, head.cls_out_channels)
            scores = logits.sigmoid()[:, 0] if head.use_sigmoid_cls else logits.softmax(-1)[:, 0]
            best, order = highest(scores, settings.nms_pre)
            boxes = decode(head.bbox_coder, priors[order], flat(deltas, 4)[order], height, width)
            parts.append((boxes, best, torch.full_like(order, level)))
        boxes, scores, levels = (torch.cat(part) for part in zip(*parts, strict=True))
        large = not_tiny(boxes, settings)
        boxes, scores, levels = boxes[large], scores[large], levels[large]
        return boxes[_suppress(boxes, scores, levels, settings)]

    def _classify(self, maps: tuple[Tensor, ...], boxes: Tensor, height: Tensor, width: Tensor) -> tuple[Tensor, ...]:
        """Detections out of proposals, which a cascade moves on the way."""
        roi_head, heads, logits = self.model.roi_head, _box_heads(self.model)[1:], []
        for stage, (head, extractor) in enumerate(zip(heads, _as_list(roi_head.bbox_roi_extractor), strict=True)):
            scores, deltas = head(_shared(roi_head, extract(extractor, maps, boxes)))
            logits.append(scores)
            if stage < len(heads) - 1:
                label = scores[:, :-1].argmax(dim=1)
                boxes = decode(head.bbox_coder, boxes, _of_class(deltas, label, head), height, width)
        probabilities = (torch.stack(logits).sum(dim=0) / len(heads)).softmax(dim=-1)[:, :-1]  # [K, C]
        settings, classes = roi_head.test_cfg, probabilities.shape[1]
        every = probabilities.reshape(-1)
        chosen = (every > settings.score_thr).nonzero()[:, 0]
        rows = torch.div(chosen, classes, rounding_mode='floor')
        labels, scores = chosen - rows * classes, every[chosen]
        boxes = decode(heads[-1].bbox_coder, boxes[rows], _of_class(deltas[rows], labels, heads[-1]), height, width)
        kept = _suppress(boxes, scores, labels, settings)
        return boxes[kept], scores[kept], labels[kept]

    def _masks(self, maps: tuple[Tensor, ...], boxes: Tensor, labels: Tensor, height: Tensor, width: Tensor) -> Tensor:
        roi_head = self.model.roi_head
        heads, extractors = _as_list(roi_head.mask_head), _as_list(roi_head.mask_roi_extractor)
        shapes = []
        for head, extractor in zip(heads, extractors, strict=True):
            masks = head(_shared(roi_head, extract(extractor, maps, boxes))).sigmoid()  # [K, C, h, w]
            place = torch.zeros_like(labels) if head.class_agnostic else labels
            shapes.append(masks.gather(1, place[:, None, None, None].expand(-1, 1, masks.shape[2], masks.shape[3]))[:, 0])
        merged = torch.stack(shapes).sum(dim=0) / len(shapes)
        return paste(merged, boxes, height, width) >= roi_head.test_cfg.mask_thr_binary


def extract(extractor: nn.Module, maps: tuple[Tensor, ...], boxes: Tensor) -> Tensor:
    """Regions `[K, C, h, w]`, each cut from the map that suits its size."""
    maps = maps[:extractor.num_inputs]
    size = torch.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    levels = torch.floor(torch.log2(size / extractor.finest_scale + 1e-6)).clamp(0, len(maps) - 1)
    places = [(levels == level).nonzero()[:, 0] for level in range(len(maps))]
    regions = [roi_align(m, boxes[place], layer)
               for m, place, layer in zip(maps, places, extractor.roi_layers, strict=True)]
    return torch.cat(regions)[torch.cat(places).argsort(dim=0)]


def _as_list(modules: nn.Module) -> list[nn.Module]:
    return list(modules) if isinstance(modules, nn.ModuleList) else [modules]


def _shared(roi_head: nn.Module, regions: Tensor) -> Tensor:
    return roi_head.shared_head(regions) if roi_head.with_shared_head else regions


def _of_class(deltas: Tensor, labels: Tensor, head: nn.Module) -> Tensor:
    """The four deltas of each label, `[K, 4]`, out of `[K, 4·C]`."""
    if head.reg_class_agnostic:
        return deltas
    by_class = deltas.reshape(-1, head.num_classes, 4)
    return by_class.gather(1, labels[:, None, None].expand(-1, 1, 4))[:, 0]


def _suppress(boxes: Tensor, scores: Tensor, groups: Tensor, settings: dict) -> Tensor:
    """Places of the boxes that non-maximum suppression keeps, as many as the settings allow."""
    groups = torch.zeros_like(groups) if settings.nms.get('class_agnostic') else groups
    return suppress(boxes, scores, groups, settings.nms.iou_threshold, settings.max_per_img)


def padded(image: Tensor, divisor: int, value: float) -> Tensor:
    """Padded right and below to a multiple of `divisor`."""
    height, width = image.shape[2:]
    return F.pad(image, (0, -width % divisor, 0, -height % divisor), value=value)


def predict(model: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """What MMDetection itself finds in an image `[1, 3, H, W]` that is its own size, with the names of `outputs` above."""
    from mmdet.structures import DetDataSample

    shape = tuple(image.shape[2:])
    sample = DetDataSample(metainfo=dict(img_id=0, img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0)))
    with torch.no_grad():
        found = model.test_step(dict(inputs=[image[0]], data_samples=[sample]))[0].pred_instances
    results = dict(boxes=found.bboxes, scores=found.scores, labels=found.labels)
    return results | (dict(masks=torch.as_tensor(found.masks)) if 'masks' in found else {})
