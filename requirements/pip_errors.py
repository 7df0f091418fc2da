"""What went wrong in pip's output, in a sentence."""

from __future__ import annotations

import re

NETWORK = re.compile(
    r'Failed to establish a new connection|Name or service not known|Temporary failure in name resolution|No address associated'
    r'|Network is unreachable|Connection refused|Connection reset|Read timed out|ConnectTimeout|ProxyError|SSLError'
    r'|NameResolutionError|NewConnectionError|Could not fetch URL')


def explain(log: str, otherwise: str) -> str:
    """The cause as pip's messages tell it, `otherwise` if they name none that is known here."""
    if 'No space left on device' in log:
        return 'the disk is full'
    if NETWORK.search(log):
        return 'the package index could not be reached; check the network and pip\'s settings (pip config list)'
    missing = re.search(r'No matching distribution found for (\S+)', log)
    if missing:
        return '{} is not available for this Python and platform from the package index'.format(missing.group(1))
    return otherwise
