"""Publishing a model to a hub: which files go, and one commit through huggingface_hub; needs no torch.

Only files on the lists below ever leave the machine: no optimizer states, checkpoints, logs or pickles.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .. import __version__
from ..errors import UserError
from .adapter_files import CONFIG, TOKENIZER, WEIGHTS, AdapterFiles
from .bundled import NAME as BUNDLED
from .merge_record import RECORD
from .spec import is_local

CARD = "README.md"
_MODEL = ("config.json", "generation_config.json", "model.safetensors", "model.safetensors.index.json", RECORD)
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")


@dataclass(frozen=True)
class PublishedFile:
    """A file as it is published: its name there, and where its bytes come from."""

    name: str
    content: Path | bytes

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size


@dataclass(frozen=True)
class Target:
    """Where it goes."""

    repo: str
    private: bool = False
    revision: str | None = None
    create_pr: bool = False
    message: str = ""


def adapter_files(adapter: AdapterFiles, base: str | None, tokenizer: Path) -> list[PublishedFile]:
    """What is published of an adapter: weights, configuration and the tokenizer.

    Args:
        adapter: the adapter.
        base: the hub id to name as its base; None leaves what its configuration names.
        tokenizer: the folder of the tokenizer it was measured with: its own, or its base's.

    Raises:
        UserError: when its weights are a pickle, or its configuration names a base that nobody else has.
    """
    where = f"{adapter.source}/{CONFIG}"
    if adapter.weights.name != WEIGHTS:
        raise UserError("pickled weights are not published", where=where, fix="save the adapter again as safetensors")
    named = adapter.config.get("base_model_name_or_path")
    if base is None and not (isinstance(named, str) and is_hub_id(named)):
        raise UserError(
            f"nobody else could load it: it names {json.dumps(named)} as its base",
            where=where,
            fix="give the base's hub id with --base; the published copy of the file then names it",
        )
    config: Path | bytes = adapter.folder / CONFIG
    if base is not None and base != named:
        config = (json.dumps({**adapter.config, "base_model_name_or_path": base}, indent=2) + "\n").encode()
    return [PublishedFile(CONFIG, config), PublishedFile(WEIGHTS, adapter.weights), *_named(tokenizer, TOKENIZER)]


def model_files(folder: Path) -> list[PublishedFile]:
    """What is published of a folder that `phibench merge` wrote.

    Raises:
        UserError: when it has no safetensors weights, or does not load without code of its own.
    """
    if code := sorted(path.name for path in folder.glob("*.py")):
        raise UserError(
            f"this model needs code of its own ({', '.join(code)}), and code is not published",
            where=str(folder),
            fix="publish the adapter instead; or upload this folder yourself, once you have read that code",
        )
    shards = sorted(path.name for path in folder.iterdir() if _SHARD.fullmatch(path.name))
    files = _named(folder, (*_MODEL, *shards, *TOKENIZER))
    if not any(file.name.endswith(".safetensors") for file in files):
        raise UserError("the folder has no safetensors weights", where=str(folder), fix="merge the adapter again")
    return files


def is_hub_id(name: str) -> bool:
    """Whether a model's name is a hub's: of its form, no folder here, and not the bundled model's."""
    return _has_form_of_id(name) and not is_local(name) and name != BUNDLED


def check_target(target: Target) -> None:
    """Refuse a repository's name that no hub has.

    Raises:
        UserError: when it is not of the form OWNER/NAME.
    """
    if target.repo.count("/") != 1 or not _has_form_of_id(target.repo):
        raise UserError(
            f"this is no repository's id: {json.dumps(target.repo)}",
            where="--repo",
            fix="give OWNER/NAME, of letters, digits and . _ - only, such as --repo me/phi-2-cited",
        )


def push(target: Target, files: list[PublishedFile], *, endpoint: str | None = None) -> str:
    """Make the repository if it is not there, and commit all files to it at once.

    The token is huggingface_hub's own: `HF_TOKEN`, or what `hf auth login` keeps. It is neither shown nor stored.

    Args:
        target: the repository.
        files: what to publish.
        endpoint: the hub; by default `HF_ENDPOINT`, or huggingface.co.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        UserError: when there is no token, or the hub refuses it, cannot be reached, or would show what is to be
            private.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    check_target(target)
    token = get_token()
    if not token:
        raise _no_token("no token was found")
    api = HfApi(endpoint=endpoint, token=token, library_name="phibench", library_version=__version__)
    with _told(target, token):
        if not target.create_pr:  # a pull request goes to a repository that is there, as a rule another's
            api.create_repo(target.repo, private=True if target.private else None, exist_ok=True)
        if target.private and not api.model_info(target.repo).private:
            raise UserError(
                "this repository is there already, and everybody can see it; nothing was uploaded",
                where=f"--repo {target.repo}",
                fix="make it private in its settings, give another one, or leave out --private",
            )
        operations = [
            CommitOperationAdd(file.name, file.content if isinstance(file.content, bytes) else str(file.content))
            for file in files
        ]
        done = api.create_commit(
            target.repo,
            operations,
            commit_message=target.message or f"Upload with phibench {__version__}",
            revision=target.revision,
            create_pr=target.create_pr,
        )
    return str(done.pr_url or done.commit_url)


def _has_form_of_id(name: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _named(folder: Path, names: tuple[str, ...]) -> list[PublishedFile]:
    return [PublishedFile(name, folder / name) for name in names if (folder / name).is_file()]


def _no_token(what: str) -> UserError:
    return UserError(
        what,
        where="the hub's token",
        fix="log in with `hf auth login`, or set HF_TOKEN to a token that may write (huggingface.co/settings/tokens)",
    )


@contextmanager
def _told(target: Target, token: str) -> Iterator[None]:
    """Turn what the hub or the network says into the user's error that it is; the token stays out of it."""
    from huggingface_hub import errors

    transport: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]  # of the HTTP library that it uses
    where = f"--repo {target.repo}"
    try:
        yield
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        said = _said(str(error.server_message or error), token)
        if status == 401:
            raise _no_token(f"the hub does not accept the token (401): {said}") from None
        if status == 403:
            raise UserError(
                f"this token may not write there (403): {said}",
                where=where,
                fix="give a repository of your own or of your organisation, or a token that may write; or --create-pr",
            ) from None
        if status == 404:
            missing = "this branch" if isinstance(error, errors.RevisionNotFoundError) else "this repository"
            raise UserError(
                f"the hub has not got {missing}, or does not show it (404): {said}",
                where=where,
                fix="check --repo and --revision, and that the token may see it",
            ) from None
        fix = "check what it says; if it is the hub's fault, run the same command later"
        raise UserError(f"the hub refuses it ({status}): {said}", where=where, fix=fix) from None
    except (transport, errors.OfflineModeIsEnabled, ConnectionError, TimeoutError) as error:
        raise UserError(
            f"the hub cannot be reached: {_said(str(error), token) or type(error).__name__}",
            where=where,
            fix="check the network, HF_ENDPOINT and HF_HUB_OFFLINE, then run the same command again",
        ) from None
    except ValueError as error:  # huggingface_hub's own checks: the card's metadata, a revision beside create_pr
        raise UserError(_said(str(error), token), where=where) from None


def _said(text: str, token: str) -> str:
    lines = [line.strip() for line in text.replace(token, "***").splitlines() if line.strip()]
    return " ".join(lines)[:300]
