"""GPUs as nvidia-smi and the environment tell of them, and PyTorch's index over a server of our own."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

SMI = '''#!/bin/sh
case "$1" in
--query-gpu=compute_cap) printf '9.0\\n9.0\\n8.0\\n';;
*) echo '| NVIDIA-SMI 580.65.06   Driver Version: 580.65.06   CUDA Version: 13.0     |';;
esac
'''
PAGE = '<a href="/whl/cpu/torch-2.15.0%2Bcpu-cp313-cp313-manylinux_2_28_x86_64.whl#sha256=0">torch-2.15.0+cpu-cp313-…</a>'


@pytest.fixture
def machine(requirements: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    return requirements['machine']


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    command = tmp_path / 'nvidia-smi'
    command.write_text(SMI)
    command.chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path))
    return command


def test_gpus_and_their_driver(machine: ModuleType, smi: Path):
    assert machine.find_gpus() == machine.Gpus(['8.0', '9.0'], (13, 0))


@pytest.mark.parametrize('value', ['', '-1', 'NoDevFiles'])
def test_hidden_gpus(machine: ModuleType, smi: Path, monkeypatch: pytest.MonkeyPatch, value: str):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', value)
    assert machine.find_gpus() is None


def test_a_driver_that_does_not_answer(machine: ModuleType, smi: Path):
    smi.write_text('#!/bin/sh\necho "NVIDIA-SMI has failed"\nexit 9\n')
    assert machine.ask_nvidia_smi() == ''


@pytest.fixture
def index(machine: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == '/whl/cpu/torch/'
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(PAGE.encode() if known else b'')

        def log_message(self, *arguments: object) -> None:
            """Keeps the server quiet."""

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(machine, 'PYTORCH_INDEX', f'http://127.0.0.1:{server.server_port}/whl/')
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    yield machine.PYTORCH_INDEX
    server.shutdown()
    server.server_close()


def test_an_index_that_has_the_release(machine: ModuleType, index: str):
    assert machine.pytorch_index('cpu', '2.15.0', (3, 13)) == f'{index}cpu'
    assert machine.pytorch_index('cpu', '2.15.0', (3, 14)) is None
    assert machine.pytorch_index('cpu', '2.1', (3, 13)) is None
    assert machine.pytorch_index('cu130', '2.15.0', (3, 13)) is None


def test_an_index_that_cannot_be_reached(machine: ModuleType, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, 'PYTORCH_INDEX', 'http://127.0.0.1:9/whl/')
    assert machine.pytorch_index('cpu', '2.15.0', (3, 13)) is None
