"""A local Hub: the part of the huggingface.co HTTP protocol that unmodified `huggingface_hub` and `datasets` use to push and load.

Repositories are held in memory as commits of complete trees. Uploads are checked against their SHA-256. Commits with a missing upload or an
outdated parent are rejected, and failed requests have no visible effect. Faults can be injected into any request.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

OWNER = "shine"
WRITE_TOKEN, READ_TOKEN = "hf_writetokenforthelocalserver", "hf_readtokenforthelocalserver"
LFS_SUFFIXES = (".parquet", ".safetensors", ".arrow", ".png", ".bin", ".mp4")
_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
_API_REPO = rf"/api/(?P<kind>models|datasets|spaces)/{_REPO}"
# Model URLs have no prefix outside the API.
_WEB_REPO = rf"/(?:(?P<kind>datasets|spaces)/)?{_REPO}"


@dataclass
class StoredFile:
    """One version of a file. `oid` is the git hash of what git stores: the content, or the pointer of a large file."""

    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self) -> str:
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        stored = pointer.encode() if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    def describe(self, path: str) -> dict:
        described = {"type": "file", "oid": self.oid, "size": len(self.content), "path": path}
        if self.lfs:
            described["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": 130}
        return described


@dataclass
class Commit:
    """A commit: the complete tree, and the parent commit."""

    files: dict[str, StoredFile]
    parent: str | None
    title: str

    @property
    def oid(self) -> str:
        names = json.dumps([self.parent, self.title, {path: file.oid for path, file in sorted(self.files.items())}])
        return hashlib.sha1(names.encode()).hexdigest()


@dataclass
class Repository:
    """A repository with its branches. A new one has an empty first commit, as on the Hub."""

    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self):
        self.add(Commit({}, None, "initial commit"), "main")

    def add(self, commit: Commit, branch: str) -> str:
        self.commits[commit.oid] = commit
        self.branches[branch] = commit.oid
        return commit.oid

    def resolve(self, revision: str) -> str | None:
        revision = self.branches.get(revision, revision)
        return revision if revision in self.commits else None


@dataclass
class Fault:
    """A fault for the next `times` matching requests: a reply with `status`, or a dropped connection."""

    pattern: str
    times: int
    status: int | None
    after_handling: bool
    headers: dict[str, str]


class Refused(Exception):
    """An error reply with the Hub's wording."""

    def __init__(self, status: int, message: str, code: str | None = None):
        self.status, self.message, self.code = status, message, code


