"""How much memory there is for predictions."""

import os
from pathlib import Path

import torch

_GROUPS = Path('/sys/fs/cgroup')


def memory_of(device: torch.device) -> int:
    """Bytes of memory that a device has in all; of the CPU what this process may have, in a container or a job too."""
    if device.type == 'cuda':
        return torch.cuda.mem_get_info(device)[1]
    return min([os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES'), *_group_limits()])


def _group_limits() -> list[int]:
    """Limits of the control groups, of version 2, that Linux has this process in; none elsewhere."""
    listed = Path('/proc/self/cgroup')
    lines = listed.read_text().splitlines() if listed.is_file() else []
    group = next((line.partition('::')[2] for line in lines if line.startswith('0::')), None)
    if group is None:
        return []
    folder = _GROUPS / group.lstrip('/')
    files = [parent / 'memory.max' for parent in (folder, *folder.parents) if parent.is_relative_to(_GROUPS)]
    texts = [file.read_text().strip() for file in files if file.is_file()]
    return [int(text) for text in texts if text.isdigit()]
