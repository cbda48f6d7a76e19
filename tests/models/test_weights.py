"""Files that hold pickles: nothing in them is run, and nobody is advised to run it."""

import os
import pickle
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

from tiny import made  # noqa: E402
from titlesmith.errors import RequestError, RunError  # noqa: E402
from titlesmith.models.weights import STATE, merged, read  # noqa: E402


class Evil:
    """Makes a folder where it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("kind", ["torch", "pickle", "cut"])
def test_a_pickle_with_code_is_refused_and_not_run(project, kind, tmp_path):
    folder = project / "models" / made(project, "llama", "sentencepiece").removeprefix("hf:")
    (folder / "model.safetensors").unlink()
    evil = tmp_path / "owned"
    for path, error in ((folder / "pytorch_model.bin", RequestError), (folder / STATE, RunError)):
        if kind == "pickle":
            path.write_bytes(pickle.dumps(Evil(evil)))
        else:
            torch.save({"weight": torch.ones(3), "base": Evil(evil) if kind != "cut" else ""}, path)
        if kind == "cut":
            path.write_bytes(path.read_bytes()[:-30])
        if error is RunError:
            (folder / "adapter_config.json").write_text("{}")
        with pytest.raises(error) as refused:
            read(folder, "none") if error is RequestError else merged(folder)
        assert str(folder) in str(refused.value)
        assert "weights_only" not in str(refused.value) and "safe_globals" not in str(refused.value)
    assert not evil.exists()


def test_reading_weights_shows_no_bar_which_a_notebook_would_keep_as_a_widget():
    script = "import titlesmith.models.weights, transformers; print(transformers.logging.is_progress_bar_enabled())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