class HubServer:
    """The server, started with `with HubServer() as hub:`; tests may read and change its state."""

    def __init__(self):
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self.before_commit: list[Callable[[Repository], None]] = []
        """Callbacks, each called once just before a commit is handled, e.g. to make somebody else's commit."""
        self.lock = threading.RLock()

    def __enter__(self) -> HubServer:
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._http.daemon_threads = True
        port = self._http.server_address[1]
        self.endpoint = f"http://127.0.0.1:{port}"
        # As on the Hub, large files are on another host: the client does not follow that redirect when it asks for metadata.
        self.storage = f"http://localhost:{port}/storage"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._http.shutdown()
        self._http.server_close()

    def repository(self, repo_id: str, kind: str = "datasets") -> Repository:
        return self.repositories[kind, repo_id]

    def files(self, repo_id: str, kind: str = "datasets", revision: str = "main") -> dict[str, bytes]:
        """Return the files of a revision."""
        repository = self.repository(repo_id, kind)
        return {path: file.content for path, file in repository.commits[repository.resolve(revision)].files.items()}

    def fail(
        self, pattern: str, times: int = 1, status: int | None = None, after_handling: bool = False, **headers: str
    ) -> None:
        """Make requests fail whose `METHOD /path` matches `pattern`.

        Without `status`, the connection is dropped. With `after_handling`, the request succeeds first and only its reply is lost.
        """
        self.faults.append(Fault(pattern, times, status, after_handling, headers))

    def next_fault(self, request: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and re.search(fault.pattern, request):
                    fault.times -= 1
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _handle(self):
        self.parts = urlsplit(self.path)
        request = f"{self.command} {unquote(self.parts.path)}"
        self.hub.requests.append(request)
        self.body = self._read_body()
        fault = self.hub.next_fault(request)
        if fault and not fault.after_handling:
            return self._break(fault)
        try:
            status, headers, content = self._route()
        except Refused as error:
            headers = {"Content-Type": "application/json", "X-Error-Message": error.message}
            headers |= {"X-Error-Code": error.code} if error.code else {}
            status, content = error.status, json.dumps({"error": error.message}).encode()
        if fault:
            return self._break(fault)
        self._send(status, headers, content)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _break(self, fault: Fault) -> None:
        if fault.status is None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            headers = {
                "Content-Type": "application/json",
                **{k.replace("_", "-"): v for k, v in fault.headers.items()},
            }
            self._send(fault.status, headers, json.dumps({"error": "an ordered fault"}).encode())

    def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in {"X-Request-Id": "local", "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _route(self) -> tuple[int, dict[str, str], bytes]:
        path = self.parts.path
        for method, pattern, answer in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method:
                groups = {name: unquote(value) for name, value in match.groupdict().items() if value is not None}
                with self.hub.lock:
                    result = getattr(self, answer)(**groups)
                if isinstance(result, tuple):
                    return result
                return 200, {"Content-Type": "application/json"}, json.dumps(result).encode()
        raise Refused(404, f"no such URL: {self.command} {path}")

    # Authentication and lookup.

    @property
    def token(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not token:
            return None
        if token not in (WRITE_TOKEN, READ_TOKEN):
            raise Refused(401, "Invalid credentials in Authorization header")
        return token

    def _writer(self, owner: str) -> None:
        if self.token is None:
            raise Refused(401, "Invalid username or password.")
        if self.token != WRITE_TOKEN or owner != OWNER:
            raise Refused(403, f"You don't have the rights to write to the namespace {owner!r}")

    def _repository(self, repo: str, kind: str = "models", write: bool = False) -> Repository:
        found, token = self.hub.repositories.get((kind, repo)), self.token
        if found is None or (found.private and token is None):
            raise Refused(404 if token else 401, "Repository not found", "RepoNotFound")
        if write:
            self._writer(repo.split("/")[0])
        return found

    def _commit_of(self, repository: Repository, revision: str) -> tuple[str, Commit]:
        oid = repository.resolve(revision)
        if oid is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid, repository.commits[oid]

    # Replies.

    def whoami(self):
        if self.token is None:
            raise Refused(401, "Invalid username or password.")
        role = "write" if self.token == WRITE_TOKEN else "read"
        return {"type": "user", "name": OWNER, "orgs": [], "auth": {"accessToken": {"role": role}}}

    def validate_yaml(self):
        return {"errors": [], "warnings": []}

    def create(self):
        wanted = json.loads(self.body)
        kind, owner = f"{wanted.get('type') or 'model'}s", wanted.get("organization") or OWNER
        self._writer(owner)
        repo = f"{owner}/{wanted['name']}"
        url = f"{self.hub.endpoint}/{'' if kind == 'models' else kind + '/'}{repo}"
        if (kind, repo) in self.hub.repositories:
            answer = {"error": "You already created this repo", "url": url}
            return 409, {"Content-Type": "application/json"}, json.dumps(answer).encode()
        private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
        self.hub.repositories[kind, repo] = Repository(private)
        return {"url": url, "name": repo, "id": repo}

    def settings(self, kind: str, repo: str):
        wanted = json.loads(self.body)
        repository = self._repository(repo, kind, write=True)
        repository.private = wanted.get("private", wanted.get("visibility") == "private")
        return {"private": repository.private}

    def info(self, kind: str, repo: str, revision: str = "main"):
        repository = self._repository(repo, kind)
        oid, commit = self._commit_of(repository, revision)
        return {
            "_id": "0" * 24,
            "id": repo,
            "author": repo.split("/")[0],
            "sha": oid,
            "private": repository.private,
            "gated": False,
            "disabled": False,
            "lastModified": "2026-01-01T00:00:00.000Z",
            "createdAt": "2026-01-01T00:00:00.000Z",
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "siblings": [{"rfilename": path} for path in sorted(commit.files)],
        }

    def list_models(self):
        """List models whose card names a dataset, with the evaluation results that they report."""
        wanted = parse_qs(self.parts.query).get("filter", [""])[0].removeprefix("dataset:")
        models = []
        for (kind, repo), repository in self.hub.repositories.items():
            files = self.hub.files(repo, kind)
            if kind == "models" and f"- {wanted}\n".encode() in files.get("README.md", b""):
                results = [
                    {"filename": path, "data": entry}
                    for path, content in files.items()
                    if path.startswith(".eval_results/")
                    for entry in yaml.safe_load(content)
                ]
                models.append({"id": repo, "_id": repo, "private": repository.private, "evalResults": results})
        return models

    def refs(self, kind: str, repo: str):
        branches = self._repository(repo, kind).branches
        return {
            "branches": [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": oid} for n, oid in branches.items()],
            "converts": [],
            "tags": [],
        }

    def create_branch(self, kind: str, repo: str, branch: str):
        repository = self._repository(repo, kind, write=True)
        if branch in repository.branches:
            raise Refused(409, f"Reference already exists: {branch}")
        start = json.loads(self.body or b"{}").get("startingPoint") or "main"
        repository.branches[branch] = self._commit_of(repository, start)[0]
        return {}

    def commits(self, kind: str, repo: str, revision: str):
        repository, found = self._repository(repo, kind), []
        oid = self._commit_of(repository, revision)[0]
        while oid is not None:
            commit = repository.commits[oid]
            found.append(
                {"id": oid, "title": commit.title, "message": "", "date": "2026-01-01T00:00:00.000Z", "authors": []}
            )
            oid = commit.parent
        return found

    def tree(self, kind: str, repo: str, revision: str, path: str = ""):
        _, commit = self._commit_of(self._repository(repo, kind), revision)
        recursive = parse_qs(self.parts.query).get("recursive", ["false"])[0].lower() in ("true", "1")
        inside = {name: file for name, file in commit.files.items() if not path or name.startswith(f"{path}/")}
        if path and not inside:
            raise Refused(404, f"{path} does not exist on {revision!r}", "EntryNotFound")
        entries = [*_folders(inside, commit.files), *(file.describe(name) for name, file in inside.items())]
        depth = len(PurePosixPath(path).parts) + 1
        entries = [e for e in entries if len(PurePosixPath(e["path"]).parts) >= depth]
        return [e for e in entries if recursive or len(PurePosixPath(e["path"]).parts) == depth]

    def paths_info(self, kind: str, repo: str, revision: str):
        _, commit = self._commit_of(self._repository(repo, kind), revision)
        if self.headers.get("Content-Type", "").startswith("application/json"):
            paths = json.loads(self.body)["paths"]
        else:
            paths = parse_qs(self.body.decode())["paths"]
        known = {entry["path"]: entry for entry in _folders(commit.files, commit.files)}
        known |= {path: file.describe(path) for path, file in commit.files.items()}
        return [known[path] for path in paths if path in known]

    def preupload(self, kind: str, repo: str, revision: str):
        repository = self._repository(repo, kind, write=True)
        _, commit = self._commit_of(repository, revision)
        return {
            "files": [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LFS_SUFFIXES) else "regular",
                    "shouldIgnore": False,
                    "oid": commit.files[file["path"]].oid if file["path"] in commit.files else None,
                }
                for file in json.loads(self.body)["files"]
            ]
        }

    def lfs_batch(self, repo: str, kind: str = "models"):
        repository = self._repository(repo, kind, write=True)
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            described = {"oid": wanted["oid"], "size": wanted["size"], "authenticated": True}
            if wanted["oid"] not in repository.uploads:
                where = f"{self.hub.storage}/{kind}/{repo}/{wanted['oid']}"
                verify = {"href": f"{where}/verify", "header": {}}
                described["actions"] = {"upload": {"href": where, "header": {}}, "verify": verify}
            objects.append(described)
        return {"transfer": "basic", "objects": objects}

    def upload(self, kind: str, repo: str, oid: str):
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refused(400, "the content does not match its SHA-256")
        self.hub.repositories[kind, repo].uploads[oid] = self.body
        return 200, {}, b""

    def verify(self, kind: str, repo: str, oid: str):
        if oid not in self._repository(repo, kind, write=True).uploads:
            raise Refused(404, "no such object")
        return {}

    def commit(self, kind: str, repo: str, revision: str):
        repository = self._repository(repo, kind, write=True)
        if self.hub.before_commit:
            self.hub.before_commit.pop(0)(repository)
        if revision not in repository.branches:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        head = repository.branches[revision]
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit") not in (None, head):
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repository.commits[head].files)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = StoredFile(base64.b64decode(value["content"]), lfs=False)
            elif line["key"] == "lfsFile":
                if value["oid"] not in repository.uploads:
                    raise Refused(400, f"the object of {value['path']} was not uploaded")
                files[value["path"]] = StoredFile(repository.uploads[value["oid"]], lfs=True)
            elif line["key"] == "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
            elif line["key"] == "deletedFolder":
                files = {
                    path: file for path, file in files.items() if not path.startswith(f"{value['path'].rstrip('/')}/")
                }
        oid = repository.add(Commit(files, head, header["summary"]), revision)
        prefix = "" if kind == "models" else f"{kind}/"
        url = f"{self.hub.endpoint}/{prefix}{repo}/commit/{oid}"
        return {"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""}

    def resolve(self, repo: str, revision: str, path: str, kind: str = "models"):
        repository = self._repository(repo, kind)
        oid, commit = self._commit_of(repository, revision)
        if path not in commit.files:
            raise Refused(404, f"{path} does not exist in {revision}", "EntryNotFound")
        file, headers = commit.files[path], {"X-Repo-Commit": oid, "Accept-Ranges": "bytes"}
        if file.lfs:
            headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.content))}
            return 302, {**headers, "Location": f"{self.hub.storage}/{kind}/{repo}/{file.sha256}"}, b""
        return self._content(file.content, {**headers, "ETag": f'"{file.oid}"'})

    def stored(self, kind: str, repo: str, oid: str):
        return self._content(self.hub.repositories[kind, repo].uploads[oid], {"ETag": f'"{oid}"'})

    def _content(self, content: bytes, headers: dict[str, str]):
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            return 200, headers, content
        start, end = int(wanted[1]), int(wanted[2] or len(content) - 1)
        part = content[start : end + 1]
        headers["Content-Range"] = f"bytes {start}-{start + len(part) - 1}/{len(content)}"
        return 206, headers, part


