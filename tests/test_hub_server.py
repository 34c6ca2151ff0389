"""The local Hub of hub_server.py answers real clients, each in its own process, as the real one would."""

import json
import os
import socket
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import warm
from hub_server import Handler, hub_server


@pytest.fixture(scope="module")
def hub():
    with hub_server() as hub:
        yield hub
        assert hub.unknown == [] and hub.errors == []


def client(hub, home: Path, code: str, **env: str) -> dict:
    """Run `code` in a new process whose cache is `home`; the dict that it leaves in `result`."""
    code = f"import json\nresult = {{}}\n{textwrap.dedent(code)}\nprint('RESULT' + json.dumps(result))"
    env = hub.env(home) | {"OMP_NUM_THREADS": "1"} | env
    done = warm.python("-c", code, env=env)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.rpartition("RESULT")[2])


FOLDER = {
    "config.json": b'{"model_type": "x"}',
    "notes.txt": "f\u00fcr \u00e4rger\n".encode(),
    "empty.txt": b"",
    "model.safetensors": bytes(range(256)) * 4096,
    "zeros.dat": b"\0" * 1000,
    "figures/a b & \u00e9.png": b"\x89PNG" + bytes(100),
    "figures/deep/er.txt": b"deep",
}


def test_upload_folder_and_download(hub, tmp_path):
    for path, data in FOLDER.items():
        (tmp_path / "folder" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / path).write_bytes(data)
    pushed = client(
        hub,
        tmp_path / "author",
        f"""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
        from huggingface_hub.errors import HfHubHTTPError
        api, repo = HfApi(), "tester/folder"
        url = api.create_repo(repo, private=True)
        api.create_repo(repo, private=True, exist_ok=True)
        result["user"], result["id"] = api.whoami()["name"], url.repo_id
        first = api.upload_folder(repo_id=repo, folder_path={str(tmp_path / "folder")!r})
        again = api.upload_folder(repo_id=repo, folder_path={str(tmp_path / "folder")!r})
        result["unchanged"] = first.oid == again.oid == api.model_info(repo).sha

        api.create_commit(repo, [
            CommitOperationAdd("config.json", b"{{}}"),
            CommitOperationDelete("zeros.dat"),
            CommitOperationDelete("figures/deep/"),
        ], commit_message="second")
        api.create_branch(repo, branch="v/1", revision=first.oid)
        result["branched"] = api.model_info(repo, revision="v/1").sha == first.oid
        api.upload_file(repo_id=repo, path_or_fileobj=b"on the branch", path_in_repo="b.txt", revision="v/1")

        def status(function, *args, **kwargs):
            try:
                function(*args, **kwargs)
            except HfHubHTTPError as error:
                return error.response.status_code

        stale = [CommitOperationAdd("late.txt", b"late")]
        result["stale"] = status(api.create_commit, repo, stale, commit_message="late", parent_commit=first.oid)
        result["twice"] = status(api.create_repo, repo)
        result["foreign"] = status(api.create_repo, "someone/else")
        result["create_pr"] = status(api.create_commit, repo, stale, commit_message="pr", create_pr=True)
        api.create_repo("tester/folder", repo_type="dataset", visibility="private")
        """,
    )
    refused = {"stale": 412, "twice": 409, "foreign": 403, "create_pr": 400}
    assert pushed == {"user": "tester", "id": "tester/folder", "unchanged": True, "branched": True} | refused

    assert hub.is_private("tester/folder")
    files = hub.files("tester/folder")
    assert set(files) == {".gitattributes", *FOLDER} - {"zeros.dat", "figures/deep/er.txt"}
    assert files["config.json"] == b"{}" and files["model.safetensors"] == FOLDER["model.safetensors"]
    branch = hub.files("tester/folder", revision="v/1")
    assert branch == FOLDER | {".gitattributes": files[".gitattributes"], "b.txt": b"on the branch"}
    assert ("POST", "/tester/folder.git/info/lfs/objects/batch") in hub.requests
    assert hub.is_private("tester/folder", "dataset")
    assert list(hub.files("tester/folder", "dataset")) == [".gitattributes"]
    with pytest.raises(KeyError):
        hub.files("tester/nothing")

    hub.add_repo("facebook/tiny", {"weights.bin": b"0123456789", "README.md": b"---\npipeline_tag: fill-mask\n---\n"})
    read = client(
        hub,
        tmp_path / "reader",
        """
        import os
        from huggingface_hub import HfApi, HfFileSystem, hf_hub_download, snapshot_download
        api, repo = HfApi(), "tester/folder"
        root = snapshot_download(repo, revision="v/1")
        paths = [os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names]
        result["files"] = {os.path.relpath(path, root): open(path, "rb").read().hex() for path in paths}
        result["one"] = open(hf_hub_download(repo, "model.safetensors"), "rb").read().hex()
        result["tree"] = [f.path for f in api.list_repo_tree(repo, "figures", recursive=True, revision="v/1")]
        result["top"] = [type(entry).__name__ for entry in api.list_repo_tree("tester/folder", revision="v/1")]
        result["tag"] = api.model_info("facebook/tiny").pipeline_tag
        with HfFileSystem().open("facebook/tiny/weights.bin", block_size=4) as file:
            file.seek(3)
            result["range"] = [file.read(2).decode(), file.read().decode()]

        def error(function, *args, **kwargs):
            try:
                return repr(function(*args, **kwargs))
            except Exception as error:
                return type(error).__name__

        hf, bad = hf_hub_download, dict(token="hf_wrong")
        result["errors"] = {
            "no repo": error(hf, "tester/nothing", "config.json"),
            "no repo info": error(api.dataset_info, "tester/nothing"),
            "no file": error(hf, repo, "nothing.json"),
            "no revision": error(hf, repo, "config.json", revision="v2"),
            "bad token": error(hf, repo, "notes.txt", **bad),
            "bad token whoami": error(api.whoami, **bad),
            "bad token push": error(api.upload_file, repo_id=repo, path_or_fileobj=b"1", path_in_repo="1", **bad),
            "private, no token": error(api.model_info, repo, token=False),
            "public, no token": error(lambda: api.model_info("facebook/tiny", token=False).private),
            "not mine": error(api.upload_file, repo_id="facebook/tiny", path_or_fileobj=b"1", path_in_repo="1"),
        }
        """,
    )
    assert read["files"] == {path: data.hex() for path, data in branch.items()}
    assert read["one"] == FOLDER["model.safetensors"].hex()
    assert sorted(read["tree"]) == ["figures/a b & \u00e9.png", "figures/deep", "figures/deep/er.txt"]
    assert sorted(read["top"]) == ["RepoFile"] * 7 + ["RepoFolder"]
    assert read["tag"] == "fill-mask" and read["range"] == ["34", "56789"]
    assert read["errors"] == {
        "no repo": "RepositoryNotFoundError",
        "no repo info": "RepositoryNotFoundError",
        "no file": "RemoteEntryNotFoundError",
        "no revision": "RevisionNotFoundError",
        "bad token": "HfHubHTTPError",
        "bad token whoami": "HfHubHTTPError",
        "bad token push": "HfHubHTTPError",
        "private, no token": "RepositoryNotFoundError",
        "public, no token": "False",
        "not mine": "HfHubHTTPError",
    }


