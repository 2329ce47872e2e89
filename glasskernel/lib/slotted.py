"""@slotted: the classes of kernel objects. Slots, a generated __init__, and nothing else.

    @slotted
    class Completion:
        wait: WaitQueueHead
        done: int = 0
        comm: list[bytes] = field(default_factory=list)

An object is itself (identity comparison and hash), as a struct in C is its address. `frozen=True` is for operations
tables, which nobody may change. Why not @dataclass: a boot needs about two hundred of these classes, and the standard
decorator spends 0.3 ms on each, a third of the time to the first user instruction. Here, a class's __init__ is
compiled (0.1 to 1 ms) once the class has so many objects that it pays. Values (compared field by field, printed) stay
dataclasses.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast, dataclass_transform, overload

T = TypeVar("T")

_NO_DEFAULT: Any = object()
FEW = 64                            # objects of a class before its __init__ is compiled
FIELDS = "__slotted_fields__"       # name -> default, _Factory or _NO_DEFAULT, those of the bases first


class _Factory:
    __slots__ = ("make",)

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make


def field(*, default_factory: Callable[[], T]) -> T:
    """A field whose default is made anew for each object."""
    return cast(T, _Factory(default_factory))


@overload
def slotted(cls: type[T], /) -> type[T]: ...
@overload
def slotted(*, frozen: bool = False) -> Callable[[type[T]], type[T]]: ...


@dataclass_transform(eq_default=False, field_specifiers=(field,))
def slotted(cls: type[T] | None = None, /, *, frozen: bool = False) -> type[T] | Callable[[type[T]], type[T]]:
    """Turns a class of annotated fields into one with __slots__ and an __init__ that takes them in order."""
    if cls is None:
        return lambda decorated: _build(decorated, frozen)
    return _build(cls, frozen)


def _build(cls: type[T], frozen: bool) -> type[T]:
    body = dict(cls.__dict__)
    own = [name for name, kind in body.get("__annotations__", {}).items() if not str(kind).startswith("ClassVar")]
    fields: dict[str, Any] = {}
    inherited: set[str] = set()
    for base in reversed(cls.__mro__[1:]):
        known = base.__dict__.get(FIELDS, {})
        fields.update(known)
        inherited.update(known)
    for name in own:
        fields[name] = body.pop(name, _NO_DEFAULT)
    body.pop("__dict__", None)
    body.pop("__weakref__", None)
    body["__slots__"] = tuple(name for name in own if name not in inherited)
    body[FIELDS] = fields
    if frozen:
        body["__setattr__"] = body["__delattr__"] = _refuse_change
    made: Any = type(cls.__name__, cls.__bases__, body)
    assert "__post_init__" not in body, f"{cls.__name__}: only dataclasses call that"
    if "__init__" not in body:
        made.__init__ = _init_of_the_first(made, fields, frozen)
    return cast(type[T], made)


def _init_of_the_first(cls: type, fields: dict[str, Any], frozen: bool) -> Callable[..., None]:
    """What sets up the first objects of a class: slower, but nothing to compile. Many classes have one object only."""
    count = 0
    items = list(fields.items())
    set_field = object.__setattr__ if frozen else setattr

    def __init__(self: object, /, *arguments: Any, **named: Any) -> None:
        nonlocal count
        count += 1
        if count <= FEW and len(arguments) <= len(items):
            for (name, _), value in zip(items, arguments, strict=False):
                set_field(self, name, value)
            used = 0
            for name, default in items[len(arguments) :]:
                if name in named:
                    set_field(self, name, named[name])
                    used += 1
                elif type(default) is _Factory:
                    set_field(self, name, default.make())
                elif default is _NO_DEFAULT:
                    break
                else:
                    set_field(self, name, default)
            else:
                if used == len(named):
                    return
        cls.__init__ = _init_function(cls, fields, frozen)          # type: ignore[misc]
        cls.__init__(self, *arguments, **named)                     # type: ignore[misc]

    return __init__


def _init_function(cls: type, fields: dict[str, Any], frozen: bool) -> Callable[..., None]:
    scope: dict[str, Any] = {"NO_DEFAULT": _NO_DEFAULT, "set_field": object.__setattr__}
    parameters, lines = ["self"], []
    for number, (name, default) in enumerate(fields.items()):
        value = name
        if default is _NO_DEFAULT:
            parameters.append(name)
        elif isinstance(default, _Factory):
            scope[f"make_{number}"] = default.make
            parameters.append(f"{name}=NO_DEFAULT")
            value = f"make_{number}() if {name} is NO_DEFAULT else {name}"
        else:
            scope[f"default_{number}"] = default
            parameters.append(f"{name}=default_{number}")
        lines.append(f"    set_field(self, {name!r}, {value})" if frozen else f"    self.{name} = {value}")
    exec(f"def __init__({', '.join(parameters)}):\n" + ("\n".join(lines) or "    pass"), scope)
    init: Callable[..., None] = scope["__init__"]
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    return init


def copy_fields(old: object, new: object) -> None:
    """What the assignment of a struct copies: every field but those that are made anew for each object."""
    for name, default in getattr(type(new), FIELDS).items():
        if type(default) is not _Factory:
            setattr(new, name, getattr(old, name))


def _refuse_change(self: object, name: str, value: object = None) -> None:
    raise AttributeError(f"{type(self).__name__}.{name}: a frozen object does not change")
