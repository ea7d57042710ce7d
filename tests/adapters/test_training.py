"""What training promises beyond its result: held-out loss, going on after a kill, what is counted, what is trained."""

from __future__ import annotations

import copy
import importlib.util
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from phibench.adapters.adapter_files import TRAINING, read_adapter
from phibench.adapters.base import LoadedBase
from phibench.adapters.checkpoints import COMPLETE, last_checkpoint
from phibench.adapters.encode import encode_rows
from phibench.adapters.finite import refuse_nonfinite
from phibench.adapters.recipe import read_recipe
from phibench.adapters.rows import Rows, read_data
from phibench.adapters.sft import CompletionTrainer
from phibench.adapters.trainers import Job, make_trainer
from phibench.adapters.watch import Step
from phibench.errors import UserError
from support.models import CPU, load, save_base
from support.recipes import RECIPE, ROWS, trained, write

pytestmark = pytest.mark.usefixtures("cache")


def held_out(record: dict[str, Any]) -> dict[int, float]:
    return {point["step"]: point["eval_loss"] for point in record["curve"] if point["eval_loss"] is not None}


# ---- held-out loss


def test_held_out_loss_weighs_every_token_alike(base: LoadedBase, tmp_path: Path) -> None:
    path = write(tmp_path)
    made = trained(path, base)
    losses = held_out(made.record)
    assert list(losses) == [0, 3, 6]
    # By hand: each row by itself, all labelled tokens of all rows in one mean.
    for step, model in ((0, base.model), (6, PeftModel.from_pretrained(load(Path(base.source)).model, made.folder))):
        total, count = 0.0, 0
        for row in ROWS[3:]:
            prompt = f"Instruct: Summarize the following conversation.\n{row['dialogue']}\nOutput:\n"
            start = base.tokenizer(prompt)["input_ids"]
            answer = [*base.tokenizer(row["summary"])["input_ids"], base.tokenizer.eos_token_id]
            with torch.no_grad():
                logits = model.eval()(input_ids=torch.tensor([start + answer])).logits[0]
            chosen = logits.float().log_softmax(-1)[len(start) - 1 : -1]
            total -= float(chosen.gather(1, torch.tensor(answer)[:, None]).sum())
            count += len(answer)
        assert losses[step] == pytest.approx(total / count, rel=1e-4)
    assert losses[6] != pytest.approx(losses[0], rel=1e-3)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_held_out_loss_does_not_depend_on_the_batch_size(size: int, base: LoadedBase, tmp_path: Path) -> None:
    found = trained(write(tmp_path), base, f"training.per_device_eval_batch_size={size}", "training.max_steps=1")
    again = trained(write(tmp_path), base, "training.per_device_eval_batch_size=8", "training.max_steps=1")
    assert held_out(found.record)[0] == pytest.approx(held_out(again.record)[0], rel=1e-6)


def test_nothing_to_learn_among_what_is_held_out_is_no_loss_of_nothing(
    base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CompletionTrainer, "get_eval_dataloader", lambda self, dataset=None: [])
    with pytest.raises(UserError, match="none of the held-out rows has a token to learn"):
        trained(write(tmp_path), base)


def test_the_curve_says_how_fast_and_how_large(base: LoadedBase, tmp_path: Path) -> None:
    told: list[Step] = []
    record = trained(write(tmp_path), base, on_step=told.append).record
    points = [point for point in record["curve"] if point["loss"] is not None]
    assert [point["step"] for point in points] == [1, 2, 3, 4, 5, 6]
    assert all(point["tokens_per_second"] > 0 and point["memory_bytes"] > 2**20 for point in points)
    lengths = [len(row["input_ids"]) for row in encoded(base)]
    assert all(min(lengths) <= point["tokens_per_row"] <= max(lengths) for point in points)
    assert [step.tokens_per_second for step in told] == [point["tokens_per_second"] for point in points]
    assert (record["steps"], record["rows"], record["eval_rows"]) == (6, 4, 3)
    assert record["trainable_parameters"] == 4 * 2 * (64 * 4 * 2) // 2
    assert (record["nonfinite_losses"], record["nonfinite_gradients"], record["resumed_at"]) == (0, 0, None)


