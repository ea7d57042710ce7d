"""The model card: its metadata parse, its numbers are the run's, and nothing foreign acts in it or leaks."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from jinja2 import Environment, StrictUndefined
from markdown_it import MarkdownIt

from phibench.adapters.merge_record import MergeRecord
from phibench.harness.comparison import compare_run
from phibench.harness.results import AdapterInfo, read_manifest, read_results
from phibench.reports import format as fmt
from phibench.reports import model_card as cards
from phibench.reports.model_card import Subject, gather_evidence, metadata, model_card
from support.run_folder import (
    HOSTILE,
    IMAGE,
    SCRIPT,
    drop_cells,
    edit_cell,
    edit_manifest,
    overlapping,
    write_run_folder,
)

SUBJECT = Subject("me/cited", "owner/base", "owner/base", "LORA", "ab" * 32)
RECORD = MergeRecord(
    phibench_version="0.1.0",
    into="requantized",
    base="base",
    revision=None,
    adapter="adapter",
    method="LORA",
    adapter_sha256="ab" * 32,
    quantization=None,
    device="cpu",
    identity="cd" * 32,
    parts={},
    tensors="0",
    bytes=1,
    files="1",
    versions={"torch": "2.7.0"},
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = write_run_folder(tmp_path / "run", items=30)
    # Markdown that is fit to be read; hostile names have tests of their own.
    edit_manifest(folder, name="summaries", description="")
    return folder


def card(run: Path | None, subject: Subject = SUBJECT, forms: tuple[str, ...] = ("adapter-nf4",)) -> str:
    evidence = None
    if run is not None:
        variants = {one.name: one for one in read_manifest(run).variants}
        evidence = gather_evidence(run, [variants[name] for name in forms], "summaries")
    return model_card(subject, evidence)


def changed(**fields: Any) -> Subject:
    return Subject(**{**vars(SUBJECT), **fields})


# ---- metadata


def test_the_model_index_has_the_headline_scores_of_the_form_that_is_published(run: Path) -> None:
    data = ModelCard(card(run)).data
    assert (data.base_model, data.base_model_relation, data.library_name) == ("owner/base", "adapter", "peft")
    assert (data.tags, data.pipeline_tag, data.model_name) == (["phibench", "lora"], "text-generation", "cited")
    results = read_results(run)
    scores = {
        (task.name, score.metric): score.value
        for task in read_manifest(run).tasks
        for score in results.cell("adapter-nf4", task.name).scores  # type: ignore[union-attr]
        if score.metric in task.headline
    }
    found = {(one.dataset_name, one.metric_type): one.metric_value for one in data.eval_results}
    assert found == scores
    assert len(found) == 4
    (arc,) = (one for one in data.eval_results if one.dataset_name == "arc_easy")
    assert (arc.dataset_type, arc.dataset_args) == ("example/arc_easy", {"num_fewshot": 0, "items": 30})
    assert arc.metric_name == "acc, adapter-nf4"


def test_several_forms_stand_side_by_side(run: Path) -> None:
    data = ModelCard(card(run, forms=("adapter-nf4", "merged"))).data
    names = [one.metric_name for one in data.eval_results if one.dataset_name == "arc_easy"]
    assert names == ["acc, adapter-nf4", "acc, merged"]


def test_a_score_that_is_not_a_number_is_left_out(run: Path) -> None:
    cell = read_results(run).cell("adapter-nf4", "arc_easy")
    assert cell is not None
    scores = [one.model_copy(update={"value": value}) for one, value in zip(cell.scores, [None, 0.5], strict=True)]
    edit_cell(run, "adapter-nf4", "arc_easy", scores=scores)
    assert "arc_easy" not in {one.dataset_name for one in ModelCard(card(run)).data.eval_results}


def test_nothing_is_invented() -> None:
    text = card(None)
    data = ModelCard(text).data
    assert (data.license, data.datasets, data.eval_results, data.language) == (None, None, None, None)
    assert "license" not in text
    assert "published without the results of a run" in text
    assert "How it was trained" not in text


def test_what_is_said_of_licence_data_and_base() -> None:
    data = ModelCard(card(None, changed(license="mit", datasets=("owner/data",), base=None))).data
    assert (data.license, data.datasets, data.base_model) == ("mit", ["owner/data"], None)
    assert "base_model_relation" not in data.to_dict()


def test_a_merged_model_is_transformers_and_not_an_adapter(run: Path) -> None:
    text = card(run, changed(merged=RECORD), forms=("merged",))
    data = ModelCard(text).data
    assert (data.library_name, data.base_model_relation) == ("transformers", "finetune")
    assert data.tags == ["phibench", "lora", "bitsandbytes"]
    assert "AutoModelForCausalLM.from_pretrained" in text
    assert "peft import" not in text
    assert "merged into the base, then quantised again." in text
    assert "`cdcdcdcdcdcd`" in text


# ---- the text


def test_every_difference_has_its_interval_straight_from_the_comparison(run: Path) -> None:
    text = card(run)
    for compared in compare_run(run, examples=0).tasks:
        for metric in compared.metrics:
            for variant, one in metric.differences.items():
                if metric.headline and one.interval is not None:
                    rows = [
                        row for row in text.splitlines() if f"| `{variant}` | {fmt.interval(one.interval)} |" in row
                    ]
                    assert rows, (compared.info.name, variant)


def test_what_the_other_form_loses_against_the_one_that_is_published(run: Path) -> None:
    part = card(run).split("What other forms of it gain and lose")[1].split("##")[0]
    assert "against `adapter-nf4`" in part
    against = compare_run(run, baseline="adapter-nf4", examples=0)
    assert against.manifest.baseline == "adapter-nf4"
    (arc,) = (task for task in against.tasks if task.info.name == "arc_easy")
    interval = arc.metrics[0].differences["merged"].interval
    assert interval is not None
    assert f"| `arc_easy` | `acc` ↑ | `merged` | {fmt.interval(interval)} |" in part
    assert "| `base` |" not in part  # the base is no form of the adapter


def test_one_form_alone_has_no_such_part(run: Path) -> None:
    edit_manifest(run, variants=[one for one in read_manifest(run).variants if one.name != "merged"])
    assert "other forms" not in card(run)


def test_another_adapters_variants_stay_off_the_card(run: Path) -> None:
    manifest = read_manifest(run)
    variants = [v.model_copy(update={"adapter": "another"}) if v.name == "merged" else v for v in manifest.variants]
    edit_manifest(run, variants=variants)
    assert "`merged`" not in card(run)


def test_which_forms_were_measured_and_which_this_is(run: Path) -> None:
    text = card(run)
    assert "| `base` | the base in its own precision | 5.18 GiB |  |" in text
    assert "| `adapter-nf4` | the adapter on the quantised base | 1.70 GiB | yes |" in text
    assert "| `merged` | the adapter merged into the base in its own precision | 5.18 GiB |  |" in text


def test_a_merged_folder_that_was_evaluated_as_a_base(run: Path) -> None:
    manifest = read_manifest(run)
    evidence = gather_evidence(run, [one for one in manifest.variants if one.name == "base"], None)
    text = model_card(changed(merged=RECORD), evidence)
    assert "| `base` | this very folder, evaluated as a base | 5.18 GiB | yes |" in text
    assert "adapter-nf4" not in text


def test_what_was_not_measured_is_said(run: Path) -> None:
    edit_cell(run, "merged", "arc_easy", status="failed", error="/home/me/secret is missing")
    drop_cells(run, lambda cell: (cell.variant, cell.task) != ("adapter-nf4", "wikitext"))
    edit_manifest(run, status="incomplete")
    text = card(run)
    assert "**Not measured**: `merged` on `arc_easy` (failed), `adapter-nf4` on `wikitext` (not run)." in text
    assert "**Incomplete**: the run's status is “incomplete”." in text
    assert "/home/me" not in text


def test_how_to_load_it_as_it_was_measured(run: Path) -> None:
    manifest = read_manifest(run)
    nf4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    parts = {"dtype": "bfloat16"}
    edit_manifest(
        run,
        suite=manifest.suite | {"quantizations": {"nf4": nf4}},
        variants=[one.model_copy(update={"parts": parts}) for one in manifest.variants],
    )
    code = re.search(r"```python\n(.*?)```", card(run), re.DOTALL)
    assert code is not None
    compile(code[1], "card", "exec")
    for piece in (
        'dtype="bfloat16"',
        'bnb_4bit_quant_type="nf4"',
        'bnb_4bit_compute_dtype="bfloat16"',
        "load_in_4bit=True",
        '"me/cited"',
    ):
        assert piece in code[1]


def test_how_to_stop_where_an_adapter_with_its_own_tokenizer_learned_to() -> None:
    """peft loads the base's generation_config.json."""
    told = "model.generation_config.eos_token_id = tokenizer.eos_token_id"
    assert told not in model_card(SUBJECT, None)
    assert told in model_card(replace(SUBJECT, own_tokenizer=True), None)


