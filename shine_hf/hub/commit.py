"""One folder, one commit: publish to the Hub without ever leaving a half-published state.

Everything is uploaded in a single commit on top of the head that was read, so a failure at any point leaves the previous revision unchanged.
`huggingface_hub` does not retry a failed commit. This module does, and each attempt reads the Hub first: a commit whose reply was lost is
found there and not sent again, and if somebody else has committed in the meantime, that commit becomes the parent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from .attempts import Attempts

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.hf_api import RepoFile

IGNORED = (".git/*", ".cache/*", "*.partial", "*.partial/*", "*__pycache__/*", "*.DS_Store")


@dataclass(frozen=True)
class PublishedCommit:
    """Where something was published: the commit and its page."""

    sha: str
    url: str


class Head:
    """The current state of a branch: its commit `sha`, and its `files`, path -> id and size in git."""

    def __init__(self, api: HfApi, repo_id: str, repo_type: str, revision: str | None):
        self._api, self._repo_id, self._repo_type = api, repo_id, repo_type
        self.sha: str = api.repo_info(repo_id, repo_type=repo_type, revision=revision).sha

    @cached_property
    def files(self) -> dict[str, RepoFile]:
        from huggingface_hub.errors import EntryNotFoundError
        from huggingface_hub.hf_api import RepoFile

        tree = self._api.list_repo_tree(self._repo_id, recursive=True, revision=self.sha, repo_type=self._repo_type)
        try:
            return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
        except EntryNotFoundError:  # A repository without any file has no tree.
            return {}

    def read(self, path: str) -> bytes:
        """Return the content of one file."""
        local = self._api.hf_hub_download(self._repo_id, path, repo_type=self._repo_type, revision=self.sha)
        return Path(local).read_bytes()


class _File:
    """A file to publish, with the ids that the Hub would give its content. It is hashed only once, regardless of the number of attempts."""

    def __init__(self, content: Path | bytes):
        self.content = content
        self.size = content.stat().st_size if isinstance(content, Path) else len(content)

    @cached_property
    def sha256(self) -> str:
        return self._digest(hashlib.sha256())

    @cached_property
    def blob_id(self) -> str:
        return self._digest(hashlib.sha1(b"blob %d\0" % self.size))

    def read(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()

    def _digest(self, digest) -> str:
        if isinstance(self.content, bytes):
            digest.update(self.content)
        else:
            with open(self.content, "rb") as file:
                while chunk := file.read(2**20):
                    digest.update(chunk)
        return digest.hexdigest()

    def is_same_as(self, remote: RepoFile | None) -> bool:
        if remote is None or remote.size != self.size:
            return False
        return remote.lfs.sha256 == self.sha256 if remote.lfs else remote.blob_id == self.blob_id


def publish_folder(
    folder: str | Path,
    repo_id: str,
    repo_type: str = "dataset",
    *,
    message: str,
    private: bool = False,
    revision: str | None = None,
    delete: Sequence[str] = (),
    extra_files: Mapping[str, bytes] | Callable[[Head], Mapping[str, bytes]] | None = None,
    ignore: Sequence[str] = IGNORED,
    endpoint: str | None = None,
    token: str | None = None,
) -> PublishedCommit:
    """Publish a folder in one commit. The repository and the branch are created if they do not exist.

    Files that the Hub already has are not sent, and if nothing would change, no commit is made. After a commit, the files on the Hub are
    compared with what was sent.

    Args:
        folder: Its files are published under their paths inside the folder.
        repo_id: `USER/NAME` on the Hub; without `USER/`, a repository of the token's owner.
        repo_type: `dataset` or `model`.
        message: Commit message.
        private: Make the repository private. If it exists and is public, this is an error.
        revision: Branch; by default `main`.
        delete: Patterns of files on the Hub that the same commit removes, unless they are published now.
        extra_files: Additional files, path -> content, which override those in the folder; or a function that computes them from the [`Head`],
            called at every attempt.
        ignore: Patterns of files that are not published.
        endpoint: URL of the Hub; by default that in `HF_ENDPOINT`.
        token: A token with write access; by default that of `hf auth login` or `HF_TOKEN`.

    Raises:
        FileNotFoundError: if there is nothing to publish. PermissionError: for a missing, wrong or read-only token.
        ValueError: if the repository is public but `private` was requested, or a file contains the token.
        ConnectionError: if the Hub cannot be reached, or keeps failing. In this case, the previous revision is unchanged.
        OSError: if the files on the Hub differ from what was sent.
    """
    api = _client(endpoint, token)
    files = _local_files(Path(folder), ignore)
    if not files and not extra_files:
        raise FileNotFoundError(f"{folder} contains no file to publish")
    _check_secrets(files, api.token)
    attempts = Attempts(api, repo_id)
    repo_id = attempts.until_done(lambda: _create(api, repo_id, repo_type, private, revision))

    def commit() -> tuple[PublishedCommit, dict[str, _File]]:
        head = Head(api, repo_id, repo_type, revision)
        extra = extra_files(head) if callable(extra_files) else extra_files or {}
        wanted = files | {path: _File(content) for path, content in extra.items()}
        operations = _operations(wanted, head, delete)
        if not operations:
            return PublishedCommit(head.sha, _page(api, repo_id, repo_type, head.sha)), {}
        made = api.create_commit(
            repo_id,
            operations,
            commit_message=message,
            repo_type=repo_type,
            revision=revision,
            parent_commit=head.sha,
        )
        return PublishedCommit(made.oid, made.commit_url), wanted

    published, sent = attempts.until_done(commit)
    attempts.until_done(lambda: _verify(Head(api, repo_id, repo_type, published.sha), sent))
    return published


def open_repository(
    repo_id: str,
    repo_type: str = "model",
    *,
    private: bool = False,
    revision: str | None = None,
    endpoint: str | None = None,
    token: str | None = None,
) -> str:
    """Create a repository and a branch if they do not exist, and return the full name `USER/NAME`. For the arguments, see [`publish_folder`].

    Raises:
        PermissionError, ValueError, ConnectionError: as [`publish_folder`].
    """
    api = _client(endpoint, token)
    return Attempts(api, repo_id).until_done(lambda: _create(api, repo_id, repo_type, private, revision))


def _client(endpoint: str | None, token: str | None) -> HfApi:
    from huggingface_hub import HfApi, get_token

    api = HfApi(endpoint=endpoint, token=token or get_token())
    if api.token is None:
        raise PermissionError(
            f"no token for {api.endpoint}: run `hf auth login`, or set HF_TOKEN to a token with write access"
        )
    return api


def _local_files(folder: Path, ignore: Sequence[str]) -> dict[str, _File]:
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder} to publish")
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: _File(path) for name, path in paths.items() if not any(fnmatch(name, pattern) for pattern in ignore)}


def _check_secrets(files: Mapping[str, _File], token: str) -> None:
    for name, file in files.items():
        # Larger files are weights and tables, which contain no text that somebody typed.
        if file.size < 10 * 2**20 and token.encode() in file.read():
            raise ValueError(
                f"{name} contains your access token and was not published: remove the token from the file, and revoke it"
            )


def _create(api: HfApi, repo_id: str, repo_type: str, private: bool, revision: str | None) -> str:
    repo_id = api.create_repo(repo_id, repo_type=repo_type, private=private or None, exist_ok=True).repo_id
    if private and not api.repo_info(repo_id, repo_type=repo_type).private:
        raise ValueError(
            f"{repo_id} exists and is public: make it private on its settings page first, or publish elsewhere"
        )
    if revision is not None:
        api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
    return repo_id


def _operations(
    wanted: Mapping[str, _File], head: Head, delete: Sequence[str]
) -> list[CommitOperationAdd | CommitOperationDelete]:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations: list = [
        CommitOperationAdd(path, file.content)
        for path, file in wanted.items()
        if not file.is_same_as(head.files.get(path))
    ]
    stale = [path for path in head.files if path not in wanted and any(fnmatch(path, pattern) for pattern in delete)]
    return operations + [CommitOperationDelete(path) for path in stale]


def _verify(head: Head, sent: Mapping[str, _File]) -> None:
    wrong = [path for path, file in sent.items() if not file.is_same_as(head.files.get(path))]
    if wrong:
        raise OSError(f"commit {head.sha} does not contain what was sent: {', '.join(wrong)}; publish again")


def _page(api: HfApi, repo_id: str, repo_type: str, sha: str) -> str:
    prefix = "" if repo_type == "model" else f"{repo_type}s/"
    return f"{api.endpoint}/{prefix}{repo_id}/commit/{sha}"
