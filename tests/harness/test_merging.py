"""What `phibench merge` is asked for, by flags or as a run's variant; and what a run measured, found again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from phibench.adapters.adapter_files import TRAINING, read_adapter
from phibench.adapters.merge_record import MergeOrder, MergeRecord
from phibench.adapters.spec import QuantizationSpec
from phibench.errors import UserError
from phibench.harness.measured import find_measured, forms_of_adapter, forms_of_merged, split_reference
from phibench.harness.merging import Said, order_of
from phibench.harness.results import read_manifest
from support.measured import measured_folder
from support.models import NF4_DOUBLE, lora, save_adapter, tiny_model
from support.run_folder import edit_manifest


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, an adapter for it, and a run of both."""
    return measured_folder(tmp_path_factory.mktemp("kept"))


@pytest.fixture
def here(kept: Path, tmp_path: Path) -> Path:
    """A copy to change; its adapter and its run still name the first one's folders."""
    return Path(shutil.copytree(kept, tmp_path / "here"))


def ask(what: Path | str, **said: Any) -> tuple[MergeOrder, list[str]]:
    return order_of(str(what), Said(**said))


# ---- an adapter and flags


def test_the_adapter_names_its_base(kept: Path) -> None:
    order, chosen = ask(kept / "adapter", into="base")
    assert (order.base.model, order.base.dtype, order.quantization) == (str(kept / "base"), "auto", None)
    assert chosen == [f"base: {kept / 'base'}, named by the adapter", "dtype: the base's own"]


def test_what_is_said_goes_before_what_is_named(kept: Path) -> None:
    said = {"base": "owner/other", "revision": "v2", "dtype": "float16", "trust_remote_code": True}
    order, chosen = ask(kept / "adapter", into="base", **said)
    assert order.base.model_dump(include={"model", "revision", "dtype", "trust_remote_code"}) == {
        "model": "owner/other",
        "revision": "v2",
        "dtype": "float16",
        "trust_remote_code": True,
    }
    assert chosen == []


@pytest.mark.parametrize(("named", "says"), [
    (None, "names no base"),
    ("", "names no base"),
    (3, "names no base"),
    ("/gone/models/phi-2", "names a base that is not on this machine: /gone/models/phi-2"),
    ("~/gone", "names a base that is not on this machine: ~/gone"),
])  # fmt: skip
def test_a_base_that_is_not_clear_has_to_be_said(named: object, says: str, here: Path) -> None:
    file = here / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": named}))
    with pytest.raises(UserError, match=says) as caught:
        ask(here / "adapter", into="base")
    assert "--base" in str(caught.value.fix)
    assert ask(here / "adapter", into="base", base="owner/name")[0].base.model == "owner/name"


def test_the_revision_that_it_was_trained_on(here: Path) -> None:
    file = here / "adapter" / "adapter_config.json"
    named = {"base_model_name_or_path": "owner/name", "revision": "abc"}
    file.write_text(json.dumps(json.loads(file.read_text()) | named))
    assert ask(here / "adapter", into="base")[0].base.revision == "abc"
    assert ask(here / "adapter", into="base", revision="def")[0].base.revision == "def"
    assert ask(here / "adapter", into="base", base="owner/other")[0].base.revision is None


QUANTIZED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nothing": ({}, {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}),
    "double": (
        {"double_quant": True},
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    ),
    "fp4": (
        {"quantization": "fp4", "compute_dtype": "bfloat16"},
        {"load_in_4bit": True, "bnb_4bit_compute_dtype": "bfloat16"},
    ),
    "int8": ({"quantization": "int8"}, {"load_in_8bit": True}),
}


@pytest.mark.parametrize("case", QUANTIZED)
@pytest.mark.parametrize("into", ["dequantized", "requantized"])
def test_quantisations(case: str, into: str, kept: Path) -> None:
    said, fields = QUANTIZED[case]
    order, chosen = ask(kept / "adapter", into=into, **said)
    assert order.quantization == QuantizationSpec(**fields)
    assert order.spec.kind == f"merged-{into}"
    if case == "nothing":
        assert "quantisation: nf4 without double quantisation" in chosen


