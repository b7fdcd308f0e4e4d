"""`freeprompt methods`, `inversions`, `models` and `sites`: what there is."""

import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freeprompt.cli import show

if TYPE_CHECKING:
    from freeprompt.core.registry import Registry

AsJson = Annotated[bool, typer.Option("--json", help="Print as JSON.")]


def methods(
    name: Annotated[str | None, typer.Argument(help="Show one method and its parameters.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the editing methods, or show one with its parameters."""
    from freeprompt.methods import METHODS

    _list(METHODS, "method", name, as_json)
    if name is not None and not as_json and METHODS[name].needs:
        via = METHODS[name].inversion
        typer.echo(f"It needs {via} inversion: freeprompt inversions {via} shows its parameters.")


def inversions(
    name: Annotated[
        str | None, typer.Argument(help="Show one inversion and its parameters.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the ways in which a real image becomes noise, or show one with its parameters."""
    from freeprompt.inversion import INVERSIONS

    _list(INVERSIONS, "inversion", name, as_json)


def _list(registry: "Registry[Any]", noun: str, name: str | None, as_json: bool) -> None:
    """Print all classes of a registry, or one with its parameters."""
    if name is None:
        rows = [(key, _summary(registry[key])) for key in registry]
        if as_json:
            show.print_json(dict(rows))
        else:
            show.print_table((noun, "what it does"), rows)
        return
    cls = registry[name]
    if as_json:
        show.print_json({noun: name, "parameters": cls.described()})
        return
    typer.echo(inspect.cleandoc(cls.__doc__ or ""))
    if cls.specs():
        show.print_table(
            ("parameter", "default", "allowed", "what it is"),
            [
                (
                    key,
                    str(p["default"]),
                    f"{p['allowed']}, {p['unit']}" if p["unit"] else p["allowed"],
                    f"{p['help']} ({p['source']})",
                )
                for key, p in cls.described().items()
            ],
        )


def models(as_json: AsJson = False) -> None:
    """List the models that can be loaded by name."""
    from freeprompt.models import CATALOG

    if as_json:
        show.print_json(
            {
                name: {
                    "summary": entry.summary,
                    "family": entry.family,
                    "size": entry.size,
                    "steps": entry.steps,
                    "guidance": entry.guidance,
                    "sites": entry.sites,
                    "licence": entry.licence,
                    "source": entry.source if isinstance(entry.source, str) else None,
                    "available_offline": entry.embedded,
                }
                for name, entry in CATALOG.items()
            }
        )
        return
    show.print_table(
        ("model", "family", "pixels", "steps", "guidance", "sites", "licence", "what it is"),
        [
            (
                *(name, e.family, str(e.size), str(e.steps), f"{e.guidance:g}"),
                *(e.sites or "self:below-top", e.licence, e.summary),
            )
            for name, e in CATALOG.items()
        ],
    )
    typer.echo(
        "steps, guidance and sites are the defaults of edits with that model; sites of methods "
        "that share self-attention by the paper's rule, self:below-top."
    )
    typer.echo(
        "A folder in diffusers layout, a single .safetensors file or a Hub id (owner/name) will do "
        "as well."
    )


def sites(
    model: Annotated[str, typer.Argument(help="Catalogue name, folder, file or Hub id.")],
    select: Annotated[
        str, typer.Option(help="A site expression; what it selects is marked.")
    ] = "self:below-top",
    kind: Annotated[str, typer.Option(help="self, cross, feature or all.")] = "self",
    config: Annotated[
        str | None,
        typer.Option(help="Configs for a single file: a folder, or sd1, sd2, sd2-base, sdxl."),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Keep to models downloaded before.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the addresses of a model's attention layers, in execution order."""
    from freeprompt.core import Sites
    from freeprompt.core.sites import KINDS
    from freeprompt.errors import ConfigError
    from freeprompt.models.loading import load_sites

    if kind not in (*KINDS, "all"):
        raise ConfigError(f"--kind must be one of {', '.join(KINDS)}, all; got {kind!r}.")
    known, size = load_sites(model, config=config, offline=offline)
    chosen = set(Sites(select).select(known, model))
    shown = [site for site in known if kind in ("all", site.kind)]
    described = [
        {
            "name": site.name,
            "kind": site.kind,
            "layer": site.index,
            "scale": site.scale,
            "grid": list(site.grid(size, size)),
            "selected": site in chosen,
        }
        for site in shown
    ]
    if as_json:
        show.print_json(described)
        return
    show.print_table(
        ("", "site", "layer", "from the output", "grid"),
        [
            (
                "*" if site in chosen else "",
                site.name,
                str(site.index),
                str(1 + sum(s.kind == site.kind for s in known) - site.index),
                "x".join(map(str, site.grid(size, size))),
            )
            for site in shown
        ],
    )
    typer.echo(f"{len(chosen)} selected by {select!r}, marked *.")


def _summary(cls: type) -> str:
    return inspect.cleandoc(cls.__doc__ or "").partition("\n")[0]
