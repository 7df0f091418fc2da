"""The notebook runs from its first cell to its last."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[2] / 'docs' / 'first_look.ipynb'


@pytest.mark.slow
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv('TMPDIR', str(tmp_path))
    monkeypatch.setenv('MPLBACKEND', 'module://matplotlib_inline.backend_inline')
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert [cell for cell in notebook.cells if cell.cell_type == 'code' and cell.outputs] == [], 'outputs are not kept'
    NotebookClient(notebook, timeout=600, kernel_name='python3', resources=dict(metadata=dict(path=str(tmp_path)))).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == 'code' for output in cell.outputs]
    assert sum('image/png' in output.get('data', {}) for output in outputs) == 3
    text = ''.join(output.get('text', '') for output in outputs)
    assert 'RAVLT: ' in text
    assert "(512, 7, 10)" in text
