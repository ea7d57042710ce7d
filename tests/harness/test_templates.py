"""Task YAML cannot reach Python through its templates, and says the same as lm-eval's own environment."""

from __future__ import annotations

import pytest
from jinja2.exceptions import SecurityError
from lm_eval import utils

from phibench.harness.templates import templates


@pytest.mark.parametrize(
    "template",
    [
        "{{ question.strip() }} {{ choices | join(', ') }}",
        "{{ question | regex_replace('e', 'a') }}\n",
        "{% for c in choices %}{{ loop.index }}. {{ c }} {% endfor %}",
    ],
)
def test_templates_say_what_lm_eval_says(template: str) -> None:
    doc = {"question": " where? ", "choices": ["here", "there"]}
    expected = utils.apply_template(template, doc)
    with templates():
        assert [utils.apply_template(template, doc) for _ in range(2)] == [expected] * 2
    assert utils.apply_template(template, doc) == expected


def test_templates_cannot_reach_python() -> None:
    attack = "{{ cycler.__init__.__globals__.os.popen('true').read() }}"
    before = utils.env
    with templates(), pytest.raises(SecurityError):
        utils.apply_template(attack, {})
    assert utils.env is before


def test_a_template_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    compiled = []
    real = ImmutableSandboxedEnvironment.from_string
    monkeypatch.setattr(
        ImmutableSandboxedEnvironment, "from_string", lambda self, source: compiled.append(source) or real(self, source)
    )
    with templates():
        for number in range(5):
            utils.apply_template("{{ x }}", {"x": number})
    assert len(compiled) == 1