def encoded(base: LoadedBase) -> list[dict[str, Any]]:
    rows = Rows("rows", "0", [(row["id"], row) for row in ROWS[:4]])
    return encode_rows(rows, "dialogsum", base.tokenizer, max_length=None, learn_prompts=False).rows


# ---- going on

KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = {paths!r}
from support.models import load
from support.recipes import trained
def on_step(step):
    if step.step == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
trained(Path({path!r}), load(Path({base!r})), on_step=on_step)
"""


@pytest.mark.parametrize(("at", "resumed"), [(5, 4), (1, None)])
def test_a_killed_training_ends_like_one_that_was_not(
    at: int, resumed: int | None, base: LoadedBase, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path)
    tests = str(Path(__file__).resolve().parent.parent)
    script = KILLED.format(paths=[tests, *sys.path], at=at, path=str(path), base=base.source)
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.returncode == -signal.SIGKILL, ran.stderr[-2000:]
    [work] = list(cache.iterdir())
    checkpoint = last_checkpoint(work / "trainer")
    assert (checkpoint is not None) == (resumed is not None)
    kept = 0.0
    if checkpoint is not None:
        mark = json.loads((checkpoint / COMPLETE).read_text())
        assert mark["seconds"] > 0
        kept = 1000.0
        (checkpoint / COMPLETE).write_text(json.dumps({**mark, "seconds": kept}))

    made = trained(path, base)
    assert made.is_new
    assert made.record["resumed_at"] == resumed
    assert resumed is None or made.record["seconds"] > kept  # nobody wrote down when it was killed
    assert [entry.name for entry in cache.iterdir()] == [made.folder.name]
    monkeypatch.setenv("PHIBENCH_CACHE", str(tmp_path / "another"))
    whole = trained(path, base)

    assert losses(made.record) == losses(whole.record)
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (made.folder, whole.folder))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert len({path.stat().st_mode for path in made.folder.iterdir()}) == 1  # safetensors' own is the owner's alone


def losses(record: dict[str, Any]) -> list[Any]:
    return [(point["step"], point["loss"], point["eval_loss"]) for point in record["curve"]]


@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_a_quantised_training_that_was_stopped_ends_like_one_that_was_not(
    dtype: str, base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """peft reads the adapter of a checkpoint in float32, whatever it was trained in."""
    text = RECIPE + '[quantization]\nload_in_4bit = true\nbnb_4bit_quant_type = "nf4"\n'
    path = write(tmp_path, f'trainable_dtype = "{dtype}"\n{text}')

    def stop(step: Step) -> None:
        if step.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(path, base, on_step=stop)
    made = trained(path, base)
    assert made.record["resumed_at"] == 4
    monkeypatch.setenv("PHIBENCH_CACHE", str(tmp_path / "another"))
    whole = trained(path, base)
    assert losses(made.record) == losses(whole.record)
    assert made.record["trainable_dtypes"] == whole.record["trainable_dtypes"]
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (made.folder, whole.folder))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_best_checkpoint_is_what_is_saved_and_told(base: LoadedBase, tmp_path: Path) -> None:
    settings = ["training.load_best_model_at_end=true", "training.eval_steps=2", "training.learning_rate=0.2"]
    made = trained(write(tmp_path), base, *settings)
    found = held_out(made.record)
    best = min((step for step in found if step), key=lambda step: found[step])
    assert made.record["saved_step"] == best
    assert made.record["saved_loss"] == pytest.approx(found[best], rel=1e-5)


def test_an_error_keeps_the_last_checkpoint(base: LoadedBase, cache: Path, tmp_path: Path) -> None:
    def fails(step: Step) -> None:
        if step.step == 5:
            raise torch.OutOfMemoryError("no room")

    path = write(tmp_path)
    with pytest.raises(torch.OutOfMemoryError):
        trained(path, base, on_step=fails)
    assert trained(path, base).record["resumed_at"] == 4


def test_what_was_counted_before_a_stop_is_counted_after_it(base: LoadedBase, tmp_path: Path) -> None:
    def stop(step: Step) -> None:
        if step.step == 5:
            raise KeyboardInterrupt

    path, settings = write(tmp_path), ["training.learning_rate=1e38", "allow_nonfinite=true"]
    with pytest.raises(KeyboardInterrupt):
        trained(path, base, *settings, on_step=stop)
    record = trained(path, base, *settings).record
    assert (record["resumed_at"], record["nonfinite_gradients"]) == (4, 5)
    # A recipe that does not allow it is not given the result of one that does.
    with pytest.raises(UserError, match="a gradient is not finite"):
        trained(path, base, "training.learning_rate=1e38")


def test_another_prompt_or_version_makes_another_adapter(
    base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from phibench.suites.tasks.dialogsum import prompt

    path = write(tmp_path)
    first = trained(path, base, "training.max_steps=1")
    (tmp_path / "again.jsonl").write_bytes((tmp_path / "rows.jsonl").read_bytes())
    assert not trained(path, base, "training.max_steps=1", "data.train.file=again.jsonl").is_new  # the same rows
    assert not trained(path, base, "training.max_steps=1", "training.report_to=none").is_new
    with monkeypatch.context() as patched:
        patched.setattr("phibench.adapters.train.__version__", "another")
        assert trained(path, base, "training.max_steps=1").is_new
    monkeypatch.setattr(prompt, "prompt", lambda dialogue: f"Sum up:\n{dialogue}\n")
    second = trained(path, base, "training.max_steps=1")
    assert second.is_new and second.folder != first.folder


def test_several_processes_are_refused(base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="several processes"):
        trained(write(tmp_path), base)


def test_a_half_written_checkpoint_is_not_gone_on_from(base: LoadedBase, cache: Path, tmp_path: Path) -> None:
    path = write(tmp_path)

    def stop(step: Step) -> None:
        if step.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(path, base, on_step=stop)
    [work] = list(cache.iterdir())
    assert sorted(entry.name for entry in (work / "trainer").glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    (work / "trainer" / "checkpoint-4" / COMPLETE).unlink()
    (work / "trainer" / "checkpoint-4" / "trainer_state.json").write_text("{")
    made = trained(path, base)
    assert made.record["resumed_at"] == 2
    assert made.record["steps"] == 6


def test_two_processes_do_not_train_the_same_thing(base: LoadedBase, tmp_path: Path) -> None:
    path = write(tmp_path)

    def meanwhile(step: Step) -> None:
        with pytest.raises(UserError, match="another process is training this very thing"):
            trained(path, base)

    assert trained(path, base, on_step=meanwhile).is_new
    assert not trained(path, base).is_new


# ---- what is not finite


@pytest.mark.parametrize("allowed", [True, False])
def test_what_is_not_finite_is_counted_and_stops_unless_allowed(
    allowed: bool, base: LoadedBase, cache: Path, tmp_path: Path
) -> None:
    settings = ["training.learning_rate=1e38", f"allow_nonfinite={str(allowed).lower()}"]
    path = write(tmp_path)
    if not allowed:
        with pytest.raises(UserError, match="a gradient is not finite at step 2") as caught:
            trained(path, base, *settings)
        assert "allow_nonfinite" in str(caught.value.fix)
        assert list(cache.iterdir()) == []
        return
    record = trained(path, base, *settings).record
    assert record["nonfinite_gradients"] == 5  # from the second step on
    assert record["nonfinite_losses"] == 5 + 2  # and both evaluations after them


@pytest.mark.parametrize("allowed", [True, False])
def test_a_last_step_that_makes_no_numbers_leaves_nothing(
    allowed: bool, base: LoadedBase, cache: Path, tmp_path: Path
) -> None:
    """No loss is measured after it, so none shows it."""
    settings = ["training.learning_rate=1e38", "training.max_steps=1", "training.warmup_steps=0"]
    text = RECIPE.replace('eval.file = "held.jsonl"\n', "")
    path = write(tmp_path, f"allow_nonfinite = {str(allowed).lower()}\n{text}")
    if not allowed:
        with pytest.raises(UserError, match=r"not finite .* in 8 of 8 tensors, such as .*; nothing is saved"):
            trained(path, base, *settings)
        assert list(cache.iterdir()) == []
        return
    made = trained(path, base, *settings)
    assert (made.record["nonfinite_losses"], made.record["nonfinite_tensors"]) == (0, 8)
    with pytest.raises(UserError, match="8 of its 8 weights are not finite"):
        refuse_nonfinite(read_adapter("a", made.folder, "mine"))


# ---- what is trained


def test_every_weight(base: LoadedBase, tmp_path: Path) -> None:
    text = RECIPE[: RECIPE.index("[lora]")] + RECIPE[RECIPE.index("[training]") :]
    made = trained(write(tmp_path, text), base)
    assert not (made.folder / "adapter_config.json").exists()
    model = AutoModelForCausalLM.from_pretrained(made.folder)
    before = base.model.state_dict()
    moved = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert len(moved) == len(before)
    assert model.config.use_cache
    assert made.record["trainable_parameters"] == sum(p.numel() for p in base.model.parameters())
    assert load(made.folder).tokenizer.eos_token == base.tokenizer.eos_token  # a base of its own


def test_every_weight_is_told_as_it_was_trained_and_saved_as_its_base(base: LoadedBase, tmp_path: Path) -> None:
    text = RECIPE[: RECIPE.index("[lora]")] + RECIPE[RECIPE.index("[training]") :]
    half = load(Path(base.source), dtype="bfloat16")
    made = trained(
        write(tmp_path, text), half, "trainable_dtype=float32", "training.max_steps=1", "training.bf16=false"
    )
    assert made.record["trainable_dtypes"] == ["float32"]
    assert {t.dtype for t in load_file(made.folder / "model.safetensors").values()} == {torch.bfloat16}


def test_what_is_trained_is_held_in_the_precision_asked_for(base: LoadedBase, tmp_path: Path) -> None:
    text = RECIPE + '[quantization]\nload_in_4bit = true\nbnb_4bit_quant_type = "nf4"\n'
    path = write(tmp_path, text)
    assert trained(path, base, "training.max_steps=1").record["trainable_dtypes"] == ["bfloat16"]  # as trl
    made = trained(path, base, "training.max_steps=1", "trainable_dtype=float32")
    assert made.record["trainable_dtypes"] == ["float32"]
    assert {t.dtype for t in load_file(made.folder / "adapter_model.safetensors").values()} == {torch.float32}


def test_what_is_frozen_stays_as_the_base_has_it_and_rows_as_they_are(base: LoadedBase, tmp_path: Path) -> None:
    """peft's prepare_model_for_kbit_training would turn norms, embeddings and head of a 4-bit base into float32."""
    path = write(tmp_path, RECIPE + '[quantization]\nload_in_4bit = true\nbnb_4bit_quant_type = "nf4"\n')
    recipe = read_recipe(path)
    rows, held = read_data(recipe, path, seed=0)
    half = load(Path(base.source), dtype="bfloat16")
    made = make_trainer(Job(recipe, half, CPU, 0, rows, held, None, tmp_path / "scratch"), lambda step: None)
    frozen = [p for p in made.trainer.model.parameters() if not p.requires_grad and p.is_floating_point()]
    assert {p.dtype for p in frozen} == {torch.bfloat16}
    # Padding makes tensors: a collator that lengthens the rows' own lists would pad them anew in every epoch.
    few = copy.deepcopy(made.train.rows[:3])
    batches = [made.trainer.data_collator(few) for _ in range(2)]
    assert few == made.train.rows[:3]
    assert all(torch.equal(batches[0][key], batches[1][key]) for key in batches[0])
    assert batches[0]["labels"].shape[1] == max(len(row["input_ids"]) for row in few)


