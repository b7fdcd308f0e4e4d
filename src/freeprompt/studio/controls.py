"""Controls for parameters, made from the fields of the dataclasses that hold them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from freeprompt.api.defaults import own_layers
from freeprompt.core.params import Parameters, Spec
from freeprompt.core.registry import Registry
from freeprompt.models.defaults import Defaults


def control(owner: type[Parameters], name: str, spec: Spec, default: Any) -> Any:
    """Return a component for one parameter: its range, unit and help are those of the field.

    Args:
        owner: Whose parameter it is.
        name: Its name.
        spec: What is known of it.
        default: Its default, as a JSON type.
    """
    label = f"{name} ({spec.unit})" if spec.unit and spec.unit != "share" else name
    plain = {"label": label, "info": spec.help, "elem_id": f"{owner.__name__}-{name}"}
    if isinstance(default, bool):
        return gr.Checkbox(default, **plain)
    if spec.choices:
        return gr.Dropdown(list(spec.choices), value=default, **plain)
    if isinstance(default, str):
        return gr.Textbox(default, lines=1, **plain)
    if spec.low is not None and spec.high is not None:
        whole = isinstance(default, int)
        step = 1 if whole else 0.01
        return gr.Slider(spec.low, spec.high, value=default, step=step, **plain)
    least = {} if spec.low is None else {"minimum": spec.low}
    return gr.Number(default, precision=0 if isinstance(default, int) else None, **least, **plain)


@dataclass(frozen=True)
class Panel:
    """The controls of every member of a registry, one group of which is seen.

    Attributes:
        groups: Group of controls by name of the member.
        fields: (member, parameter) of every control, in the order of `components`.
        components: The controls.
        defaults: Default of every control.
    """

    groups: Mapping[str, Any]
    fields: tuple[tuple[str, str], ...]
    components: tuple[Any, ...]
    defaults: tuple[Any, ...]

    def given(self, member: str, values: Iterable[Any]) -> dict[str, Any]:
        """Return a member's parameters that differ from their defaults."""
        rows = zip(self.fields, values, self.defaults, strict=True)
        return {
            name: value
            for (owner, name), value, default in rows
            if owner == member and value is not None and value != default
        }

    def shown(self, member: str) -> list[Any]:
        """Return the update of every group that shows one member's."""
        return [gr.update(visible=name == member) for name in self.groups]


def panel(registry: Registry[Any], shown: str, usual: Defaults | None = None) -> Panel:
    """Make the controls of all members of a registry, those of `shown` visible.

    Args:
        registry: Methods or inversions.
        shown: Name of the member that is visible.
        usual: What suits the model; its layers stand in the place of the methods' own.
    """
    groups, fields, components, defaults = {}, [], [], []
    for member, owner in registry.items():
        values = owner().to_dict() | own_layers(usual, member, {})
        with gr.Group(visible=member == shown) as groups[member]:
            for name, spec in owner.specs().items():
                fields.append((member, name))
                components.append(control(owner, name, spec, values[name]))
                defaults.append(values[name])
            if not values:
                gr.Markdown(f"*{member}* has no parameters.")
    return Panel(groups, tuple(fields), tuple(components), tuple(defaults))
