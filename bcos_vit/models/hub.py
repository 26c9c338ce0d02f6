"""Sharing models on the Hugging Face Hub: a folder of ``config.json`` (the spec), ``model.safetensors`` and a card.

What the weights' files know of models is imported where it is needed: the models themselves are built on this mixin.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from bcos_vit.atomic import write_whole
from bcos_vit.checks import reject_unknown
from bcos_vit.claim import claim_folder
from bcos_vit.models.about import not_fine_tuned
from bcos_vit.models.spec import ViTSpec, spec_fields
from bcos_vit.paths import user_path

if TYPE_CHECKING:
    from bcos_vit.models.vit import ViT

WAIT = 30.0  # seconds for another that saves to the same folder
WEIGHTS, CONFIG = "model.safetensors", "config.json"
MARK = "<!-- Written with the weights, and anew with the next: remove this line to keep words of your own. -->"


class HubMixin(ModelHubMixin):
    """``save_pretrained``, ``from_pretrained`` and ``push_to_hub`` of the models.

    The methods and their network are huggingface_hub's; what a model's folder holds is decided here. To
    ``from_pretrained`` fields that change no weight's shape can be given, as to :func:`~bcos_vit.create_model`.
    """

    def save_pretrained(self, save_directory: str | Path, **arguments: Any) -> str | None:
        """Write the model into a folder, which is made if it is not there; ``arguments`` are huggingface_hub's.

        Raises ``OSError`` if it cannot be written to, or another process has been writing to it for half a minute.
        """
        folder = user_path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        with claim_folder(folder, wait=WAIT):
            return super().save_pretrained(folder, **arguments)

    def _save_pretrained(self, save_directory: Path) -> None:
        from bcos_vit.models.weights import save_model

        save_model(self._vit, save_directory / WEIGHTS)
        write_whole(save_directory / CONFIG, json.dumps(dataclasses.asdict(self._vit.spec), indent=2) + "\n")
        card = save_directory / "README.md"
        if card.is_file() and MARK in card.read_text(encoding="utf-8", errors="replace"):
            card.unlink()  # it tells of other weights; the base class writes it where there is none

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        **overrides: Any,
    ) -> Any:
        """The model in a folder of ``save_pretrained``, or in a repository of the Hub.

        Parameters
        ----------
        pretrained_model_name_or_path
            A folder, or ``"user/name"``.
        force_download, token, cache_dir, local_files_only, revision
            As huggingface_hub's ``hf_hub_download`` takes them.
        overrides
            Fields that change no weight's shape, as for :func:`~bcos_vit.create_model`.

        Raises
        ------
        OSError
            If there is no such folder or repository, or it holds no model.
        ValueError
            If ``config.json`` is no spec, or not that of the weights, or the weights cannot be read safely.
        TypeError
            For another override.
        """
        from bcos_vit.models.weights import load_model
        from bcos_vit.models.zoo import ready

        reject_unknown("override", overrides, spec_fields())
        source = str(user_path(pretrained_model_name_or_path))

        def find(name: str) -> Path:
            if Path(source).is_dir():
                return Path(source) / name
            if source.startswith(("/", ".", "~")) or source.count("/") > 1:
                raise FileNotFoundError(f"there is no folder {source}")
            fetched = hf_hub_download(
                source,
                name,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
            return Path(fetched)

        try:
            config = find(CONFIG).read_bytes()
        except (FileNotFoundError, EntryNotFoundError) as error:
            if Path(source).exists() or isinstance(error, EntryNotFoundError):
                raise FileNotFoundError(
                    f"{source} holds no {CONFIG}; create_model reads weights without one"
                ) from error
            raise
        try:
            spec = ViTSpec(**json.loads(config))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"the {CONFIG} of {source} is no spec of a model: {error}") from error
        return ready(load_model(find(WEIGHTS), spec), overrides, source)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """What the model is, what was measured, how it came to be, and how to use it."""
        return ModelCard("\n".join(_card(self._vit)))

    @property
    def _vit(self) -> ViT:
        return cast("ViT", self)  # into which alone it is mixed


def _card(model: ViT) -> Iterator[str]:
    about, licence = model.about, model.about.get("licence")
    kind = "B-cos Vision Transformer" if model.dynamic_linear else "Vision Transformer, the twin of a B-cos one"
    tags = ["b-cos", "interpretability"] if model.dynamic_linear else ["vision transformer"]
    terms = "other" if licence else None
    data = ModelCardData(license=terms, library_name="bcos_vit", pipeline_tag="image-classification", tags=tags)
    yield from ("---", data.to_yaml(), "---", MARK, f"# {about.get('name', kind)}", "", f"A {kind} of bcos_vit.", "")
    yield from ("```python", "import bcos_vit", "", 'model = bcos_vit.ViT.from_pretrained("USER/NAME")')
    yield "print(bcos_vit.predict(model, model.transform(photo)[None]).names)"
    if model.dynamic_linear:
        yield "bcos_vit.explain(model, model.transform(photo)[None]).check().plot()"
    yield from ("```", "", "## Results", "")
    if said := not_fine_tuned(about, model.spec):
        yield from (f"**{said[0].upper()}{said[1:]}.** Train the model before you believe its outputs.", "")
    measured, stated = (dict(_flat(about.get(kind))) for kind in ("results", "stated"))
    if measured:
        yield from ("Measured after training, on the test part; fractions, not percent.", "", *_table(measured))
    if stated:
        yield from ("Accuracy in percent as the source of the weights states it, not measured again.", "")
        yield from _table(stated)
    if not measured and not stated:
        yield "Nothing is known to have been measured with these weights."
    yield from ("", "## What it is", "", *_table(dataclasses.asdict(model.spec)), "")
    if model.class_names is not None:
        more = ", ..." if len(model.class_names) > 10 else ""
        yield from (f"Classes: {', '.join(model.class_names[:10])}{more}", "")
    yield from (
        "## How it came to be",
        "",
        *(f"{name.replace('_', ' ')}: {about[name]}" for name in ("source", "sha256", "derived_from") if name in about),
    )
    if isinstance(recipe := about.get("recipe"), dict):
        yield from ("```json", json.dumps(recipe, indent=2), "```")
    else:
        yield f"Recipe: {recipe or 'not known'}"
    yield from ("", f"Licence: {licence or 'as the owner of these weights says'}")


def _flat(values: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers in nested mappings, by their names."""
    for name, value in values.items() if isinstance(values, Mapping) else ():
        if isinstance(value, int | float):
            yield f"{prefix}{name}", value
        else:
            yield from _flat(value, f"{prefix}{name} ")


def _table(rows: Mapping[str, Any]) -> Iterator[str]:
    yield from ("| | |", "|---|---|")
    for name, value in rows.items():
        yield f"| {name.replace('_', ' ')} | {f'{value:.4g}' if isinstance(value, float) else value} |"