def test_tokens_are_added_and_saved_with_the_adapter(base: LoadedBase, tmp_path: Path) -> None:
    text = RECIPE.replace('"dialogsum"', '"riddles"') + (
        '[tokenizer]\nadd_tokens = ["<|im_start|>", "<|im_end|>"]\neos_token = "<|im_end|>"\nchat_template = true\n'
    )
    path = write(tmp_path, text.replace("[lora]", '[lora]\nmodules_to_save = ["embed_tokens"]'))
    rows = [{"messages": ["What?", "A door."]}] * 4
    for name in ("rows.jsonl", "held.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = trained(path, base)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(made.folder)
    assert tokenizer.eos_token == "<|im_end|>"
    assert len(tokenizer) == len(base.tokenizer) + 2
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "What?"}], tokenize=False)
    assert asked == "<|im_start|>user\nWhat?<|im_end|>\n"
    assert len(tokenizer("<|im_end|>")["input_ids"]) == 1
    # Added as special: a text that is shown without special tokens has none of the template's.
    assert tokenizer.decode(tokenizer(asked)["input_ids"], skip_special_tokens=True) == "user\nWhat?\n"
    assert made.record["tokens"]["eos"] == "<|im_end|>"
    assert base.tokenizer.eos_token != "<|im_end|>"
    with pytest.raises(UserError, match="the model rows for 272"):
        trained(path, base, f"tokenizer.add_tokens={[f'<{n}>' for n in range(20)] + ['<|im_end|>']}")
    with pytest.raises(UserError, match="is no token"):
        trained(path, base, "tokenizer.pad_token=<NO>")
    path = write(tmp_path, path.read_text())  # rows of dialogues again
    with pytest.raises(UserError, match="has no chat template"):
        trained(path, base, "data.format=dialogsum")


