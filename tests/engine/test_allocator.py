"""Page faults of tensors that are made again and again, with and without blocks that glibc keeps."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = '''
import resource, sys
import torch
if sys.argv[1] == 'keep':
    from ralamala_mm.engine.distributed import keep_freed_blocks
    print(keep_freed_blocks())
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16, 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(min(faults() for _ in range(3)))
'''

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='another C library than glibc')


def outcome(mode: str, **variables: str) -> list[str]:
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith('MALLOC_') and name != 'GLIBC_TUNABLES'}
    return subprocess.run([sys.executable, '-c', FAULTS, mode], env=environment | variables, capture_output=True, text=True,
                          check=True).stdout.split()


def test_freed_blocks_are_used_again():
    (without,) = outcome('leave')
    was_set, kept = outcome('keep')
    assert was_set == 'True'
    assert int(without) > 30  # 64 MiB, in pages of up to 2 MiB
    assert int(kept) < 10


@pytest.mark.parametrize('variables', [{'MALLOC_TRIM_THRESHOLD_': '131072'}, {'GLIBC_TUNABLES': 'glibc.malloc.arena_max=4'}])
def test_settings_of_the_user_stand(variables: dict[str, str]):
    was_set, _ = outcome('keep', **variables)
    assert was_set == 'False'