def test_how_it_was_trained() -> None:
    training = {
        "recipe": {
            "name": "mine",
            "lora": {"r": 16},
            "data": "/home/me/data/rows.jsonl",
            "files": ["~/private/x.jsonl"],
        },
        "sources": [
            {"file": "/home/me/y.jsonl[train]"},
            "from C:\\private\\z.jsonl",
            "owner/data",
            "https://a.example/b/c",
        ],
        "seconds": 100.8,
        "parts": {"base": "not shown"},
        "curve": [{"step": 1, "loss": 3.0, "eval_loss": None}, {"step": 2, "loss": 2.0, "eval_loss": None}],
    }
    text = card(None, changed(training=training))
    for piece in (
        "| `recipe.lora.r` | `16` |",
        "| `recipe.data` | `rows.jsonl` |",
        '`["x.jsonl"]`',
        "`seconds`",
        '"y.jsonl[train]"',
        "owner/data",
    ):
        assert piece in text
    assert "loss 3.000 → 2.000 over steps 1 to 2" in text
    for hidden in ("/home/me", "private", "not shown"):
        assert hidden not in text


def test_what_is_empty_in_a_training_record_stays_off() -> None:
    training = {"rows_special": 0, "rows_special_names": [], "notes": [], "recipe": {"start": None, "lora": {}}}
    text = model_card(changed(training=training), None)
    assert "rows_special" in text
    for hidden in ("rows_special_names", "notes", "recipe", "[]"):
        assert hidden not in text


