"""Publishing over HTTP to a stand-in for the hub: the very bytes, what is never sent, and what the hub may answer."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from phibench.adapters.adapter_files import read_adapter
from phibench.adapters.publish import PublishedFile, Target, adapter_files, is_hub_id, model_files, push
from phibench.errors import UserError
from support.hub import TOKEN, Hub, running_hub
from support.models import tiny_tokenizer

from .conftest import Saved

FILES = [
    PublishedFile("README.md", b"---\ntags:\n- x\n---\n\n# x\n"),
    PublishedFile("adapter_model.safetensors", b"\x00weights" * 999),
]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)  # its uploads are not plain HTTP
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with running_hub() as running:
        yield running


def publish(hub: Hub, repo: str = "me/new", files: list[PublishedFile] = FILES, **options: Any) -> str:
    return push(Target(repo, **options), files, endpoint=hub.address)


# ---- what is published


@pytest.fixture
def adapter(lora_folder: Saved, tmp_path: Path) -> Path:
    """An adapter amid what training leaves."""
    folder = Path(shutil.copytree(lora_folder("llama"), tmp_path / "adapter"))
    tiny_tokenizer(chat_template="{{ messages }}").save_pretrained(folder)
    for name in (
        "optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "trainer_state.json", "log.txt", ".env",
        "adapter_model.bin", "phibench_training.json", "model.safetensors.tmp", "events.out.tfevents.1", "notes.md",
    ):  # fmt: skip
        (folder / name).write_text("secret")
    for name in ("checkpoint-10", "global_step10"):
        (folder / name).mkdir()
        (folder / name / "adapter_model.safetensors").write_text("secret")
    return folder


def test_of_an_adapter_only_what_is_listed(adapter: Path) -> None:
    found = adapter_files(read_adapter("a", adapter, "a"), "owner/base", adapter)
    assert sorted(file.name for file in found) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    kept = {file.name: file.content for file in found}
    assert kept["adapter_model.safetensors"] == adapter / "adapter_model.safetensors"


def test_of_a_merged_model_only_what_is_listed(adapter: Path) -> None:
    wanted = ["config.json", "generation_config.json", "model.safetensors.index.json", "phibench_merge.json"]
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for name in [*wanted, *shards, "pytorch_model.bin", "model-1.safetensors", "notes.txt"]:
        (adapter / name).write_text("x")
    names = {file.name for file in model_files(adapter)}
    assert names == {*wanted, *shards, "chat_template.jinja", "tokenizer.json", "tokenizer_config.json"}


def test_a_merged_model_with_code_of_its_own(adapter: Path) -> None:
    for name in ("config.json", "model.safetensors", "modeling_mine.py"):
        (adapter / name).write_text("x")
    with pytest.raises(UserError, match=r"code of its own \(modeling_mine\.py\)"):
        model_files(adapter)


def test_a_merged_model_without_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no safetensors weights"):
        model_files(tmp_path)


@pytest.mark.parametrize("named", ["/home/me/models/phi-2", "./phi-2", "smollm2-135m", None, "a/b/c", 3])
def test_a_base_that_only_this_machine_has_is_replaced_or_refused(named: object, adapter: Path) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": named}))
    found = read_adapter("a", adapter, "a")
    with pytest.raises(UserError, match="nobody else could load it") as caught:
        adapter_files(found, None, adapter)
    assert "--base" in str(caught.value.fix)
    (config,) = (one for one in adapter_files(found, "owner/base", adapter) if one.name == "adapter_config.json")
    assert isinstance(config.content, bytes)
    assert json.loads(config.content) == found.config | {"base_model_name_or_path": "owner/base"}


@pytest.mark.parametrize("base", [None, "owner/base"])
def test_a_configuration_that_others_can_use_is_published_as_it_is(base: str | None, adapter: Path) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "owner/base"}))
    assert adapter_files(read_adapter("a", adapter, "a"), base, adapter)[0].content == file


def test_pickled_weights_are_not_published(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    found = read_adapter("a", adapter, "a", allow_pickle=True)
    with pytest.raises(UserError, match="pickled weights are not published"):
        adapter_files(found, "owner/base", adapter)


@pytest.mark.parametrize(("name", "is_id"), [
    ("microsoft/phi-2", True),
    ("gpt2", True),
    ("smollm2-135m", False),
    ("/models/phi-2", False),
    ("a/b/c", False),
    ("a b", False),
    ("..", False),
])  # fmt: skip
def test_hub_ids(name: str, is_id: bool) -> None:
    assert is_hub_id(name) == is_id


# ---- over HTTP


def test_the_very_bytes_arrive_in_one_commit(hub: Hub, adapter: Path) -> None:
    files = [*FILES[:1], *adapter_files(read_adapter("a", adapter, "a"), "owner/base", adapter)]
    address = publish(hub, files=files, message="first")
    repo = hub.repos["me/new"]
    assert address == f"{hub.address}/me/new/commit/{'1' * 40}"
    assert repo.files.keys() == {file.name for file in files}
    for file in files:
        sent = file.content if isinstance(file.content, bytes) else file.content.read_bytes()
        assert repo.files[file.name] == sent, file.name
        assert file.size == len(sent)
    assert [(commit["summary"], commit["revision"]) for commit in repo.commits] == [("first", "main")]
    assert hashlib.sha256(repo.files["adapter_model.safetensors"]).hexdigest() in hub.blobs


@pytest.mark.parametrize("private", [False, True])
def test_who_may_see_a_new_repository(private: bool, hub: Hub) -> None:
    publish(hub, private=private)
    assert hub.repos["me/new"].private == private


def test_a_public_repository_does_not_get_what_is_to_be_private(hub: Hub) -> None:
    publish(hub)
    before = dict(hub.repos["me/new"].files)
    with pytest.raises(UserError, match="everybody can see it; nothing was uploaded"):
        publish(hub, files=[PublishedFile("config.json", b"{}")], private=True)
    assert hub.repos["me/new"].files == before


def test_a_private_repository_stays_private_and_takes_more(hub: Hub) -> None:
    publish(hub, private=True)
    publish(hub, files=[PublishedFile("config.json", b"{}")], private=True)
    publish(hub, files=[PublishedFile("config.json", b"{ }")])
    assert hub.repos["me/new"].private
    assert hub.repos["me/new"].files.keys() == {"README.md", "adapter_model.safetensors", "config.json"}


def test_a_branch(hub: Hub) -> None:
    publish(hub, revision="a/branch")
    assert hub.repos["me/new"].commits[0]["revision"] == "a%2Fbranch"


def test_a_pull_request_makes_no_repository(hub: Hub) -> None:
    publish(hub, "them/theirs")
    made = hub.asked("POST", "/api/repos/create")
    assert publish(hub, "them/theirs", create_pr=True) == f"{hub.address}/them/theirs/discussions/1"
    assert hub.asked("POST", "/api/repos/create") == made
    assert "create_pr=1" in hub.repos["them/theirs"].commits[-1]["query"]
    with pytest.raises(UserError, match=r"has not got this repository.*\(404\)"):
        publish(hub, "them/gone", create_pr=True)


ANSWERS = {
    "token": ("/api/repos/create", 401, "Invalid credentials", r"does not accept the token \(401\)", "HF_TOKEN"),
    "not-yours": ("/api/repos/create", 403, "You do not own it", r"may not write there \(403\)", "of your own"),
    "read-only": ("/commit/", 403, "Read-only token", r"may not write there \(403\)", "may write"),
    "card": ("/validate-yaml", 400, "bad card", "Invalid metadata in README.md", ""),
    "full": ("/preupload/", 413, "Quota exceeded", r"the hub refuses it \(413\)", "later"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_what_the_hub_refuses_is_told_with_what_to_do(case: str, hub: Hub) -> None:
    part, status, message, says, fix = ANSWERS[case]
    hub.refuse[part] = (status, f"{message} {TOKEN}")
    with pytest.raises(UserError, match=says) as caught:
        publish(hub)
    assert fix in str(caught.value.fix or "")
    assert TOKEN not in str(caught.value)
    assert all(not repo.files for repo in hub.repos.values())


def test_a_wrong_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match=r"does not accept the token \(401\)") as caught:
        publish(hub)
    assert "hf_wrong" not in str(caught.value)
    assert hub.repos == {}


def test_no_token_at_all(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(UserError, match="no token was found") as caught:
        publish(hub)
    assert "hf auth login" in str(caught.value.fix)
    assert hub.requests == []


@pytest.mark.parametrize("repo", ["name", "a/b/c", "a b/c", "me/", "/x", "me/x..y", "me/-x", "https://hf.co/me/x", ""])
def test_ids_that_no_hub_has(repo: str, hub: Hub) -> None:
    with pytest.raises(UserError, match="no repository's id"):
        publish(hub, repo)
    assert hub.requests == []


def test_no_network(monkeypatch: pytest.MonkeyPatch, hub: Hub) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    with running_hub() as gone:
        address = gone.address
    with pytest.raises(UserError, match="the hub cannot be reached") as caught:
        push(Target("me/new"), FILES, endpoint=address)
    assert "network" in str(caught.value.fix)
