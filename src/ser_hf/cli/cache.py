"""Show what is kept once computed: hidden states, features, functionals, resampled clips, tables of own data,
under $SER_CACHE.

Everything there is computed again when it is missing. Each folder holds what one kind of computation made with one set
of settings and one version of the code; folders of older code are never read again, and --keep_days removes them.
"""

import re
import time
from collections import defaultdict
from pathlib import Path

from ..errors import SerError
from ..evaluation.tables import text_table
from ..training.run import say
from .console import Parser, natural

STORE = re.compile(r"([a-z]+)-[0-9a-f]{16}")  # as `data.cache.settings_folder` names them: nothing else is touched
SUFFIXES = (".safetensors", ".part", ".arrow", ".half")


def stores(home: Path) -> dict[str, dict[Path, list[Path]]]:
    """The files of the cache by kind and folder."""
    found = defaultdict(dict)
    for folder in sorted(home.iterdir()) if home.is_dir() else ():
        if (match := STORE.fullmatch(folder.name)) and folder.is_dir():
            found[match[1]][folder] = [path for path in folder.iterdir() if path.suffix in SUFFIXES]
    return dict(sorted(found.items()))


def size(files: list[Path]) -> str:
    """The size of files for a reader: `1.5 MB`."""
    number, units = float(sum(path.stat().st_size for path in files)), ["B", "kB", "MB", "GB", "TB"]
    while number >= 1000 and len(units) > 1:
        number, units = number / 1000, units[1:]
    return f"{number:.0f} {units[0]}" if units[0] == "B" else f"{number:.1f} {units[0]}"


def main(argv: list[str]) -> int:
    parser = Parser("cache", __doc__)
    parser.add_argument("--clear", nargs="*", metavar="KIND", help="remove everything, or these kinds")
    text = "remove the folders of which no file was written or read for this many days"
    parser.add_argument("--keep_days", type=natural, metavar="N", help=text)
    args = parser.parse_args(argv)

    from ..data.cache import cache_home

    home = cache_home()
    found = stores(home)
    if unknown := [kind for kind in args.clear or () if kind not in found]:
        raise SerError(f"--clear {unknown[0]}: nothing of that kind in {home}; it has {', '.join(found) or 'nothing'}")
    if args.clear is None and args.keep_days is None:
        rows = [[kind, len(of), size([path for files in of.values() for path in files])] for kind, of in found.items()]
        say(f"{home}", "", *text_table(["kind", "folders", "size"], rows)) if rows else say(f"{home}: empty")
        return 0
    before, gone = time.time() - 86400 * (args.keep_days or 0), []
    for kind, folders in found.items():
        for folder, files in folders.items():
            used = max((max(path.stat().st_mtime, path.stat().st_atime) for path in files), default=0)
            if (not args.clear or kind in args.clear) and (args.keep_days is None or used < before):
                gone.append((folder, files))
    removed = size([path for _, files in gone for path in files])
    for folder, files in gone:
        for path in files:
            path.unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()
    say(f"{home}: {len(gone)} folders removed, {removed}")
    return 0
