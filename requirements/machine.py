"""What this machine has that decides what is installed: NVIDIA GPUs with their driver, and PyTorch's indexes."""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import urllib.request
from pathlib import Path
from typing import NamedTuple

PYTORCH_INDEX = 'https://download.pytorch.org/whl/'


class Gpus(NamedTuple):
    """The NVIDIA GPUs that a process may use."""

    capabilities: list  # '9.0' for each kind of GPU; empty where nvidia-smi is missing
    driver_cuda: tuple | None  # the newest CUDA version that the driver runs, such as (13, 0)


def find_gpus() -> Gpus | None:
    """None without an NVIDIA GPU, or with all of them hidden by CUDA_VISIBLE_DEVICES."""
    if os.environ.get('CUDA_VISIBLE_DEVICES', '0').strip() in ('', '-1', 'NoDevFiles'):
        return None
    listed = ask_nvidia_smi('--query-gpu=compute_cap', '--format=csv,noheader')
    capabilities = sorted(set(re.findall(r'^\s*(\d+\.\d+)\s*$', listed, re.MULTILINE)))
    if not capabilities and not any(Path('/dev').glob('nvidia[0-9]*')):
        return None
    driver = re.search(r'CUDA (?:UMD )?Version:\s*(\d+)\.(\d+)', ask_nvidia_smi())
    return Gpus(capabilities, tuple(map(int, driver.groups())) if driver else None)


def ask_nvidia_smi(*arguments: str) -> str:
    try:
        result = subprocess.run(['nvidia-smi', *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60,
                                text=True, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ''
    return result.stdout if result.returncode == 0 else ''


def pytorch_index(label: str, release: str, python: tuple) -> str | None:
    """PyTorch's own index of one kind of builds, if it can be reached and has this release; None otherwise.

    Args:
        label: 'cpu', 'cu130', …
        release: of torch, such as '2.15.0'.
        python: the interpreter's version, such as (3, 13).
    """
    index = PYTORCH_INDEX + label
    try:
        with urllib.request.urlopen(index + '/torch/', timeout=10) as response:
            page = response.read().decode('utf-8', 'replace')
    except (OSError, http.client.HTTPException, ValueError):
        return None
    wheel = r'torch-{}(\+|%2B){}-cp{}{}-'.format(re.escape(release), label, *python)
    return index if re.search(wheel, page, re.IGNORECASE) else None
