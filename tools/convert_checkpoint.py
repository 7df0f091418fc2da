"""Any RAVLT or MALA checkpoint into a clean file of ours:  convert_checkpoint.py RAVLT_S.pth ravlt_s_clean.pth"""

import argparse
import warnings
from pathlib import Path

from mmengine.registry import MODELS

from ralamala_mm.checkpoints import RecordedBackbone
from ralamala_mm.checkpoints.convert import Findings, inspect_checkpoint, write_clean
from ralamala_mm.checkpoints.loading import backbone_weights, load_weights
from ralamala_mm.datasets.config import set_num_classes
from ralamala_mm.engine import add_trust_option, build_model, load_config, run
from ralamala_mm.errors import UserError
from ralamala_mm.families import FAMILIES

ROOT = Path(__file__).resolve().parent.parent


def build_matching(findings: Findings) -> tuple[object, dict]:
    """The model that the file is of, and the file's entries as that model names them."""
    # Without a record: the names and shapes of all families that have the size are the same.
    family = findings.family or next(name for name, family in FAMILIES.items() if findings.size in family.variants)
    if findings.head is None:
        backbone = MODELS.get(family)(findings.size, linear_stages=findings.linear_stages)
        return backbone, backbone_weights(findings.weights, None)
    pattern = f'{findings.head.name}_{family.lower()}_{findings.size}*.py'
    path = next(iter(sorted((ROOT / 'configs').glob(pattern))), None)
    if path is None:
        raise UserError(f'there is no configs/{pattern} to compare a {findings.head.title} of this backbone with')
    config = load_config(str(path))
    config.model.backbone.linear_stages = findings.linear_stages
    set_num_classes(config.model, findings.head.num_classes)
    print(f'Compared with {path.relative_to(ROOT)}, {findings.head.num_classes} classes.')
    return build_model(config), findings.weights


def main(args: argparse.Namespace) -> None:
    if args.output.exists() and args.output.resolve() == Path(args.input).resolve():
        raise UserError('OUT is IN: name another file to write')
    names = {name.lower(): name for name in FAMILIES}
    findings = inspect_checkpoint(args.input, family=args.backbone and names[args.backbone])
    print(f'{args.input}: {findings}.')
    model, weights = build_matching(findings)
    report = load_weights(model, weights, args.input, recorded=RecordedBackbone(findings.family, findings.linear_stages),
                          complete=findings.head is not None)
    print(report)
    kept = {key: value for key, value in weights.items() if key in model.state_dict()}
    write_clean(findings, kept, args.input, args.output)
    print(f'Wrote {args.output}: {len(kept)} entries, {args.output.stat().st_size / 1e6:.1f} MB.')


if __name__ == '__main__':
    warnings.filterwarnings('ignore', category=UserWarning, module='mmseg')
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('input', metavar='IN', help='path or URL of a checkpoint')
    parser.add_argument('output', metavar='OUT', type=Path, help='file to write')
    parser.add_argument('--backbone', choices=[name.lower() for name in FAMILIES],
                        help='family of a file that does not record it')
    add_trust_option(parser)
    run(parser, main)
