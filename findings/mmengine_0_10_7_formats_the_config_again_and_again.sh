#!/usr/bin/env bash
# MMEngine 0.10.7 formats the whole config with yapf each time that it wants its text (`Config.pretty_text`): for the log, for
# the file in the work directory, for the visualizer's copy, for the message hub, and once more in every checkpoint. The config
# does not change meanwhile. For a detector's config of some 350 lines that is 0.3 s each time (1.3 s of every start).
#
# Seen on 2026-11-30 (Linux x86_64, Python 3.11, torch 2.13.0, yapf 0.43.0): 7 times in a training of 3 iterations with a
# checkpoint after each of them; all 7 texts are the same.
# Needs torch (200 MB, or 3 GB where pip's index has the build with CUDA). Fails when the behaviour has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --disable-pip-version-check -q install torch==2.13.0 mmengine==0.10.7 yapf==0.43.0 \
    opencv-python-headless==4.11.0.86 'numpy<3' 'setuptools<81'

cat > "$folder/count.py" <<'PYTHON'
import sys

import torch
import yapf
from mmengine.config import Config, config as module
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import Runner

texts = []


def counted(text, **options):
    texts.append(text)
    return yapf.yapflib.yapf_api.FormatCode(text, **options)


module.FormatCode = counted


@MODELS.register_module()
class Line(BaseModel):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return dict(loss=(self.weight - 1).square().sum())


@DATASETS.register_module()
class Numbers(torch.utils.data.Dataset):
    metainfo = {}

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return dict(inputs=torch.zeros(1), data_samples=torch.zeros(1))


Runner.from_cfg(Config(dict(
    model=dict(type='Line'), work_dir=sys.argv[1], train_cfg=dict(by_epoch=False, max_iters=3),
    train_dataloader=dict(batch_size=1, dataset=dict(type='Numbers'), sampler=dict(type='DefaultSampler', shuffle=False)),
    optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
    default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1))))).train()
print(f'formatted {len(texts)} times, {len(set(texts))} text', file=sys.stderr)
PYTHON

"$folder/venv/bin/python" -W ignore "$folder/count.py" "$folder/work" > "$folder/log" 2> "$folder/messages" || {
    tail -n 20 "$folder/log" "$folder/messages" >&2
    exit 1
}
grep 'formatted' "$folder/messages"
grep -q 'formatted 7 times, 1 text' "$folder/messages" || { echo 'changed: another number' >&2; exit 1; }