def test_dataset_round_trip(hub, tmp_path):
    client(
        hub,
        tmp_path / "author",
        """
        from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
        features = Features({"id": Value("string"), "label": ClassLabel(names=["angry", "sad"]), "x": Value("float32")})
        rows = [{"id": f"clip{i}", "label": i % 2, "x": i / 2} for i in range(5)]
        splits = {"train": rows[:3], "test": rows[3:]}
        splits = DatasetDict({name: Dataset.from_list(part, features=features) for name, part in splits.items()})
        splits.push_to_hub("tester/clips", private=True)
        splits.push_to_hub("tester/clips", "second", private=True)
        """,
    )
    assert hub.is_private("tester/clips", "dataset")
    assert ("POST", "/datasets/tester/clips.git/info/lfs/objects/batch") in hub.requests
    assert {"README.md", "data/train-00000-of-00001.parquet"} <= set(hub.files("tester/clips", "dataset"))
    loaded = client(
        hub,
        tmp_path / "user",
        """
        from datasets import load_dataset
        plain = load_dataset("tester/clips")
        result["plain"] = {name: part[:] for name, part in plain.items()}
        result["names"] = plain["train"].features["label"].names
        result["second"] = load_dataset("tester/clips", "second", split="test")[:]
        result["streamed"] = list(load_dataset("tester/clips", split="train", streaming=True))
        """,
    )
    train = {"id": ["clip0", "clip1", "clip2"], "label": [0, 1, 0], "x": [0.0, 0.5, 1.0]}
    test = {"id": ["clip3", "clip4"], "label": [1, 0], "x": [1.5, 2.0]}
    assert loaded["plain"] == {"train": train, "test": test} and loaded["second"] == test
    assert loaded["names"] == ["angry", "sad"]
    assert loaded["streamed"] == [{key: train[key][i] for key in train} for i in range(3)]


