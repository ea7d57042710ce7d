"""The adapters that a run needs: found where they are, trained by their recipes, or drawn as null controls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from ..adapters.adapter_files import AdapterFiles, find_adapter
from ..adapters.base import LoadedBase
from ..adapters.spec import AdapterSpec
from ..errors import UserError
from .contamination import check_contamination
from .progress import RunProgress
from .results import AdapterInfo
from .tasks import BuiltTask

if TYPE_CHECKING:
    from ..adapters.train import Trained


class RunAdapters:
    """Finds a run's adapters.

    Args:
        progress: the terminal.
        device: where they are trained.
        seed: of every training whose adapter has none of its own.
        offline: never ask the hub.

    Attributes:
        found: those that there are, by name.
        infos: the manifest's entries of them.
        untrained: those whose training or drawing failed, and why.
    """

    def __init__(self, progress: RunProgress, device: torch.device, *, seed: int, offline: bool) -> None:
        self._progress = progress
        self._device = device
        self._seed = seed
        self._offline = offline
        self.found: dict[str, AdapterFiles] = {}
        self.infos: list[AdapterInfo] = []
        self.untrained: dict[str, str] = {}

    def find(self, wanted: Mapping[str, AdapterSpec], base: LoadedBase, tasks: list[BuiltTask]) -> None:
        """Find, train or draw adapters.

        A training that fails (a loss that is not finite, data that is not there) keeps no other adapter from its cells.

        Args:
            wanted: by name, with the adapters that nulls among them are nulls of.
            base: what recipes are trained on.
            tasks: whose items are looked for in the rows of a training.

        Raises:
            UserError: for an adapter that is not there, or a recipe with a setting that cannot be.
        """
        self._refuse_settings(wanted)
        for name, spec in sorted(wanted.items(), key=lambda item: item[1].null_of is not None):
            if spec.null_of is not None:
                self._draw(name, spec.null_of, base, spec.seed or 0)
                continue
            if spec.recipe is None:
                self._add(find_adapter(name, spec, offline=self._offline))
                continue
            try:
                seed = self._seed if spec.seed is None else spec.seed
                files, trained = self._train(name, spec.recipe, base, seed)
            except UserError as error:
                self._fail(name, f"could not be trained: {error}", error)
                continue
            with self._progress.bar(f"looking for items in what {name} was trained on", None):
                contamination = check_contamination(trained.texts, tasks)
            info = self._add(files)
            info.seed, info.training, info.contamination = seed, trained.record, contamination
            info.unknown_start = trained.unknown

    def _draw(self, name: str, of: str, base: LoadedBase, seed: int) -> None:
        """Draw a null control, once what it is a null of is there."""
        if of not in self.found:
            self._fail(name, f"is a null of {of}, which is not there", self.untrained[of])
            return
        from ..adapters.null import ensure_null

        try:
            with self._progress.bar(f"drawing {name}", None):
                files = ensure_null(name, self.found[of], base, seed=seed)
        except UserError as error:
            self._fail(name, f"could not be drawn: {error}", error)
            return
        info = self._add(files)
        info.null_of, info.seed = of, seed

    def _fail(self, name: str, what: str, why: object) -> None:
        """Leave an adapter out: its variants are not made, and say what became of it."""
        self.untrained[name] = f"its adapter {name} {what}"
        self._progress.say(f"✗ {name}: {why}", style="red")

    @staticmethod
    def _refuse_settings(wanted: Mapping[str, AdapterSpec]) -> None:
        """Refuse a setting that cannot be before the first recipe is trained."""
        recipes = [spec.recipe for spec in wanted.values() if spec.recipe is not None]
        if recipes:
            from ..adapters.recipe import read_recipe
            from ..adapters.recipe_table import find_recipe
            from ..adapters.settings import refuse_settings

            for recipe in recipes:
                refuse_settings(read_recipe(find_recipe(recipe)))

    def _add(self, files: AdapterFiles) -> AdapterInfo:
        self.found[files.name] = files
        self.infos.append(
            AdapterInfo(
                name=files.name,
                source=files.source,
                method=files.method,
                sha256=files.sha256,
                parameters=files.parameters(),
            )
        )
        return self.infos[-1]

    def _train(self, name: str, recipe: str, base: LoadedBase, seed: int) -> tuple[AdapterFiles, Trained]:
        from ..adapters.train import ensure_trained
        from .training import say_trained, telling

        with telling(self._progress, name) as on_step:
            files, trained = ensure_trained(
                name, recipe, base, self._device, seed=seed, on_step=on_step, offline=self._offline
            )
        say_trained(self._progress, name, trained.record, is_new=trained.is_new)
        return files, trained
