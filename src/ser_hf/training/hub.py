"""Publish runs and files on the Hub, by an allow-list, in one commit."""

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from huggingface_hub.errors import LocalTokenNotFoundError
from transformers import TrainingArguments
from transformers.dynamic_module_utils import get_relative_import_files

from ..errors import SerError
from ..evaluation.shift import TRAINING_DATA
from ..files import local_path
from .output import read_record
from .record import portable

# The files of a tokenizer that hold its vocabulary, where a path would be a token.
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json")
# The files of a run that may be published. predictions.parquet may not: it holds the corpus's labels and ids.
PUBLISHED = ("README.md", "results.json", "run.yaml", "figures/*.png", *VOCABULARIES, "*.model")  # sentencepiece
PUBLISHED += ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
PUBLISHED += ("config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json")
PUBLISHED += ("tokenizer_config.json", "special_tokens_map.json", TRAINING_DATA)
PUBLISHED += ("adapter/adapter_model.safetensors", "adapter/adapter_config.json")
# The files of an earlier run in a repository: any of these would be loaded with this one, or contradict it.
REPLACED = (*PUBLISHED, "*.safetensors", "*.py", "*.json")


@dataclass(frozen=True)
class Repository:
    """A repository on the Hub to push to."""

    id: str | None  # user/name
    private: bool = True
    revision: str | None = None  # the branch; main if None
    kind: str = "model"  # or "dataset", "space"


# The flag that makes a repository public, by the flag that names it.
PUBLIC_BY = {"--hub_model_id": "--hub_private_repo false", "--repo_id": "--public"}


def destination(training: TrainingArguments, overrides: Mapping[str, Any]) -> Repository | None:
    """The repository of `--push_to_hub`, or None; `overrides`: all flags set. SerError: a flag that does nothing."""
    flags = [name for name in overrides if name.startswith("hub_")]
    if flags and "push_to_hub" not in overrides:
        raise SerError(f"--{flags[0]} {overrides[flags[0]]}: does nothing without --push_to_hub true; leave it out")
    for flag in ("hub_strategy", "hub_always_push"):
        if training.push_to_hub and overrides.get(flag) not in (None, False, "end"):
            raise SerError(f"--{flag} {overrides[flag]}: a run is pushed once, when it is finished; leave it out")
    if not training.push_to_hub:
        return None
    return Repository(training.hub_model_id, training.hub_private_repo is not False, training.hub_revision)


def claim(repository: Repository, flag: str) -> str:
    """Create the repository and its branch where they do not exist, before anything slow; returns its address. `flag`
    named it. Raises SerError: not `user/name`; the Hub refuses or cannot be reached; the repository exists and is
    public instead of private, or the reverse."""
    name, kind = repository.id, repository.kind
    if not name:
        raise SerError(f"{flag} is missing: name the repository, user/name")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise SerError(f"{flag} {name}: must be user/name")
    with hub_requests(f"{flag} {name}"):
        api = HfApi()
        api.whoami()
        sdk = "gradio" if kind == "space" else None
        url = api.create_repo(name, repo_type=kind, space_sdk=sdk, private=repository.private, exist_ok=True)
        private = api.repo_info(name, repo_type=kind).private
        if private == repository.private and repository.revision:
            api.create_branch(name, repo_type=kind, branch=repository.revision, exist_ok=True)
    if private and not repository.private:
        choice = f"make it public on the Hub, or leave {PUBLIC_BY[flag]} out"
        raise SerError(f"{flag} {name}: exists and is private; {choice}")
    if repository.private and not private:
        choice = f"choose another, make it private on the Hub, or give {PUBLIC_BY[flag]}"
        raise SerError(f"{flag} {name}: exists and is public; {choice}")
    return str(url)


@contextmanager
def hub_requests(what: str) -> Iterator[None]:
    """Requests to the Hub. Raises SerError, whatever the client raises: `what`, the reason and what to do."""
    try:
        yield
    except SerError:
        raise
    except Exception as error:  # HTTP errors, broken connections, uploads out of retries: of a dozen classes
        raise SerError(f"{what}: {refusal(error)}") from None


