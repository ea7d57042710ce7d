"""What one synthesis is asked to do, and the digest by which its folder knows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ...errors import UserError
from ...files import sha256_json
from .generator import Sampling
from .kinds import Kind
from .prompts import TEMPLATES
from .results import Manifest
from .seeds import Seeds

# What may differ between two commands in one folder: no request depends on them.
_MAY_DIFFER = {"digest", "calls", "limit", "eval_share", "hardware", "versions"}


@dataclass(frozen=True)
class Settings:
    """What is asked for."""

    kind: Kind
    seeds: Seeds
    calls: int = 30
    per_call: int = 10
    limit: int | None = None
    eval_share: float = 0.1
    seed: int = 0
    sampling: Sampling = field(default_factory=Sampling)

    def manifest(self, identity: dict[str, str], versions: dict[str, str], hardware: dict[str, Any]) -> Manifest:
        """The manifest of these settings.

        Args:
            identity: of whoever answers.
            versions: of packages.
            hardware: what it runs on.
        """
        decisive: dict[str, Any] = {
            "kind": self.kind.name,
            "identity": identity,
            "sampling": asdict(self.sampling),
            "seed": self.seed,
            "per_call": self.per_call,
            "seeds_source": self.seeds.source,
            "seeds_sha256": self.seeds.sha256,
            "seeds_count": len(self.seeds.texts),
            "prompts": TEMPLATES,
        }
        # Where the seeds lie decides nothing.
        digest = sha256_json({key: value for key, value in decisive.items() if key != "seeds_source"})
        return Manifest(
            **decisive,
            digest=digest,
            calls=self.calls,
            limit=self.limit,
            eval_share=self.eval_share,
            versions=versions,
            hardware=hardware,
        )


def refuse_mixing(found: Manifest, asked: Manifest, folder: str) -> None:
    """Refuse to go on in a folder with other settings.

    Raises:
        UserError: when the folder's requests were other requests.
    """
    if found.digest == asked.digest:
        return
    before, now = _flat(found.model_dump()), _flat(asked.model_dump())
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    told = [f"{name}: {_shown(before.get(name))} there, {_shown(now.get(name))} here" for name in names]
    raise UserError(
        f"this folder holds a data set made otherwise ({'; '.join(told)})",
        where=folder,
        fix="give another --out; or give the settings of before to go on with it",
    )


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key in _MAY_DIFFER or key == "seeds_source":
            continue
        if isinstance(value, dict):
            found |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            found[key] = value
    return found


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else text[:21] + "..."
