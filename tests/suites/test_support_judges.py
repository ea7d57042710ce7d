"""The judges of support: the lexical score against rouge-score, an NLI judge on a tiny model, options."""

from pathlib import Path

import pytest

from phibench.suites.tasks.rouge import rouge_tokens
from phibench.suites.tasks.webglm_qa import support
from phibench.suites.tasks.webglm_qa.support import LexicalJudge, NLIJudge, make_judge

REFERENCE = "Bees carry pollen from flower to flower, and bees make honey."


def test_lexical_score_by_hand() -> None:
    judge = LexicalJudge()
    assert judge.score(REFERENCE, "Bees make honey.") == 1
    assert judge.score(REFERENCE, "Bees make wax.") == pytest.approx(2 / 3)
    assert judge.score(REFERENCE, "Bees, bees, bees!") == pytest.approx(2 / 3)  # the reference has two
    assert judge.score(REFERENCE, "Wasps sting.") == 0
    assert judge.score(REFERENCE, "It was that of the.") == 0  # nothing but stop words
    assert judge.score("", "Bees make honey.") == judge.score(REFERENCE, "") == 0


@pytest.mark.parametrize("stem", [False, True])
def test_lexical_score_is_rouge_1_precision_of_the_content_words(stem: bool) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1"], use_stemmer=stem)
    judge = LexicalJudge(stem=stem, figures=False)
    for statement in ("Carrying honey and wax.", "The bees' flower-pollen, 3 kg of it.", "Wasps sting."):
        content = [
            " ".join(word for word in rouge_tokens(text, stem=False) if word not in support._STOP_WORDS)
            for text in (REFERENCE, statement)
        ]
        expected = scorer.score(*content)["rouge1"].precision
        assert judge.score(REFERENCE, statement) == pytest.approx(expected)


def test_stems_let_forms_of_a_word_match() -> None:
    assert LexicalJudge().score(REFERENCE, "A bee carries flowers.") == 1
    assert LexicalJudge(stem=False).score(REFERENCE, "A bee carries flowers.") == 0


def test_a_figure_that_the_premise_lacks_is_not_supported() -> None:
    premise = "The hive had 20,000 bees and lost 3.5 kg of honey."
    assert LexicalJudge().score(premise, "The hive had 20,000 bees.") == 1
    assert LexicalJudge().score(premise, "The hive had 20000 bees.") > 0
    assert LexicalJudge().score(premise, "The hive had 2,000 bees.") == 0
    assert LexicalJudge().score(premise, "2. The hive lost 3.5 kg of honey.") == 1  # a list number is no figure
    assert LexicalJudge(figures=False).score(premise, "The hive had 2,000 bees.") == pytest.approx(3 / 4)


def test_lexical_threshold_is_reached_not_passed() -> None:
    assert LexicalJudge(0.5).supports("alpha beta", "alpha gamma")
    assert not LexicalJudge(0.51).supports("alpha beta", "alpha gamma")
    assert LexicalJudge(0.5).supports_all([("alpha", "alpha"), ("alpha", "beta")]) == [True, False]


def test_make_judge_takes_options() -> None:
    judge = make_judge({"kind": "lexical", "threshold": 0.7})
    assert isinstance(judge, LexicalJudge)
    assert judge.threshold == 0.7
    default = make_judge({"kind": "lexical"})
    assert isinstance(default, LexicalJudge)
    assert default.threshold == support.DEFAULT_LEXICAL_THRESHOLD


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "kind must be one of lexical, nli; got None"),
        ({"kind": "lexicl"}, "got 'lexicl'"),
        ({"kind": "lexical", "treshold": 0.5}, "no option treshold"),
        (
            {"kind": "lexical", "model": "x"},
            "a lexical judge takes figures, stem, threshold; it has no option model",
        ),
        ({"kind": "lexical", "threshold": 0}, "above 0 and at most 1; got 0"),
        ({"kind": "lexical", "threshold": 1.5}, "got 1.5"),
        ({"kind": "lexical", "threshold": "0.5"}, "got '0.5'"),
        ({"kind": "lexical", "threshold": True}, "got True"),
        ({"kind": "lexical", "stem": "no"}, "stem must be true or false; got 'no'"),
        ({"kind": "nli"}, "needs model"),
        ({"kind": "nli", "model": 3}, "needs model"),
    ],
)
def test_make_judge_names_the_fault(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_judge(options)


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "cats", "dogs", "sleep", "bark", "all", "day", "at", "night"]


def tiny_nli_model(folder: Path, labels: list[str]) -> Path:
    """A BERT of a few thousand weights with a classifier for `labels`, and a tokenizer of twelve words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]").save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=20, id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    torch.nn.init.normal_(model.classifier.weight, std=2.0)  # so that the pairs' probabilities differ
    model.save_pretrained(folder)
    return folder


PAIRS = [
    ("cats sleep all day", "cats sleep"),
    ("dogs bark", "cats bark at night"),
    ("", "cats"),
    ("dogs", " "),
]


def test_nli_judge_takes_the_probability_of_the_entailment_label(tmp_path: Path) -> None:
    labels = ["contradiction", "ENTAILMENT", "neutral"]
    judge = NLIJudge(str(tiny_nli_model(tmp_path, labels)))
    batched = judge.probabilities(PAIRS)
    assert batched[2:] == [0, 0]  # nothing is supported by nothing, and nothing is said by nothing
    single = [judge.probabilities([pair])[0] for pair in PAIRS]
    assert batched == pytest.approx(single, abs=1e-6)
    assert 0 < batched[0] < 1
    reordered = tmp_path / "reordered"
    other = NLIJudge(str(tiny_nli_model(reordered, ["contradiction", "neutral", "entailment"])))
    assert other.probabilities(PAIRS[:1]) != pytest.approx(batched[:1], abs=1e-3)


def test_nli_judge_decides_by_its_threshold_and_in_batches(tmp_path: Path) -> None:
    model = str(tiny_nli_model(tmp_path, ["entailment", "not_entailment"]))
    probability = NLIJudge(model).probabilities(PAIRS[:1])[0]
    assert NLIJudge(model, threshold=probability - 1e-4).supports(*PAIRS[0])
    assert not NLIJudge(model, threshold=probability + 1e-4).supports(*PAIRS[0])
    many = PAIRS * 5
    assert NLIJudge(model, batch_size=3).supports_all(many) == NLIJudge(model, batch_size=64).supports_all(many)


def test_nli_judge_cuts_what_is_too_long(tmp_path: Path) -> None:
    judge = NLIJudge(str(tiny_nli_model(tmp_path, ["entailment", "neutral"])))
    long = "cats sleep all day " * 30
    assert all(0 < p < 1 for p in judge.probabilities([(long, "cats sleep"), (long, long), ("cats", long)]))


def test_nli_judge_refuses_a_model_without_the_label(tmp_path: Path) -> None:
    model = str(tiny_nli_model(tmp_path, ["positive", "negative"]))
    with pytest.raises(ValueError, match=r"no label 'entailment'.*positive, negative"):
        NLIJudge(model)


def test_nli_judge_loads_no_pickled_weights(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    tiny_nli_model(tmp_path, ["entailment", "neutral"])
    weights = tmp_path / "model.safetensors"
    torch.save(load_file(weights), tmp_path / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(OSError, match="safetensors"):
        NLIJudge(str(tmp_path))