def test_an_adapter_that_was_trained_here_says_its_quantisation(here: Path) -> None:
    trained = {"recipe": {"quantization": NF4_DOUBLE.model_dump()}}
    (here / "adapter" / TRAINING).write_text(json.dumps(trained))
    order, chosen = ask(here / "adapter", into="dequantized")
    assert order.quantization == NF4_DOUBLE
    assert "quantisation: the one that the adapter was trained on" in chosen
    assert ask(here / "adapter", into="dequantized", quantization="int8")[0].quantization != NF4_DOUBLE
    (here / "adapter" / TRAINING).write_text("{")
    assert ask(here / "adapter", into="dequantized")[0].quantization != NF4_DOUBLE


@pytest.mark.parametrize(("said", "says"), [
    ({}, "what it is to be merged into is not said"),
    ({"into": "base", "quantization": "nf4"}, "quantises nothing"),
    ({"into": "base", "double_quant": False}, "quantises nothing"),
    ({"into": "requantized", "quantization": "int8", "double_quant": True}, "belongs to 4-bit"),
])  # fmt: skip
def test_contradictions(said: dict[str, Any], says: str, kept: Path) -> None:
    with pytest.raises(UserError, match=says):
        ask(kept / "adapter", **said)


@pytest.mark.parametrize(
    ("what", "says"),
    [("base", "a whole model, not an adapter"), ("gone/", "no such folder"), ("/gone", "no such folder")],
)
def test_what_is_no_adapter(what: str, says: str, kept: Path) -> None:
    with pytest.raises(UserError, match=says):
        ask(f"{kept}/{what}", into="base")


# ---- a run's variant


@pytest.mark.parametrize(("text", "found"), [
    ("runs/x:merged", (Path("runs/x"), "merged")),
    ("/a:b/run:mine.merged", (Path("/a:b/run"), "mine.merged")),
    ("owner/name", None),
    ("./folder", None),
])  # fmt: skip
def test_references(text: str, found: object) -> None:
    assert split_reference(text) == found


def test_a_folder_with_a_colon_in_its_name_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    assert split_reference(str(tmp_path / "a:b")) is None


def test_a_runs_variant_says_everything(kept: Path) -> None:
    order, chosen = ask(f"{kept / 'run'}:merged")
    (variant,) = (one for one in read_manifest(kept / "run").variants if one.name == "merged")
    assert (order.into, order.base.model, order.measured) == ("base", str(kept / "base"), variant.parts)
    assert (order.device, chosen) == ("cpu", [])
    assert ask(f"{kept / 'run'}:merged", into="base")[0] == order


@pytest.mark.parametrize(("said", "flag"), [
    ({"base": "owner/name"}, "--base"),
    ({"into": "requantized"}, "--into"),
    ({"quantization": "nf4"}, "--quantization"),
    ({"double_quant": False}, "--double-quant"),
])  # fmt: skip
def test_the_run_is_not_contradicted(said: dict[str, Any], flag: str, kept: Path) -> None:
    with pytest.raises(UserError, match="the run says that already") as caught:
        ask(f"{kept / 'run'}:merged", **said)
    assert caught.value.where == flag


@pytest.mark.parametrize(("name", "says", "fix"), [
    ("merge", "no variant of this name", 'did you mean "merged"?'),
    ("qzxwvk", "no variant of this name", "it has: base, adapter-nf4, merged"),
    ("base", "the base, without an adapter", "name one of: adapter-nf4, merged"),
    ("adapter-nf4", "not merged: it is adapter-nf4", "name one of: merged"),
])  # fmt: skip
def test_variants_that_cannot_be_merged(name: str, says: str, fix: str, kept: Path) -> None:
    with pytest.raises(UserError, match=says) as caught:
        ask(f"{kept / 'run'}:{name}")
    assert caught.value.fix == fix


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run folder"):
        ask(f"{tmp_path}:merged")


