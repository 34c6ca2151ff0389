"""A small Hugging Face Hub on 127.0.0.1, so that tests push and load through the real clients without any network.

It answers what huggingface_hub 2.4, transformers 5.23 and datasets 5.2 ask to create a repository, upload to it and
load from it. Where the real Hub refuses (token, private repository, foreign namespace, stale parent commit, corrupt
upload) it refuses with the same status and `X-Error-Code`, from which clients choose their exception classes.
`hub.faults` makes it fail as the real one does at times: rights, conflicts, rate limits, 5xx, resets. It knows no xet,
pull requests, tags or deletion of repositories; `hub.unknown` has the requests that it could not answer.
Clients must be subprocesses, because huggingface_hub reads its environment (see `Hub.env`) at import.

    with hub_server() as hub:
        subprocess.run([sys.executable, "push.py"], env=hub.env(tmp_path / "home"), check=True)
        assert hub.is_private("tester/my-model") and "config.json" in hub.files("tester/my-model")

By hand: `python tests/hub_server.py --root DIR --port 8899`; the repositories in DIR survive a restart.
"""

import argparse
import base64
import hashlib
import json
import os
import re
import socket
import struct
import sys
import threading
import traceback
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path, PurePosixPath
from socketserver import ThreadingTCPServer
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from urllib.parse import parse_qs, unquote, urlsplit

