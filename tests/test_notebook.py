"""The notebook runs from its first cell to its last, and draws."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

import shoal

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "feature_visualisation.ipynb"

EXECUTE = """
import sys
import nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": "."}}).execute()
nbformat.write(notebook, "executed.ipynb")
"""


def test_it_is_kept_without_outputs():
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert cell.cell_type == "markdown" or (cell.outputs == [] and cell.execution_count is None)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_runs_and_draws(tmp_path):
    """In a process of its own: the messages between a notebook and its kernel come with warnings of theirs."""
    surroundings = {**os.environ, "PYTHONPATH": str(Path(shoal.__file__).parents[1]), "SHOAL_CACHE": str(tmp_path)}
    surroundings |= {"HOME": str(tmp_path), "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    command = [sys.executable, "-c", EXECUTE, str(NOTEBOOK)]
    done = subprocess.run(command, cwd=tmp_path, env=surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    outputs = [o for c in nbformat.read(tmp_path / "executed.ipynb", as_version=4).cells for o in c.get("outputs", [])]
    assert [o.name for o in outputs if o.output_type == "stream"] == []  # neither warnings nor chatter
    assert len([o for o in outputs if "image/png" in o.get("data", {})]) == 2
    assert (tmp_path / "runs" / "feature-visualisation" / "report.html").exists()
