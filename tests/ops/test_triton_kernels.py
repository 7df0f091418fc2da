"""The kernels through Triton's compiler, which needs no GPU: that they build for NVIDIA's GPUs and fit into them."""

import json
import subprocess
import sys

import pytest

pytest.importorskip('triton')

# Run where TRITON_INTERPRET is not set: the interpreter's stand-ins cannot be compiled.
PROGRAM = '''
import json
import sys

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ralamala_mm.ops import triton as path
from ralamala_mm.ops import triton_kernels as kernels

TOKENS = {'q', 'k', 'v', 'x', 'out', 'gradient', 'q_gradient', 'k_gradient', 'v_gradient'}
NUMBERS = {'heads', 'length', 'width', 'height', 'chunk'}
VARIANTS = [
    (kernels.sum_queries, {}), (kernels.turn_tokens, {'BACK': False}),
    *[(kernel, {'RALA': rala}) for kernel in (kernels.sum_keys, kernels.attend, kernels.key_gradients) for rala in (True, False)],
    (kernels.query_gradients, {'RALA': True, 'SUM': True, 'WRITE': False}),
    (kernels.query_gradients, {'RALA': True, 'SUM': False, 'WRITE': True}),
    (kernels.query_gradients, {'RALA': False, 'SUM': True, 'WRITE': True}),
]


def shared_memory(kernel, constants, size, width, launch, capability):
    """Bytes that a kernel takes, as for channels side by side in memory."""
    constants = dict(constants, D=width, WIDTH=width, ROWS=launch.rows, PRECISION=launch.precision)
    signature, fixed = {}, {}
    for i, name in enumerate(kernel.arg_names):
        if name in constants or name.endswith('stride_channel'):
            signature[name], fixed[i,] = 'constexpr', constants.get(name, 1)
        elif name in NUMBERS or 'stride' in name:
            signature[name] = 'i32'
        elif name == 'epsilon':
            signature[name] = 'fp32'
        else:
            signature[name] = '*' + ({2: 'fp16', 4: 'fp32'}[size] if name in TOKENS else 'fp32')
    compiled = triton.compile(ASTSource(kernel, signature, fixed), target=GPUTarget('cuda', capability, 32),
                              options=dict(num_warps=launch.num_warps, num_stages=launch.num_stages))
    assert compiled.asm['cubin']
    # Tensor cores cut fp32 off to TF32: what they multiply has to be rounded before.
    assert ('cvt.rna.tf32' in compiled.asm['ptx']) == ('mma' in compiled.asm['ptx'])
    return compiled.metadata.shared


size, width, capability = map(int, sys.argv[1:])
launch = path.LAUNCHES[size, width]
print(json.dumps({'variants': len(VARIANTS), 'stated': launch.shared_memory, 'taken': {
    f'{kernel.__name__} {constants}': shared_memory(kernel, constants, size, width, launch, capability)
    for kernel, constants in VARIANTS}}))
'''


@pytest.mark.slow
@pytest.mark.parametrize(('size', 'width', 'capability'), [(2, 64, 90), (2, 64, 80), (4, 64, 90), (2, 128, 90)])
def test_the_kernels_build_and_fit(size: int, width: int, capability: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    result = subprocess.run([sys.executable, '-W', 'ignore', '-c', PROGRAM, str(size), str(width), str(capability)],
                            capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert len(report['taken']) == report['variants'] >= 11
    assert max(report['taken'].values()) <= report['stated'], report