@pytest.mark.parametrize(("text", "shown"), [
    ("/home/me/a b.jsonl", "a b.jsonl"),
    ("see ~/x/y and ../up/z", "see y and z"),
    ("'/data/x/'", "''"),
    ("C:\\x\\y.txt", "y.txt"),
    ("owner/name:config[train]", "owner/name:config[train]"),
    ("https://a.example/b/c", "https://a.example/b/c"),
    ("1/2 and/or a / b", "1/2 and/or a / b"),
    ("mini/rows.jsonl", "mini/rows.jsonl"),
])  # fmt: skip
def test_paths_lose_their_folders(text: str, shown: str) -> None:
    assert cards._without_folders({"a": [text]}) == {"a": [shown]}


def test_what_is_known_of_contamination(run: Path) -> None:
    manifest = read_manifest(run)
    assert "overlap the tasks' items is not known" in card(run)
    found = overlapping(manifest.adapters[0], "private words")
    named = found.model_copy(update={"name": "summaries"})
    edit_manifest(run, adapters=[named, found.model_copy(update={"name": "another"})])
    text = card(run)
    assert "compared with the items of 1 task; in 1 of them some overlap." in text
    assert text.count("Contamination: ") == 1  # another adapter's stays off
    clean = [one.model_copy(update={"overlapping_items": 0}) for one in named.contamination or []]
    edit_manifest(run, adapters=[named.model_copy(update={"contamination": clean})])
    assert "compared with the items of 1 task; no item overlaps." in card(run)
    assert "row_names" not in text


