"""Every configuration key with type, default, bounds and meaning, read from the models themselves."""

import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types as at
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rex_rl.config.schema import ShownType

_NAMES = {int: "int", float: "float", str: "str", bool: "bool", dict: "mapping", Path: "path"}


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyDoc:
    """One key, as text.

    `KeyDoc(key="grpo.group_size", type="int", default="8", bounds="2 to 1024", meaning="Answers a prompt ..")`
    """

    key: str
    """Dotted, as an override names it."""
    type: str
    default: str
    """As YAML; `required` where there is none."""
    bounds: str
    """Empty where the type says it all."""
    meaning: str


def key_docs(section: type[BaseModel], prefix: str = "") -> Iterator[KeyDoc]:
    """Every key of a section and of those inside it, in the order of the code."""
    for name, field in section.model_fields.items():
        key = prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from key_docs(field.annotation, f"{key}.")
            continue
        yield KeyDoc(
            key=key,
            type=_type_text(field.annotation, field.metadata),
            default="required" if field.is_required() else yaml_text(field.get_default(call_default_factory=True)),
            bounds=_bounds_text(_metadata(field.annotation, field.metadata)),
            meaning=" ".join((field.description or "").split()),
        )


def yaml_text(value: object) -> str:
    """A value on one line, as YAML.

    >>> yaml_text(("sft", "grpo")), yaml_text(None), yaml_text(True), yaml_text(1e-6)
    ('[sft, grpo]', 'null', 'true', '1e-06')
    """
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case list() | tuple():
            return "[" + ", ".join(yaml_text(item) for item in value) + "]"
        case dict():
            return "{" + ", ".join(f"{key}: {yaml_text(item)}" for key, item in value.items()) + "}"
        case _:
            return str(value)


def _type_text(annotation: Any, metadata: Iterable[object] = ()) -> str:
    """Python's annotation in the words of a YAML file.

    >>> _type_text(tuple[Literal["sft", "grpo"], ...]), _type_text(float | None)
    ('list of sft | grpo', 'float or null')
    """
    for item in metadata:
        if isinstance(item, ShownType):
            return item.text
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_text(args[0], args[1:])
    if origin is Literal:
        return " | ".join(str(arg) for arg in args)
    if origin is tuple:
        return f"list of {_type_text(args[0])}"
    if origin in (Union, types.UnionType):
        return " or ".join("null" if arg is type(None) else _type_text(arg) for arg in args)
    return _NAMES.get(origin or annotation, str(annotation))


def _metadata(annotation: Any, metadata: Iterable[object]) -> Iterator[object]:
    """The constraints of a field, those inside `X | None` included."""
    for item in metadata:
        if isinstance(item, FieldInfo):
            yield from item.metadata
        else:
            yield item
    if get_origin(annotation) in (Union, types.UnionType):
        for arg in get_args(annotation):
            if get_origin(arg) is Annotated:
                yield from _metadata(None, arg.__metadata__)


def _bounds_text(metadata: Iterable[object]) -> str:
    """Constraints in words.

    >>> _bounds_text([at.Ge(0), at.Le(1)]), _bounds_text([at.Gt(0)]), _bounds_text([at.Ge(32), at.MultipleOf(32)])
    ('0 to 1', '> 0', '>= 32, a multiple of 32')
    """
    low, high, rest = "", "", []
    for item in metadata:
        match item:
            case at.Ge(ge=bound):
                low = f">= {bound}"
            case at.Gt(gt=bound):
                low = f"> {bound}"
            case at.Le(le=bound):
                high = f"<= {bound}"
            case at.Lt(lt=bound):
                high = f"< {bound}"
            case at.MultipleOf(multiple_of=step):
                rest.append(f"a multiple of {step}")
            case at.MinLen(min_length=1):
                rest.append("not empty")
            case _ if pattern := getattr(item, "pattern", None):
                rest.append(f"matches {pattern}")
    if low.startswith(">= ") and high.startswith("<= "):
        return ", ".join([f"{low[3:]} to {high[3:]}", *rest])
    return ", ".join(text for text in (low, high, *rest) if text)