def _folders(files: dict[str, StoredFile], all_files: dict[str, StoredFile]) -> Iterator[dict]:
    """Return the folders of some files; a folder's git hash depends on everything inside."""
    found = {str(parent) for path in files for parent in PurePosixPath(path).parents} - {"."}
    for folder in sorted(found):
        inside = sorted(f"{path} {file.oid}" for path, file in all_files.items() if path.startswith(f"{folder}/"))
        yield {
            "type": "directory",
            "oid": hashlib.sha1("\n".join(inside).encode()).hexdigest(),
            "size": 0,
            "path": folder,
        }


_ROUTES = [
    (("GET",), "/api/whoami-v2", "whoami"),
    (("POST",), "/api/validate-yaml", "validate_yaml"),
    (("POST",), "/api/repos/create", "create"),
    (("GET",), "/api/models", "list_models"),
    (("PUT",), f"{_API_REPO}/settings", "settings"),
    (("GET", "HEAD"), _API_REPO, "info"),
    (("GET", "HEAD"), rf"{_API_REPO}/revision/(?P<revision>[^/]+)", "info"),
    (("GET",), rf"{_API_REPO}/refs", "refs"),
    (("POST",), rf"{_API_REPO}/branch/(?P<branch>[^/]+)", "create_branch"),
    (("GET",), rf"{_API_REPO}/commits/(?P<revision>[^/]+)", "commits"),
    (("GET",), rf"{_API_REPO}/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?", "tree"),
    (("POST",), rf"{_API_REPO}/paths-info/(?P<revision>[^/]+)", "paths_info"),
    (("POST",), rf"{_API_REPO}/preupload/(?P<revision>[^/]+)", "preupload"),
    (("POST",), rf"{_API_REPO}/commit/(?P<revision>[^/]+)", "commit"),
    (("POST",), rf"{_WEB_REPO}\.git/info/lfs/objects/batch", "lfs_batch"),
    (("PUT",), rf"/storage/(?P<kind>\w+)/{_REPO}/(?P<oid>[0-9a-f]{{64}})", "upload"),
    (("GET", "HEAD"), rf"/storage/(?P<kind>\w+)/{_REPO}/(?P<oid>[0-9a-f]{{64}})", "stored"),
    (("POST",), rf"/storage/(?P<kind>\w+)/{_REPO}/(?P<oid>[0-9a-f]{{64}})/verify", "verify"),
    (("GET", "HEAD"), rf"{_WEB_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
]