def test_the_rows_of_a_start_are_known_where_a_recipe_makes_it(base: LoadedBase, tmp_path: Path) -> None:
    path = write(tmp_path)
    first = trained(path, base, "training.max_steps=1")
    assert first.unknown is None
    ready = tmp_path / "ready"
    shutil.copytree(first.folder, ready)
    second = tmp_path / "second.toml"
    text = RECIPE[: RECIPE.index("[lora]")] + "[training]\nmax_steps = 1\nmax_length = 128\n"
    for start, unknown, rows in (("./ready", "ready", 4), ("tiny", None, 8)):
        second.write_text(text.replace('name = "tiny"', f'name = "second"\nstart = "{start}"'))
        made = trained(second, base)
        assert (made.unknown, len(made.texts)) == (unknown, rows)
        assert trained(second, base).unknown == unknown  # found again, too


def test_rows_that_hold_their_own_end_need_a_tokenizer_that_ends_so(base: LoadedBase, tmp_path: Path) -> None:
    path = write(tmp_path, RECIPE.replace('"dialogsum"', '"riddles"'))
    for name in ("rows.jsonl", "held.jsonl"):
        (tmp_path / name).write_text(json.dumps({"messages": ["What?", "A door."]}) + "\n")
    with pytest.raises(UserError, match=r"rows of riddles end in <\|im_end\|>") as caught:
        trained(path, base)
    assert 'eos_token = "<|im_end|>", and add_tokens = ' in str(caught.value.fix)
    with pytest.raises(UserError, match="none that stops a text would be learned") as caught:
        trained(path, base, 'tokenizer.add_tokens=["<|im_start|>", "<|im_end|>"]')
    assert caught.value.fix == 'eos_token = "<|im_end|>"'