def test_an_adapter_that_changed_since_is_refused(here: Path) -> None:
    """Its results belong to what it was."""
    manifest = read_manifest(here / "run")
    suite = manifest.suite | {"adapters": {"summaries": {"path": str(here / "adapter")}}}
    edit_manifest(here / "run", suite=suite)
    assert ask(f"{here / 'run'}:merged")[0].adapter.folder == here / "adapter"
    save_adapter(tiny_model(), here / "adapter", lora(), seed=7)
    with pytest.raises(UserError, match="not the one that was measured"):
        ask(f"{here / 'run'}:merged")


def test_a_trained_adapter_is_found_in_the_cache_by_its_hash(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = here / "cache"
    monkeypatch.setenv("PHIBENCH_CACHE", str(cache))
    manifest = read_manifest(here / "run")
    edit_manifest(here / "run", suite=manifest.suite | {"adapters": {"summaries": {"recipe": "webglm-mini"}}})
    with pytest.raises(UserError, match="no longer in the cache"):
        find_measured(here / "run", "merged")
    save_adapter(tiny_model(), cache / "adapters" / "a-other", lora(), seed=7)
    (cache / "adapters" / "b-broken").mkdir()
    (cache / "adapters" / "b-broken" / "adapter_config.json").write_text("{")
    shutil.copytree(here / "adapter", cache / "adapters" / "c-this")
    assert find_measured(here / "run", "merged").adapter.folder == cache / "adapters" / "c-this"


def test_code_of_a_base_runs_only_where_it_is_asked_for_here(here: Path) -> None:
    """The run folder may come from somebody else."""
    manifest = read_manifest(here / "run")
    edit_manifest(here / "run", suite=manifest.suite | {"base": manifest.suite["base"] | {"trust_remote_code": True}})
    with pytest.raises(UserError, match="runs code of its own, which is off") as caught:
        ask(f"{here / 'run'}:merged")
    assert "--trust-remote-code" in str(caught.value.fix)
    assert ask(f"{here / 'run'}:merged", trust_remote_code=True)[0].base.trust_remote_code


def test_a_manifest_that_does_not_hold_its_suite(here: Path) -> None:
    edit_manifest(here / "run", suite={"name": "x"})
    with pytest.raises(UserError, match=r"the suite in manifest\.json cannot be read"):
        find_measured(here / "run", "merged")


# ---- which variants a thing is


def test_the_variants_of_an_adapter_are_known_by_what_it_holds(here: Path) -> None:
    manifest = read_manifest(here / "run")
    found = read_adapter("another-name", here / "adapter", "anywhere")
    assert [one.name for one in forms_of_adapter(manifest, found.sha256)] == ["adapter-nf4"]
    assert forms_of_adapter(manifest, "0" * 64) == []


def test_the_variants_of_a_merged_model_are_made_of_the_same_things_or_of_its_folder(here: Path) -> None:
    manifest = read_manifest(here / "run")
    (variant,) = (one for one in manifest.variants if one.name == "merged")
    record = MergeRecord(
        phibench_version="0",
        into="base",
        base="base",
        revision=None,
        adapter="adapter",
        method="LORA",
        adapter_sha256="0",
        quantization=None,
        device="cpu",
        identity="0",
        parts=variant.parts | {"version:torch": "another"},
        tensors="0",
        bytes=1,
        files="1" * 64,
        versions={},
    )
    assert [one.name for one in forms_of_merged(manifest, record)] == ["merged"]
    other = record.model_copy(update={"parts": variant.parts | {"merge": "dequantized"}})
    assert forms_of_merged(manifest, other) == []
    as_base = manifest.variants[0].model_copy(update={"parts": manifest.variants[0].parts | {"base": record.files}})
    evaluated = manifest.model_copy(update={"variants": [as_base]})
    assert [one.name for one in forms_of_merged(evaluated, other)] == ["base"]
