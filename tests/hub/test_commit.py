import traceback

import pytest
from huggingface_hub import HfApi

from shine_hf.hub.attempts import ATTEMPTS
from shine_hf.hub.commit import publish_folder

from .hub_server import READ_TOKEN, WRITE_TOKEN, Commit, StoredFile

REPO = "shine/things"


@pytest.fixture
def folder(tmp_path):
    """Write three files, one of which the Hub stores as a large file."""
    folder = tmp_path / "tree"
    (folder / "lexical").mkdir(parents=True)
    (folder / "README.md").write_text("# Things\n")
    (folder / "lexical" / "train-00000-of-00001.parquet").write_bytes(b"PAR1" * 1000)
    (folder / "lexical" / "build.json").write_text("{}")
    return folder


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def publish(hub, online, folder):
    def publish(**options):
        return publish_folder(folder, REPO, **{"message": "Publish", "endpoint": hub.endpoint, **options})

    return publish


def commits_sent(hub):
    return [request for request in hub.requests if "/commit/" in request]


def test_all_files_are_published_in_one_commit(hub, publish, folder):
    published = publish(message="Publish the things")
    assert hub.files(REPO) == content(folder)
    repository = hub.repository(REPO)
    assert published.sha == repository.branches["main"] and published.sha in published.url
    assert repository.commits[published.sha].title == "Publish the things" and not repository.private
    assert len(repository.commits) == 2  # The empty first commit and ours.


def test_model_repositories_can_be_published(hub, online, folder):
    (folder / "lexical" / "train-00000-of-00001.parquet").rename(folder / "model.safetensors")
    published = publish_folder(folder, REPO, "model", message="Publish", endpoint=hub.endpoint)
    assert hub.files(REPO, "models") == content(folder)
    assert published.url == f"{hub.endpoint}/{REPO}/commit/{published.sha}"


def test_private_repository_and_branch_are_created(hub, publish, folder):
    published = publish(private=True, revision="v1")
    repository = hub.repository(REPO)
    assert repository.private and repository.branches["v1"] == published.sha
    assert hub.files(REPO, revision="v1") == content(folder) and hub.files(REPO) == {}
    publish()  # It stays private.
    assert hub.repository(REPO).private


def test_private_content_is_not_pushed_to_a_public_repository(hub, publish, folder):
    publish()
    before = hub.repository(REPO).branches["main"]
    (folder / "secret.txt").write_text("new")
    with pytest.raises(ValueError, match="shine/things exists and is public"):
        publish(private=True)
    assert hub.repository(REPO).branches["main"] == before


def test_republishing_unchanged_files_makes_no_commit(hub, publish):
    first = publish()
    assert publish().sha == first.sha and len(commits_sent(hub)) == 1


def test_only_changed_files_are_sent_and_stale_files_deleted(hub, publish, folder):
    publish()
    (folder / "lexical" / "train-00000-of-00001.parquet").rename(folder / "lexical" / "train-00000-of-00002.parquet")
    (folder / "README.md").write_text("# Other things\n")
    other = {"random/train.parquet": StoredFile(b"not ours", lfs=True)}
    repository = hub.repository(REPO)
    head = repository.branches["main"]
    repository.add(Commit({**repository.commits[head].files, **other}, head, "somebody else's config"), "main")
    hub.requests.clear()
    publish(delete=["lexical/*"])
    assert hub.files(REPO) == {**content(folder), "random/train.parquet": b"not ours"}
    # The content of the renamed file is already on the Hub.
    assert not [request for request in hub.requests if request.startswith("PUT /storage")]


def test_ignored_files_are_not_published(hub, publish, folder):
    (folder / ".cache").mkdir()
    (folder / ".cache" / "lock").write_text("x")
    (folder / "half.partial").write_text("x")
    publish()
    assert set(hub.files(REPO)) == {"README.md", "lexical/build.json", "lexical/train-00000-of-00001.parquet"}


def test_extra_files_are_built_from_the_hub_content(hub, publish, folder):
    publish()

    def readme(head):
        return {"README.md": head.read("lexical/build.json") + b" " + head.sha.encode()}

    first = hub.repository(REPO).branches["main"]
    publish(extra_files=readme)
    assert hub.files(REPO)["README.md"] == b"{} " + first.encode()