def test_what_tensorboard_is_told_stays_with_the_result(
    base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = """
from pathlib import Path
class SummaryWriter:
    def __init__(self, log_dir):
        Path(log_dir).mkdir(parents=True)
        self.file = Path(log_dir) / "events"
        self.file.write_text("")
    def add_scalar(self, name, value, step):
        self.file.write_text(self.file.read_text() + f"{step} {name} {value}\\n")
    def add_text(self, *given): pass
    add_hparams = add_text
    def flush(self): pass
    close = flush
"""
    (tmp_path / "tensorboardX.py").write_text(writer)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    made = trained(write(tmp_path), base, "training.report_to=tensorboard")
    (events,) = (made.folder / "runs").rglob("events")
    assert "train/loss" in events.read_text()
    assert not trained(write(tmp_path), base, "training.report_to=tensorboard").is_new


def test_learning_from_all_text(base: LoadedBase, tmp_path: Path) -> None:
    path = write(tmp_path)
    answers = held_out(trained(path, base, "training.max_steps=1").record)
    everything = held_out(trained(path, base, "training.max_steps=1", "training.completion_only_loss=false").record)
    assert answers[0] != pytest.approx(everything[0], rel=1e-3)


def test_an_8_bit_optimizer_is_one(base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """bitsandbytes keeps small tensors' state in 32 bit: only those of 4,096 elements on show it."""
    from phibench.adapters import train as module

    seen: list[set[torch.dtype]] = []
    own = module.make_trainer

    def watched(*args: Any, **options: Any) -> Any:
        made = own(*args, **options)
        step = made.trainer.create_optimizer

        def kept(*inner: Any, **more: Any) -> Any:
            optimizer = step(*inner, **more)
            kept_optimizers.append(optimizer)
            return optimizer

        made.trainer.create_optimizer = kept
        return made

    kept_optimizers: list[Any] = []
    monkeypatch.setattr(module, "make_trainer", watched)
    trained(write(tmp_path), base, "training.optim=paged_adamw_8bit", "lora.r=64", "training.max_steps=1")
    for parameter, state in kept_optimizers[0].state.items():
        assert parameter.numel() >= 4096
        seen.append({state["state1"].dtype, state["state2"].dtype})
    assert seen and all(dtypes == {torch.uint8} for dtypes in seen)


# ---- chains


def test_a_recipe_goes_on_from_anothers_adapter(base: LoadedBase, cache: Path, tmp_path: Path) -> None:
    write(tmp_path)
    text = RECIPE.replace('name = "tiny"', 'name = "more"\nstart = "tiny"')
    text = text[: text.index("[lora]")] + text[text.index("[training]") :]
    (tmp_path / "more.toml").write_text(text)
    made = trained(tmp_path / "more.toml", base)
    first = trained(tmp_path / "tiny.toml", base)
    assert not first.is_new
    assert held_out(made.record)[0] == pytest.approx(held_out(first.record)[6], rel=1e-5)
    assert held_out(made.record)[6] != held_out(made.record)[0]
    assert (first.folder / TRAINING).is_file()
    # The same start by its folder is the same training, wherever the command is given.
    (tmp_path / "more.toml").write_text(text.replace('start = "tiny"', f'start = "{first.folder}"'))
    assert not trained(tmp_path / "more.toml", base).is_new
    (tmp_path / "more.toml").write_text(text.replace('start = "tiny"', 'start = "more"'))
    with pytest.raises(UserError, match="it starts from itself: more > more"):
        trained(tmp_path / "more.toml", base)
    other = load(save_base(tmp_path / "other", "llama", max_position_embeddings=256, num_hidden_layers=1))
    (tmp_path / "more.toml").write_text(text.replace('start = "tiny"', f'start = "{first.folder}"'))
    with pytest.raises(UserError, match="the adapter does not fit this base"):
        trained(tmp_path / "more.toml", other)


def test_settings_of_the_environment_that_report_are_not_taken(
    base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody hears of a training unless the recipe says so."""
    monkeypatch.setenv("WANDB_PROJECT", "secret")
    started = time.perf_counter()
    made = trained(write(tmp_path), base, "training.max_steps=1")
    assert made.record["seconds"] <= time.perf_counter() - started + 0.1
    assert "secret" not in (made.folder / TRAINING).read_text()
    assert not list(tmp_path.glob("wandb*"))


def test_deepspeed_is_asked_for_by_name(base: LoadedBase, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    if importlib.util.find_spec("deepspeed") is not None:
        pytest.skip("DeepSpeed is installed")
    with pytest.raises(UserError, match="needs DeepSpeed") as caught:
        trained(write(tmp_path), base, "training.deepspeed={ zero_optimization = { stage = 2 } }")
    assert "phibench[deepspeed]" in str(caught.value.fix)