def refusal(error: BaseException) -> str:
    """Why the Hub did not do what it was asked to, by the status of its answer, and what to do."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
        chain.append(cause)
    answer = next((found for one in chain if (found := getattr(one, "response", None)) is not None), None)
    status, said = getattr(answer, "status_code", None), reason(error)
    if isinstance(error, LocalTokenNotFoundError):
        status = 401
    if status == 429:
        wait = answer.headers.get("Retry-After")
        return f"too many requests ({said}); try again in {f'{wait} s' if wait else 'some minutes'}"
    if status is None:
        return f"the Hub cannot be reached ({said}); check the connection, then try again"
    if status >= 500:
        return f"the Hub has failed ({said}); try again later, https://status.huggingface.co says how it is"
    advice = {
        401: "the Hub does not accept this machine ({}); run `hf auth login`, or set HF_TOKEN",
        403: "your token may not do this ({}); use a namespace and a token that may write",
        409: "the repository is being changed by someone else ({}); try again",
        412: "the repository was changed by someone else meanwhile ({}); try again",
    }
    return advice.get(status, "the Hub refuses it ({})").format(said)


def reason(error: BaseException) -> str:
    """The first line of a client's error.

    >>> reason(ValueError("no\\nmore")), reason(ValueError())
    ('no', 'ValueError')
    """
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def published_files(folder: Path) -> list[str]:
    """The files of a run that a push takes: those of `PUBLISHED`, and the code that its configurations name."""
    names = {str(file.relative_to(folder)) for pattern in PUBLISHED for file in folder.glob(pattern)}
    configs = "".join((folder / name).read_text() for name in names if name.endswith("config.json"))
    for module in {f"{module}.py" for module in re.findall(r'"(\w+)\.\w+"', configs)}:
        if (folder / module).is_file():
            names |= {module, *(Path(file).name for file in get_relative_import_files(str(folder / module)))}
    return sorted(name for name in names if (folder / name).is_file())


def published(folder: Path, repo_id: str) -> dict[str, Path | bytes]:
    """What a push of a run's folder to `repo_id` consists of: names, and files or contents. Files that the run has not
    written are left out; `run.yaml` is that of `record.portable`, and the card names `repo_id`.
    Raises SerError: no finished run, or a local path in a text."""
    if not (folder / "results.json").is_file():
        raise SerError(f"{folder}: holds no finished run (results.json); name the --output_dir of one")
    record = read_record(folder)  # of a run that an earlier version made there is none
    names = [name for name in published_files(folder) if record is None or name in record["files"]]
    files: dict[str, Path | bytes] = {name: folder / name for name in names}
    flags = yaml.safe_load((folder / "run.yaml").read_text()) if "run.yaml" in files else {}
    if flags:
        files["run.yaml"] = yaml.safe_dump(portable(flags), sort_keys=False, allow_unicode=True).encode()
    if "README.md" in files:
        text = (folder / "README.md").read_text()
        former = ModelCard(text).data.model_name or "MODEL"
        text = text.replace(f'"{former}"', f'"{repo_id}"')  # in the code that uses it
        files["README.md"] = text.replace(f"- name: {former}\n", f"- name: {repo_id}\n", 1).encode()
    for name, content in files.items():
        if name.endswith((".md", ".yaml", ".json")) and name not in VOCABULARIES:
            text = (content if isinstance(content, bytes) else content.read_bytes()).decode(errors="replace")
            # Markdown's escapes are no part of a path.
            text = json.loads(text) if name.endswith(".json") else re.sub(r"\\([\W_])", r"\1", text)
            check_public(name, text, (folder, flags.get("data_dir")))
    return files


def check_public(name: str, content: Any, folders: Iterable[str | Path | None] = ()) -> None:
    """Raises SerError if a text, or one in a JSON value, holds a path of this machine, such as one in `folders`. `name`
    is the file's."""
    parts = [*content, *content.values()] if isinstance(content, Mapping) else content
    if isinstance(content, str):
        if path := local_path(content, folders):
            raise SerError(f"{name} names the local path {path}: not pushed")
    elif isinstance(parts, list | tuple):
        for part in parts:
            check_public(name, part, folders)


def push_model(folder: Path, repository: Repository, flag: str = "--repo_id") -> str:
    """Publish a finished run as one commit, which also deletes what an earlier run has left; returns the repository's
    address. `flag` named the repository. Raises SerError: as `published` and `claim`, or the Hub refuses the push."""
    return push_files(published(folder, repository.id), repository, REPLACED, "Model, card and results", flag)


def push_files(
    files: Mapping[str, Path | bytes], repository: Repository, replaced: Sequence[str], message: str, flag: str
) -> str:
    """Publish files as one commit, which deletes the others of the repository that have one of the patterns `replaced`;
    returns the repository's address. Raises SerError: as `claim`, or the Hub refuses the push."""
    url = claim(repository, flag)
    where = {"repo_id": repository.id, "revision": repository.revision, "repo_type": repository.kind}
    with hub_requests(f"{flag} {repository.id}"):
        api = HfApi()
        stale = {name for name in api.list_repo_files(**where) if any(fnmatch(name, one) for one in replaced)}
        changes = [CommitOperationAdd(name, content) for name, content in files.items()]
        changes += [CommitOperationDelete(name) for name in sorted(stale - files.keys())]
        api.create_commit(operations=changes, commit_message=message, **where)
    return url


def push_run(folder: Path, repository: Repository) -> str:
    """`push_model` at the end of a recipe; its SerError names the command that repeats it."""
    try:
        return push_model(folder, repository, "--hub_model_id")
    except SerError as error:
        words = ["ser-hf", "push", "model", str(folder), "--repo_id", repository.id]
        words += [] if repository.private else ["--public"]
        words += ["--revision", repository.revision] if repository.revision else []
        raise SerError(f"{error}; the run is saved, and this pushes it: {shlex.join(words)}") from None