FAULTS = {
    "rate limit": {"pattern": "POST .*/commit/main", "status": 429, "Retry_After": "7"},
    "server error": {"pattern": "POST .*/commit/main", "status": 503, "times": 2},
    "error of a proxy": {"pattern": "POST .*/commit/main", "status": 520},
    "dropped commit": {"pattern": "POST .*/commit/main"},
    "lost reply": {"pattern": "POST .*/commit/main", "after_handling": True},
    "error after the commit": {"pattern": "POST .*/commit/main", "status": 504, "after_handling": True},
    "dropped upload": {"pattern": "PUT /storage", "times": 2},
    "upload fails beyond the client's patience": {"pattern": "PUT /storage", "status": 500, "times": 8},
    "create fails": {"pattern": "POST /api/repos/create", "status": 500},
    "creation's reply is lost": {"pattern": "POST /api/repos/create", "after_handling": True},
    "listing fails": {"pattern": "GET .*/tree/", "status": 502, "times": 2},
    "batch is dropped": {"pattern": "POST .*/objects/batch"},
    "preupload fails": {"pattern": "POST .*/preupload/main", "status": 500, "times": 3},
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_transient_faults_still_end_in_one_commit(hub, publish, folder, fault):
    hub.fail(**fault)
    published = publish()
    assert hub.faults[0].times == 0
    assert hub.files(REPO) == content(folder) and len(hub.repository(REPO).commits) == 2
    assert hub.repository(REPO).branches["main"] == published.sha


def test_retry_after_of_the_hub_is_respected(hub, publish, online):
    hub.fail("POST .*/commit/main", status=429, Retry_After="7")
    publish()
    assert online == [7.0]


def test_concurrent_commit_of_another_user_is_kept(hub, publish, folder):
    publish()
    (folder / "README.md").write_text("# New\n")

    def theirs(repository):
        head = repository.branches["main"]
        files = {**repository.commits[head].files, "random/train.parquet": StoredFile(b"theirs", lfs=True)}
        repository.add(Commit(files, head, "theirs"), "main")

    hub.before_commit.append(theirs)
    seen = []

    def extra(head):
        seen.append(sorted(head.files))
        return {"list.txt": "\n".join(sorted(head.files)).encode()}

    publish(extra_files=extra)
    assert hub.files(REPO)["random/train.parquet"] == b"theirs" and hub.files(REPO)["README.md"] == b"# New\n"
    assert len(seen) == 2 and b"random/train.parquet" in hub.files(REPO)["list.txt"]


def test_failed_push_leaves_the_previous_revision(hub, publish, folder):
    before = publish()
    (folder / "README.md").write_text("# New\n")
    (folder / "lexical" / "train-00000-of-00001.parquet").write_bytes(b"PAR1" * 2000)
    old = hub.files(REPO)
    hub.fail("POST .*/commit/main", status=503, times=100)
    with pytest.raises(
        ConnectionError,
        match=f"failed {ATTEMPTS} times, most recently with status 503.*previous revision is unchanged",
    ):
        publish()
    assert hub.files(REPO) == old and hub.repository(REPO).branches["main"] == before.sha


def test_unreachable_hub_is_reported(folder, online):
    with pytest.raises(ConnectionError, match="a broken connection"):
        publish_folder(folder, REPO, message="m", endpoint="http://127.0.0.1:9")


@pytest.mark.parametrize("error", [ConnectionError("Network error: reset"), TimeoutError("slow")])
def test_failed_xet_upload_is_retried(hub, publish, folder, monkeypatch, error):
    """`hf_xet` raises built-in Python errors, not those of the HTTP client."""
    create, errors = HfApi.create_commit, [error]

    def breaks_once(*args, **kwargs):
        if errors:
            raise errors.pop()
        return create(*args, **kwargs)

    monkeypatch.setattr(HfApi, "create_commit", breaks_once)
    publish()
    assert hub.files(REPO) == content(folder) and not errors


def test_offline_mode_is_not_retried(publish, online, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE"):
        publish()
    assert online == []


def test_corrupted_upload_is_detected(hub, publish, folder):
    def spoil(repository):
        repository.uploads = {oid: data[:-1] + b"?" for oid, data in repository.uploads.items()}

    hub.before_commit.append(spoil)
    with pytest.raises(OSError, match=r"does not contain what was sent: lexical/train-00000-of-00001.parquet"):
        publish()


@pytest.mark.parametrize("token", ["hf_wrongtokenwrongtoken", READ_TOKEN])
def test_invalid_token_is_reported_but_not_printed(hub, publish, token):
    with pytest.raises(
        PermissionError, match=r"refused to write to shine/things \(status 40[13]\): the token is wrong, expired"
    ) as error:
        publish(token=token)
    assert token not in "".join(traceback.format_exception(error.value))
    assert not hub.repositories and len(hub.requests) < 4  # It is not retried.


def test_missing_token_is_reported(publish, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/nonexistent/token")
    with pytest.raises(PermissionError, match=r"no token for http.*hf auth login"):
        publish()


def test_repository_of_another_owner_is_rejected(hub, folder, online):
    with pytest.raises(PermissionError, match="refused to write to somebody/things"):
        publish_folder(folder, "somebody/things", message="m", endpoint=hub.endpoint)


def test_files_with_the_token_are_not_published(hub, publish, folder):
    (folder / "notes.txt").write_text(f"export HF_TOKEN={WRITE_TOKEN}\n")
    with pytest.raises(ValueError, match=r"notes.txt contains your access token") as error:
        publish()
    assert WRITE_TOKEN not in str(error.value) and not hub.repositories


def test_empty_folder_is_not_published(publish, tmp_path, hub, online):
    with pytest.raises(FileNotFoundError, match="no folder"):
        publish_folder(tmp_path / "gone", REPO, message="m", endpoint=hub.endpoint)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="contains no file"):
        publish_folder(tmp_path / "empty", REPO, message="m", endpoint=hub.endpoint)
