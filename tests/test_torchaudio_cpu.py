"""The one-line advice and the repair for torchaudio's CUDA wheel beside a CPU-only torch, on copies of the layout."""

import subprocess
import sys

import pytest

from ser_hf import SerError, torchaudio_cpu


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Empty packages `torch` and `torchaudio` with libraries, found before the real ones."""
    for name, library, content in (
        ("torch", "libtorch_cpu.so", b"\x7fELF"),
        ("torchaudio", "_torchaudio.abi3.so", b"\x7fELF needs libtorch_cuda.so here"),
    ):
        (tmp_path / name / "lib").mkdir(parents=True)
        (tmp_path / name / "__init__.py").write_text("")
        (tmp_path / name / "lib" / library).write_bytes(content)
    (tmp_path / "torchaudio" / "lib" / "plain.so").write_bytes(b"\x7fELF without it")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("torch", "torchaudio"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_says_what_to_do_then_does_it(packages):
    with pytest.raises(SerError, match="run `python -m ser_hf.torchaudio_cpu` once"):
        torchaudio_cpu.check()
    torchaudio_cpu.main()
    torchaudio_cpu.check()
    left = {file.name for file in (packages / "torchaudio" / "lib").iterdir()}
    assert left == {"_torchaudio.abi3.so.needs-cuda", "plain.so"}
    torchaudio_cpu.main()  # and again changes nothing


def test_leaves_a_cuda_torch_alone(packages):
    (packages / "torch" / "lib" / "libtorch_cuda.so").write_bytes(b"\x7fELF")
    torchaudio_cpu.check()
    torchaudio_cpu.main()
    assert (packages / "torchaudio" / "lib" / "_torchaudio.abi3.so").exists()


def test_a_user_who_meets_it_gets_one_line(packages, tmp_path):
    """Both doors: a recipe, and a name of the package that needs transformers."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import ser_hf; ser_hf.SerConfig"
    done = subprocess.run([sys.executable, "-c", code, str(packages)], capture_output=True, text=True)
    assert done.stderr.strip().splitlines()[-1].startswith("ser_hf.errors.SerError: torchaudio's CUDA extension")
    code = "import sys; sys.path.insert(0, sys.argv[1]); from ser_hf.training import run; run.cli(lambda: None)"
    done = subprocess.run([sys.executable, "-c", code, str(packages)], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "python -m ser_hf.torchaudio_cpu" in done.stderr


def test_here_torchaudio_imports():
    assert torchaudio_cpu.broken_libraries() == []
    done = subprocess.run([sys.executable, "-c", "import torchaudio"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
