"""Make torchaudio importable beside a CPU-only torch: `python -m ser_hf.torchaudio_cpu`.

torchaudio's published Linux wheel links CUDA. Beside a CPU-only torch its extension cannot load, and `import
torchaudio`, and with it `import transformers`, ends in an OSError. Without the extension torchaudio runs in its
supported pure-Python mode, which has everything this project uses. On a machine with CUDA this does nothing.
"""

import importlib.util
from pathlib import Path

from .errors import SerError

_SET_ASIDE = ".needs-cuda"


def broken_libraries() -> list[Path]:
    """torchaudio's libraries that want CUDA, where the installed torch has none; found without importing either."""
    places = {}
    for name in ("torch", "torchaudio"):
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            return []
        places[name] = Path(spec.submodule_search_locations[0]) / "lib"
    if any(places["torch"].glob("libtorch_cuda*")):
        return []
    return [file for file in sorted(places["torchaudio"].glob("*.so")) if b"libtorch_cuda" in file.read_bytes()]


def check() -> None:
    """Raises SerError, before transformers fails with a loader's traceback: torchaudio cannot be imported here."""
    if broken_libraries():
        raise SerError(
            "torchaudio's CUDA extension cannot load beside this CPU-only torch and transformers would fail with it: "
            "run `python -m ser_hf.torchaudio_cpu` once"
        )


def main() -> None:
    """Set the libraries aside (renamed, not deleted)."""
    for file in broken_libraries():
        file.rename(file.with_name(file.name + _SET_ASIDE))
        print(f"set aside {file}")


if __name__ == "__main__":
    main()