def test_strange_requests_are_answered_and_recorded(monkeypatch):
    assert 0 < Handler.timeout <= 60
    monkeypatch.setattr(Handler, "timeout", 1)
    with hub_server() as hub:
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{hub.url}/api/spaces/a/b/secrets", data=b"{}", timeout=10)
        assert refused.value.code == 404 and "no route" in json.load(refused.value)["error"]
        assert hub.unknown == [("POST", "/api/spaces/a/b/secrets")] == hub.requests

        port = int(hub.url.rpartition(":")[2])
        for header in (b"Content-Length: -1", b"Content-Length: x", b"Transfer-Encoding: chunked"):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                connection.sendall(b"PUT /lfs/upload/" + b"0" * 64 + b" HTTP/1.1\r\n" + header + b"\r\n\r\n")
                assert b" 411 " in connection.recv(4096)
        upload = urllib.request.Request(f"{hub.url}/lfs/upload/{'0' * 64}", data=b"not that", method="PUT")
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(upload, timeout=10)
        with socket.create_connection(("127.0.0.1", port), timeout=10) as stalled:  # must hold up nobody
            stalled.sendall(b"POST /api/repos/create HTTP/1.1\r\nContent-Length: 100\r\n\r\nhalf a bo")
            hub.add_repo("some/repo", {"a.txt": b"abc"})
            answer = urllib.request.urlopen(f"{hub.url}/some/repo/resolve/main/a.txt", timeout=10)
            assert answer.read() == b"abc" and len(answer.headers["X-Repo-Commit"]) == 40
            assert stalled.recv(100) == b""  # closed by the server after its timeout
        assert hub.errors == []


def test_environment_of_a_client(monkeypatch, tmp_path):
    for name in ("HTTPS_PROXY", "all_proxy", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "TRANSFORMERS_OFFLINE", "HF_TOKEN_PATH"):
        monkeypatch.setenv(name, "1")
    with hub_server(user="someone", token="hf_other") as hub:
        env = hub.env(tmp_path)
        assert hub.url.startswith("http://127.0.0.1:")
    assert {name: value for name, value in env.items() if name not in os.environ or os.environ[name] != value} == {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": "hf_other",
        "HF_HOME": str(tmp_path),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    assert not {"HTTPS_PROXY", "all_proxy", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "TRANSFORMERS_OFFLINE"} & set(env)


def test_command_keeps_its_repositories(tmp_path):
    with hub_server(root=tmp_path) as hub:
        hub.add_repo("tester/kept", {"a.txt": b"abc"}, private=True)
    command = [sys.executable, str(Path(__file__).with_name("hub_server.py")), "--root", str(tmp_path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            endpoint = process.stdout.readline().split("HF_ENDPOINT=")[1].split()[0]
            request = urllib.request.Request(f"{endpoint}/tester/kept/resolve/main/a.txt")
            request.add_header("Authorization", "Bearer hf_test")
            assert urllib.request.urlopen(request, timeout=10).read() == b"abc"
        finally:
            process.terminate()