# Stored as LFS, as on the real Hub. Parquet must be here: `push_to_hub` of datasets deletes its temporary parquet after
# the LFS upload and before the commit, so a "regular" upload (inline in the commit) finds no file.
LFS_SUFFIXES = "arrow bin ckpt flac h5 mp3 npy npz onnx parquet pkl png pt pth safetensors tar wav zip".split()
LFS_SIZE, BODY_LIMIT = 10 * 2**20, 4 * 2**30  # bytes
GITATTRIBUTES = "".join(f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()

ID, REV, PATH = r"(?P<id>[^/]+(?:/[^/]+)?)", r"(?P<rev>[^/]+)", r"(?P<path>.+)"
API, WEB = rf"/api/(?P<kind>models|datasets|spaces)/{ID}", rf"/(?:(?P<kind>datasets|spaces)/)?{ID}"
ROUTES = []  # (method, compiled path, function of Hub), filled by @route; the first match answers


class Answer(Exception):
    """Status, content (bytes, or what becomes JSON) and headers. Routes return it; `refuse` raises it."""

    def __init__(self, content, status: int = 200, headers: dict | None = None):
        self.content, self.status, self.headers = content, status, headers or {}


def refuse(status: int, message: str, **headers: str):
    """Raise the error answer. Clients choose their exception class from the status and the header X_Error_Code."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()} | {"X-Error-Message": message}
    raise Answer({"error": message}, status, headers)


def route(method: str, pattern: str):
    return lambda function: ROUTES.append((method, re.compile(pattern), function)) or function


def describe(path: str, entry: dict | None) -> dict:
    """A file, or a folder if it has no entry, as the tree and repository requests show it."""
    if entry is None:
        return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest()}
    oid, size = entry["oid"], entry["size"]
    lfs = {"lfs": {"oid": oid, "sha256": oid, "size": size, "pointerSize": 134}} if entry["lfs"] else {}
    return {"type": "file", "path": path, "rfilename": path, "size": size, "oid": oid, "blobId": oid, **lfs}


class Hub:
    """The repositories with their history, the answers to requests, and what tests look at.

    State is plain dicts, written to `root/state.json` after each change: `models/user/name` -> {"private", "branches",
    "commits": {sha: {"date", "files": {path: {"oid", "size", "lfs"}}}}}. An `oid` is what clients compare to
    skip unchanged files (sha256 for LFS, git's sha1 else), and the name of the content in `root/blobs`.
    """

    def __init__(self, root: Path, user: str = "tester", token: str = "hf_test"):
        self.user, self.token, self.url, self.lock = user, token, "", threading.RLock()
        self.requests: list[tuple[str, str]] = []  # every (method, path), the path without its query
        self.unknown: list[tuple[str, str]] = []  # those that no route answers: a test wants this empty
        self.sent = 0  # bytes of all answers
        self.errors: list[str] = []  # tracebacks of bugs in this server, answered with 500
        # [pattern of "METHOD /path", status or "reset", times]: such requests fail so many times instead of an answer
        self.faults: list[list] = []
        self.blobs, self.state = Path(root) / "blobs", Path(root) / "state.json"
        self.blobs.mkdir(parents=True, exist_ok=True)
        self.repos: dict[str, dict] = json.loads(self.state.read_text()) if self.state.exists() else {}

    def env(self, home: Path) -> dict[str, str]:
        """Environment of a client whose cache is `home`; a new `home` is a machine that has downloaded nothing."""
        drop = "HF_|HUGGING|TRANSFORMERS_|.*_proxy$"  # other caches, offline switches, other tokens
        kept = {name: value for name, value in os.environ.items() if not re.match(drop, name, re.IGNORECASE)}
        kept |= {"HF_ENDPOINT": self.url, "HF_TOKEN": self.token, "HF_HOME": str(home)}
        return kept | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

    def files(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> dict[str, bytes]:
        """Path -> content of a repository. KeyError if there is no such repository."""
        with self.lock:
            repo = self.repos[f"{repo_type}s/{repo_id}"]
            entries = repo["commits"][self.resolve(repo, revision)]["files"]
            return {path: (self.blobs / entry["oid"]).read_bytes() for path, entry in entries.items()}

    def is_private(self, repo_id: str, repo_type: str = "model") -> bool:
        return self.repos[f"{repo_type}s/{repo_id}"]["private"]

    def add_repo(self, repo_id: str, files: dict[str, bytes], repo_type: str = "model", private: bool = False) -> str:
        """Put a repository here without a client and in any namespace (`facebook/wav2vec2-base`); returns its sha."""
        changes = {path: self.store(data, self.wants_lfs(path, data, len(data))) for path, data in files.items()}
        with self.lock:
            repo = self.repos[f"{repo_type}s/{repo_id}"] = {"private": private, "branches": {}, "commits": {}}
            return self.commit(repo, "main", changes)

    def wants_lfs(self, path: str, sample: bytes, size: int) -> bool:
        return size > 0 and (path.rpartition(".")[2] in LFS_SUFFIXES or size >= LFS_SIZE or b"\0" in sample[:512])

    def store(self, data: bytes, lfs: bool) -> dict:
        oid = (hashlib.sha256(data) if lfs else hashlib.sha1(b"blob %d\0" % len(data) + data)).hexdigest()
        (self.blobs / oid).write_bytes(data)
        return {"oid": oid, "size": len(data), "lfs": lfs}

    def commit(self, repo: dict, branch: str, changes: dict[str, dict | None]) -> str:
        """Add a commit to a branch; a change to None deletes."""
        files = repo["commits"][repo["branches"][branch]]["files"] | changes if repo["branches"] else changes
        kept = {path: entry for path, entry in files.items() if entry is not None}
        sha = repo["branches"][branch] = os.urandom(20).hex()
        repo["commits"][sha] = {"date": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.000Z}", "files": kept}
        self.state.write_text(json.dumps(self.repos))
        return sha

    def resolve(self, repo: dict, revision: str) -> str:
        if (sha := repo["branches"].get(revision, revision)) not in repo["commits"]:
            refuse(404, f"No revision {revision}", X_Error_Code="RevisionNotFound")
        return sha

    def caller(self, r, required: bool = False) -> str | None:
        given = r.headers.get("Authorization")
        if given != f"Bearer {self.token}" and (given or required):
            refuse(401, "Invalid credentials in Authorization header")
        return given and self.user

    def find(self, r, write: bool = False) -> tuple[dict, str, dict]:
        """(repository, sha, files) that a request names, if its sender may read (or write) there."""
        caller, repo = self.caller(r, required=write), self.repos.get(f"{r.kind}/{r.id}")
        mine = r.id.startswith(f"{caller}/")
        if not repo or (repo["private"] and not mine):  # a private repository must look like a missing one
            refuse(404 if caller else 401, "Repository not found", X_Error_Code="RepoNotFound")
        if write and not mine:
            refuse(403, f"{caller} may not write to {r.id}")
        sha = self.resolve(repo, r.rev)
        return repo, sha, repo["commits"][sha]["files"]

    @route("POST", "/test/faults")
    def set_faults(self, r) -> Answer:
        """Of tests, whose clients are other processes: `hub.faults` for what follows."""
        self.faults[:] = json.loads(r.body)
        return Answer({})

    @route("GET", "/test/sent")
    def bytes_sent(self, r) -> Answer:
        return Answer(self.sent)

    @route("GET", "/api/whoami-v2")
    def whoami(self, r) -> Answer:
        user, auth = self.caller(r, required=True), {"accessToken": {"displayName": "test", "role": "write"}}
        return Answer({"type": "user", "name": user, "fullname": user, "orgs": [], "auth": auth})

    @route("POST", "/api/repos/create")
    def create(self, r) -> Answer:
        user, asked = self.caller(r, required=True), json.loads(r.body)
        kind, repo_id = asked.get("type") or "model", f"{asked.get('organization') or user}/{asked['name']}"
        if not repo_id.startswith(f"{user}/"):
            refuse(403, f"You don't have the rights to create {repo_id}: your namespace is {user}")
        url = f"{self.url}/{kind}s/{repo_id}".replace("/models/", "/")
        if f"{kind}s/{repo_id}" in self.repos:  # with exist_ok the client reads "url" from this too
            return Answer({"url": url, "error": f"You already created {repo_id}"}, 409)
        # huggingface_hub 2.4 sends "visibility", earlier ones "private"; missing either would publish what is private.
        private = asked.get("visibility") == "private" or asked.get("private") is True
        self.add_repo(repo_id, {".gitattributes": GITATTRIBUTES}, kind, private)
        return Answer({"url": url, "name": repo_id, "id": repo_id})

    @route("POST", "/api/validate-yaml")
    def validate_card(self, r) -> Answer:
        return Answer({"errors": [], "warnings": []})

    @route("GET|HEAD", f"{WEB}/resolve/{REV}/{PATH}")
    def download(self, r) -> Answer:
        _, sha, files = self.find(r)
        if (entry := files.get(r.path)) is None:
            refuse(404, f"No file {r.path}", X_Error_Code="EntryNotFound", X_Repo_Commit=sha)
        start, stop, size = 0, entry["size"], entry["size"]
        headers = {"ETag": f'"{entry["oid"]}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", r.headers.get("Range", "")):
            start, stop = int(wanted[1]), min(int(wanted[2] or size) + 1, size)
            if start >= stop:
                refuse(416, "Range not satisfiable", Content_Range=f"bytes */{size}")
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        data = (self.blobs / entry["oid"]).read_bytes()[start:stop]
        return Answer(data, 206 if "Content-Range" in headers else 200, headers)

    @route("GET", rf"{API}(?:/revision/{REV})?")
    def repo_info(self, r) -> Answer:
        repo, sha, files = self.find(r)
        readme = (self.blobs / files["README.md"]["oid"]).read_bytes() if "README.md" in files else b""
        header = readme.partition(b"\n---")[0].decode()
        card = dict(re.findall(r"^(pipeline_tag|library_name): *(\S+)", header, re.MULTILINE))
        # The real Hub also guesses `pipeline_tag` from the architecture. Not here: a card without it should be noticed.
        info = {"id": r.id, "sha": sha, "private": repo["private"], "lastModified": repo["commits"][sha]["date"]}
        info |= {"pipeline_tag": None, "library_name": "transformers", "tags": [], **card}
        return Answer(info | {"siblings": [describe(path, files[path]) for path in sorted(files)]})

    @route("GET", f"{API}/tree/{REV}(?:/{PATH})?")
    def tree(self, r) -> Answer:
        _, sha, files = self.find(r)
        root, rows = PurePosixPath(r.path), {}
        for path in map(PurePosixPath, sorted(files)):
            inside = [str(part) for part in (path, *path.parents) if root in part.parents]  # the file, then its folders
            for name in inside if r.query.get("recursive") == ["true"] else inside[-1:]:
                rows[name] = describe(name, files.get(name))
        if r.path and not rows:  # usual: datasets asks for data/, transformers for additional_chat_templates/
            refuse(404, f"No folder {r.path}", X_Error_Code="EntryNotFound", X_Repo_Commit=sha)
        return Answer(list(rows.values()))

    @route("POST", f"{API}/branch/{PATH}")
    def branch(self, r) -> Answer:
        repo = self.find(r, write=True)[0]
        if r.path in repo["branches"]:
            refuse(409, f"The branch {r.path} exists already")
        repo["branches"][r.path] = self.resolve(repo, json.loads(r.body).get("startingPoint", "main"))
        self.state.write_text(json.dumps(self.repos))
        return Answer({})

    @route("POST", f"{API}/preupload/{REV}")
    def preupload(self, r) -> Answer:
        files, rows = self.find(r, write=True)[2], []
        for asked in json.loads(r.body)["files"]:
            path, oid = asked["path"], files.get(asked["path"], {}).get("oid")
            lfs = self.wants_lfs(path, base64.b64decode(asked["sample"]), asked["size"])
            rows.append({"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, "oid": oid})
        return Answer({"files": rows})

    @route("POST", rf"{WEB}\.git/info/lfs/objects/batch")
    def lfs_batch(self, r) -> Answer:
        self.find(r, write=True)
        rows = [{"oid": asked["oid"], "size": asked["size"]} for asked in json.loads(r.body)["objects"]]
        for row in rows:
            if not (self.blobs / row["oid"]).exists():  # without "actions" the client does not upload
                row["actions"] = {"upload": {"href": f"{self.url}/lfs/upload/{row['oid']}"}}
        return Answer({"transfer": "basic", "objects": rows})

    @route("PUT", "/lfs/upload/(?P<path>[0-9a-f]{64})")
    def lfs_upload(self, r) -> Answer:
        """No token comes with this request: on the real Hub the address is a signed one of a storage service."""
        if hashlib.sha256(r.body).hexdigest() != r.path:
            refuse(400, f"The content does not have the sha256 {r.path}")
        return Answer(self.store(r.body, lfs=True))

    @route("POST", f"{API}/commit/{REV}")
    def receive_commit(self, r) -> Answer:
        repo, head, files = self.find(r, write=True)
        if "create_pr" in r.query or r.rev not in repo["branches"]:
            refuse(400, f"This server commits to branches only, not to {r.rev} or a pull request")
        changes = {}
        for item in map(json.loads, r.body.splitlines()):
            key, value, path = item["key"], item["value"], item["value"].get("path")
            if value.get("parentCommit", head) != head:  # in the "header" item; datasets tries again on this status
                refuse(412, "A commit has happened since. Please refresh and try again.")
            if key == "file":
                changes[path] = self.store(base64.b64decode(value["content"]), lfs=False)
            elif key == "lfsFile":
                if not (self.blobs / value["oid"]).is_file():
                    refuse(400, f"{path}: the LFS object {value['oid']} was not uploaded")
                changes[path] = {"oid": value["oid"], "size": (self.blobs / value["oid"]).stat().st_size, "lfs": True}
            elif key in ("deletedFile", "deletedFolder"):
                gone = [name for name in files if name == path or name.startswith(path.rstrip("/") + "/")]
                changes |= dict.fromkeys(gone or refuse(404, f"No file {path}", X_Error_Code="EntryNotFound"))
        sha = self.commit(repo, r.rev, changes)
        commit = {"commitOid": sha, "commitUrl": f"{self.url}/{r.id}/commit/{sha}", "pullRequestUrl": None}
        return Answer({"success": True, "hookOutput": "", **commit})


class Handler(BaseHTTPRequestHandler):
    """Reads a request, finds its route, sends the answer. Every wait on the socket ends after `timeout` seconds."""

    protocol_version, timeout = "HTTP/1.1", 30  # clients keep their connections
    disable_nagle_algorithm = True  # else 40 ms a request

    def log_message(self, *args) -> None:
        """Silent: tests look at `hub.requests`."""

    def find_answer(self) -> Answer:
        hub, url, size = self.server.hub, urlsplit(self.path), self.headers.get("Content-Length", "0")
        hub.requests.append((self.command, url.path))
        if not size.isdecimal() or int(size) > BODY_LIMIT or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # where the next request begins is not known
            return Answer({"error": "The Content-Length must be given, and at most 4 GiB"}, 411)
        if len(body := self.rfile.read(int(size))) < int(size):
            raise ConnectionError("The client left in the middle of a body")
        for fault in hub.faults:
            if fault[2] > 0 and re.search(fault[0], f"{self.command} {url.path}"):
                fault[2] -= 1
                if fault[1] == "reset":
                    raise ConnectionResetError
                headers = {"Retry-After": "7"} if fault[1] == 429 else {}
                return Answer({"error": f"fault {fault[1]}"}, fault[1], headers)
        for methods, pattern, function in ROUTES:
            if self.command in methods.split("|") and (found := pattern.fullmatch(url.path)):
                parts = {name: unquote(part) for name, part in found.groupdict().items() if part}
                parts = {"kind": "models", "rev": "main", "path": ""} | parts
                r = SimpleNamespace(headers=self.headers, query=parse_qs(url.query), body=body, **parts)
                with hub.lock:
                    try:
                        return function(hub, r)
                    except Answer as refusal:
                        return refusal
                    except Exception:
                        hub.errors.append(traceback.format_exc())
                        return Answer({"error": hub.errors[-1]}, 500)
        hub.unknown.append((self.command, url.path))
        return Answer({"error": f"The test Hub has no route for {self.command} {url.path}"}, 404)

    def respond(self) -> None:
        try:
            answer = self.find_answer()
        except ConnectionResetError:  # a fault: an RST instead of an answer
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            raise
        body = answer.content if isinstance(answer.content, bytes) else json.dumps(answer.content).encode()
        self.send_response(answer.status)
        for name, value in (answer.headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value.encode("ascii", "replace").decode())
        self.end_headers()
        body = b"" if self.command == "HEAD" else body
        self.server.hub.sent += len(body)
        self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = respond


class Server(ThreadingTCPServer):
    """ThreadingHTTPServer without its reverse name lookup, which can wait for a name server that is not there."""

    daemon_threads, allow_reuse_address, request_queue_size = True, True, 64

    def handle_error(self, *args) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client that left is no error
            self.hub.errors.append(traceback.format_exc())


@contextmanager
def hub_server(root: Path | None = None, port: int = 0, user: str = "tester", token: str = "hf_test"):
    """A running `Hub`, on a free port and in a temporary folder unless told otherwise; gone at the end of the block."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as scratch, Server(("127.0.0.1", port), Handler) as server:
        hub = server.hub = Hub(root or scratch, user, token)
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield hub
        finally:
            server.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, help="folder of the repositories; default: a temporary one")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    with hub_server(**vars(parser.parse_args())) as hub:
        print(f"export HF_ENDPOINT={hub.url} HF_TOKEN={hub.token} HF_HUB_DISABLE_XET=1", flush=True)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
