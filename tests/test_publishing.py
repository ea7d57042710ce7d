"""`phibench merge` and `phibench push` from the command line, against a stand-in for the hub that speaks HTTP."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from phibench.adapters.merge_record import RECORD, read_record
from phibench.harness.results import read_manifest
from support.command import Command, Ended
from support.hub import TOKEN, Hub, running_hub
from support.measured import measured_folder
from support.models import logits
from support.run_folder import edit_manifest


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, an adapter that names it, and a run of both."""
    return measured_folder(tmp_path_factory.mktemp("kept"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub that the libraries take for theirs, and a token for it."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("PHIBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    with running_hub() as running:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", running.address)
        yield running


def is_clean(ended: Ended, says: str) -> bool:
    """Whether a user's mistake was told as one, in these words."""
    return ended.code == 2 and says in ended.err and "Traceback" not in ended.all


# ---- merge


@pytest.mark.parametrize("into", ["base", "dequantized", "requantized"])
def test_merge_of_an_adapter(into: str, kept: Path, phibench: Command) -> None:
    ended = phibench("merge", kept / "adapter", "--into", into, "--out", "out", "--double-quant")
    if into == "base":
        assert is_clean(ended, "--double-quant: merging into the base quantises nothing")
        ended = phibench("merge", kept / "adapter", "--into", into, "--out", "out")
    assert ended.code == 0, ended.err
    record = read_record(Path("out"))
    assert f"identity {record.identity[:12]}" in ended.out
    assert f"chosen for you: base: {kept / 'base'}, named by the adapter" in ended.out
    assert record.into == into
    assert torch.isfinite(logits(AutoModelForCausalLM.from_pretrained("out", dtype="auto").eval())).all()


def test_merge_of_a_runs_variant_has_the_identity_that_was_measured(kept: Path, phibench: Command) -> None:
    ended = phibench("merge", f"{kept / 'run'}:merged", "--out", "out")
    assert ended.code == 0, ended.err
    (variant,) = (one for one in read_manifest(kept / "run").variants if one.name == "merged")
    assert read_record(Path("out")).identity == variant.identity
    assert phibench("merge", f"{kept / 'run'}:merged", "--out", "out").code == 2
    assert phibench("merge", f"{kept / 'run'}:merged", "--out", "out", "--force").code == 0


def test_merge_refuses_before_it_loads(kept: Path, phibench: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("taken").mkdir()
    Path("taken/thesis.txt").write_text("years of work")
    monkeypatch.setattr("phibench.adapters.save.load_base", None)  # calling it would be a bug, and keep its traceback
    adapter = kept / "adapter"
    for arguments, says in (
        (("merge", adapter, "--out", "out"), "--into: what it is to be merged into is not said"),
        (("merge", adapter, "--into", "base", "--out", "taken"), "no merge wrote it"),
        (("merge", "gone/", "--into", "base", "--out", "out"), "there is no such folder, and it is no hub's id"),
        (("merge", adapter, "--into", "base", "--out", "out", "--max-shard-size", "much"), "--max-shard-size"),
        (("merge", adapter, "--into", "base", "--out", "out", "--device", "abacus"), "this device cannot be used"),
        (("merge", f"{kept / 'run'}:mergd", "--out", "out"), 'did you mean "merged"?'),
    ):
        assert is_clean(phibench(*arguments), says), arguments
    assert [path.name for path in Path().iterdir()] == ["taken"]


# ---- push


def test_push_of_a_runs_adapter(kept: Path, hub: Hub, phibench: Command) -> None:
    ended = phibench("push", f"{kept / 'run'}:adapter-nf4", "--repo", "me/cited", "--base", "owner/base", "--private")
    assert ended.code == 0, ended.err
    assert ended.out == f"{hub.address}/me/cited/commit/{'1' * 40}\n"
    repo = hub.repos["me/cited"]
    assert repo.private
    weights = "adapter_model.safetensors"
    assert repo.files[weights] == (kept / "adapter" / weights).read_bytes()
    assert json.loads(repo.files["adapter_config.json"])["base_model_name_or_path"] == "owner/base"
    assert {"README.md", "tokenizer.json", "tokenizer_config.json"} <= repo.files.keys()  # the base's tokenizer
    data = ModelCard(repo.files["README.md"].decode()).data
    assert data.base_model == "owner/base"
    assert {one.metric_name for one in data.eval_results} >= {"acc, adapter-nf4", "rouge1, adapter-nf4"}
    sent = b"".join(repo.files.values())
    assert str(kept).encode() not in sent
    assert TOKEN not in ended.all
    assert TOKEN.encode() not in sent


def test_push_of_a_runs_merged_variant_makes_it_again(kept: Path, hub: Hub, phibench: Command, tmp_path: Path) -> None:
    ended = phibench("push", f"{kept / 'run'}:merged", "--repo", "me/whole", "--commit-message", "whole")
    assert ended.code == 0, ended.err
    files = hub.repos["me/whole"].files
    (variant,) = (one for one in read_manifest(kept / "run").variants if one.name == "merged")
    assert json.loads(files[RECORD])["identity"] == variant.identity
    for name, content in files.items():
        Path("fetched").mkdir(exist_ok=True)
        Path("fetched", name).write_bytes(content)
    phibench("merge", f"{kept / 'run'}:merged", "--out", "out")
    fetched, made = (AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval() for folder in ("fetched", "out"))
    assert torch.equal(logits(fetched), logits(made))
    assert hub.repos["me/whole"].commits[0]["summary"] == "whole"
    assert list((tmp_path / "cache").iterdir()) == []  # what was made for it is gone


def test_push_of_folders_with_the_run_that_measured_them(kept: Path, hub: Hub, phibench: Command) -> None:
    phibench("merge", f"{kept / 'run'}:merged", "--out", "out")
    run = ("--run", kept / "run")
    assert phibench("push", "out", "--repo", "me/a", *run).code == 0
    assert phibench("push", kept / "adapter", "--repo", "me/b", "--base", "owner/base", *run).code == 0
    merged, adapter = (ModelCard(hub.repos[name].files["README.md"].decode()).data for name in ("me/a", "me/b"))
    assert {one.metric_name.split(", ")[1] for one in merged.eval_results} == {"merged"}
    assert {one.metric_name.split(", ")[1] for one in adapter.eval_results} == {"adapter-nf4"}
    other = Path(shutil.copytree(kept / "run", "other"))
    edit_manifest(other, adapters=[], variants=[])
    for what in ("out", kept / "adapter"):
        ended = phibench("push", what, "--repo", "me/c", "--base", "owner/base", "--run", other)
        assert is_clean(ended, "its results belong to other weights")
    assert "me/c" not in hub.repos


def test_an_adapter_that_was_measured_only_merged(kept: Path, hub: Hub, phibench: Command) -> None:
    other = Path(shutil.copytree(kept / "run", "other"))
    edit_manifest(other, variants=[one for one in read_manifest(other).variants if one.name != "adapter-nf4"])
    ended = phibench("push", kept / "adapter", "--repo", "me/c", "--base", "owner/base", "--run", other)
    assert is_clean(ended, "this run measured the adapter only in merged forms")


def test_push_without_a_run_says_so(kept: Path, hub: Hub, phibench: Command) -> None:
    flags = ("--base", "owner/base", "--license", "mit", "--dataset", "a/b", "--dataset", "c/d")
    assert phibench("push", kept / "adapter", "--repo", "me/x", *flags).code == 0
    text = hub.repos["me/x"].files["README.md"].decode()
    assert "without the results of a run" in text
    assert (ModelCard(text).data.license, ModelCard(text).data.datasets) == ("mit", ["a/b", "c/d"])


@pytest.mark.parametrize("what", ["run:adapter-nf4", "run:merged", "adapter"])
def test_a_dry_run_shows_all_and_asks_the_hub_for_nothing(
    what: str, kept: Path, hub: Hub, phibench: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    ended = phibench("push", f"{kept}/{what}", "--repo", "me/x", "--base", "owner/base", "--dry-run")
    assert ended.code == 0, ended.err
    assert hub.requests == []
    assert ModelCard(ended.out).data.model_name == "x"
    weights = "model.safetensors" if what == "run:merged" else "adapter_model.safetensors"
    assert f" bytes  {weights}" in ended.err
    assert f"{len(ended.out.encode()):,} bytes  README.md" in ended.err


@pytest.mark.parametrize(("arguments", "says"), [
    (("run:base",), "the base, without an adapter"),
    (("run:merged", "--run", "run"), "the variant names its run already"),
    (("adapter",), "nobody else could load it"),
    (("base",), "a whole model that `phibench merge` did not write"),
    (("adapter", "--base", "/models/x"), "this is no hub's id of a model"),
    (("adapter", "--base", "owner/base", "--repo", "nobody"), "no repository's id"),
])  # fmt: skip
def test_what_is_not_published(arguments: tuple[str, ...], says: str, kept: Path, hub: Hub, phibench: Command) -> None:
    what, *flags = arguments
    ended = phibench("push", f"{kept}/{what}", "--repo", "me/x", *flags)
    assert is_clean(ended, says)
    assert hub.requests == []


@pytest.mark.parametrize("command", ["push", "merge"])
def test_a_broken_adapter_is_named_as_it_was_given(command: str, kept: Path, phibench: Command, tmp_path: Path) -> None:
    folder = shutil.copytree(kept / "adapter", tmp_path / "broken")
    (folder / "adapter_config.json").write_text("{")
    flags = ("--repo", "me/x") if command == "push" else ("--into", "base", "--out", "out")
    ended = phibench(command, folder, *flags)
    assert is_clean(ended, "adapter_config.json is broken")
    assert "adapters.adapter" not in ended.err and str(folder) in ended.err.replace("\n", "")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_weights_that_are_no_numbers_are_not_published(
    dtype: torch.dtype, kept: Path, hub: Hub, phibench: Command, tmp_path: Path
) -> None:
    folder = shutil.copytree(kept / "adapter", tmp_path / "broken")
    weights = {name: one.to(dtype) for name, one in load_file(folder / "adapter_model.safetensors").items()}
    save_file(weights, folder / "adapter_model.safetensors")
    arguments = ("push", folder, "--repo", "me/x", "--base", "owner/base", "--dry-run")
    assert phibench(*arguments).code == 0
    name = min(weights)
    weights[name].view(-1)[-1] = float("nan")
    save_file(weights, folder / "adapter_model.safetensors")
    assert is_clean(phibench(*arguments), f"1 of its {len(weights)} weights are not finite (NaN or infinity)")
    (folder / "adapter_model.safetensors").write_bytes(b"12345678{}")
    assert is_clean(phibench(*arguments), "cannot be read")


@pytest.mark.parametrize(("status", "says"), [
    (401, "does not accept the token (401)"),
    (403, "may not write there (403)"),
])  # fmt: skip
def test_what_the_hub_refuses(status: int, says: str, kept: Path, hub: Hub, phibench: Command) -> None:
    hub.refuse["/api/repos/create"] = (status, "no")
    ended = phibench("push", kept / "adapter", "--repo", "me/x", "--base", "owner/base")
    assert is_clean(ended, says)
    assert TOKEN not in ended.all


def test_as_a_process_with_the_variables_that_users_set(kept: Path, hub: Hub, tmp_path: Path) -> None:
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "HF_ENDPOINT": hub.address,
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
    }
    command = [sys.executable, "-m", "phibench", "push", str(kept / "run") + ":adapter-nf4"]
    flags = ["--repo", "me/x", "--base", "owner/base", "--private"]
    ended = subprocess.run(
        [*command, *flags], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert hub.repos["me/x"].private
    assert TOKEN not in ended.stdout + ended.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN in path.read_text(errors="replace")]


@pytest.mark.parametrize("what", ["adapter --run run", "run:adapter-nf4"])
def test_an_adapter_with_its_own_tokenizer_is_published_without_torch(what: str, kept: Path, tmp_path: Path) -> None:
    """The card comes from records alone."""
    here = Path(shutil.copytree(kept, tmp_path / "here"))
    for file in (here / "base").glob("tokenizer*"):
        shutil.copy(file, here / "adapter")
    manifest = read_manifest(here / "run")
    edit_manifest(here / "run", suite=manifest.suite | {"adapters": {"summaries": {"path": str(here / "adapter")}}})
    code = (
        "import sys, phibench.cli\n"
        "try:\n    phibench.cli.main()\nexcept SystemExit as end:\n    code = end.code\n"
        "print('ENDED', code, sorted({'torch', 'transformers', 'peft'} & set(sys.modules)), file=sys.stderr)"
    )
    flags = ["--repo", "me/x", "--base", "owner/base", "--dry-run"]
    ended = subprocess.run(
        [sys.executable, "-c", code, "push", *what.split(), *flags],
        cwd=here,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.stderr.splitlines()[-1] == "ENDED 0 []", ended.stderr