def test_whose_word_it_is_that_a_base_is_the_hubs(run: Path) -> None:
    said = "The base was measured as `owner/small-model`; that this is `owner/base` is the publisher's word."
    assert said in card(run)
    assert "publisher's word" not in card(run, changed(base="owner/small-model"))


def test_folders_of_the_machine_stay_off_the_card(run: Path) -> None:
    manifest = read_manifest(run)
    edit_manifest(run, warnings=["the template in /home/me/t.jinja is another than in training"])
    info = AdapterInfo(name="summaries", source="/home/me/a", method="LORA", sha256="0", parameters=1)
    tasks = [task.model_copy(update={"dataset": "/home/me/rows.jsonl"}) for task in manifest.tasks]
    edit_manifest(run, model="/home/me/models/phi-2", adapters=[info], tasks=tasks)
    text = card(run, changed(base=None, base_name="/home/me/models/phi-2"))
    assert "/home/me" not in text
    assert "The run warned: the template in t.jinja is another than in training" in text
    assert "`phi-2`" in text


# ---- foreign text


def test_hostile_strings_neither_act_nor_break_the_metadata(run: Path) -> None:
    manifest = read_manifest(run)
    tasks = [task.model_copy(update={"dataset": f"x {SCRIPT}", "version": IMAGE}) for task in manifest.tasks]
    metrics = [task.metrics[0].model_copy(update={"filter": "a|b\n---\n# x"}) for task in tasks]
    tasks = [
        task.model_copy(update={"metrics": [metric, *task.metrics[1:]]})
        for task, metric in zip(tasks, metrics, strict=True)
    ]
    edit_manifest(run, name=f"{SCRIPT} {IMAGE}", model=HOSTILE[4], tasks=tasks, hardware={"processor": HOSTILE[4]})
    training = {"recipe": {HOSTILE[1]: HOSTILE[3], "note": "\n---\n# x"}, SCRIPT: IMAGE}
    subject = changed(training=training, base=None, base_name=HOSTILE[4], method=SCRIPT)
    text = card(run, subject)
    data = ModelCard(text).data
    assert data.model_name == "cited"
    body = text.split("\n---\n", 1)[1]
    rendered = MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(body)
    assert "<script" not in rendered
    assert "<img" not in rendered
    assert "<a " not in rendered
    assert rendered.count("<h1>") == 1
    assert "\n---\n" not in body
    assert not re.search(r"@octocat", body)  # a mention


@pytest.mark.parametrize("said", ["mit\n---\n# x", "{{ 7 * 7 }}", "a: b\n- c", "'\"", "\u202ex"])
def test_what_the_user_says_cannot_break_the_metadata(said: str) -> None:
    one_line = fmt.one_line(said)
    text = card(None, changed(license=one_line, datasets=(one_line,)))
    data = ModelCard(text).data
    assert (data.license, data.datasets) == (one_line, [one_line])
    assert "49" not in text


def test_the_template_is_given_all_that_it_asks_for(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub renders with jinja2's default, which shows nothing for a name that is not there."""
    strict = Environment(undefined=StrictUndefined)
    monkeypatch.setattr("jinja2.Template", strict.from_string)
    for subject in (SUBJECT, changed(training={"recipe": {"name": "x"}, "curve": []})):
        assert card(run, subject)
        assert card(None, subject)


def test_metadata_alone(run: Path) -> None:
    assert metadata(SUBJECT, None).to_dict()["base_model"] == "owner/base"
    assert cards.model_card(SUBJECT, None) == cards.model_card(SUBJECT, None)
