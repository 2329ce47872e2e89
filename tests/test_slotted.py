"""@slotted (lib/slotted.py): what the classes of kernel objects promise, before and after their __init__ is compiled."""

from __future__ import annotations

import pytest

from glasskernel.lib.slotted import FEW, field, slotted


def make_classes() -> tuple[type, type]:
    @slotted
    class Base:
        first: int
        names: list[str] = field(default_factory=list)

    @slotted
    class Derived(Base):
        last: int = 7

    return Base, Derived


@pytest.mark.parametrize("made_before", [0, FEW, FEW + 3])
def test_arguments_are_taken_in_order_by_name_or_by_default(made_before: int) -> None:
    _base, derived = make_classes()
    for _ in range(made_before):
        derived(0)
    one, other = derived(1), derived(2, ["x"], last=9)
    assert (one.first, one.names, one.last) == (1, [], 7)
    assert (other.first, other.names, other.last) == (2, ["x"], 9)
    assert derived(3).names is not one.names
    assert one != derived(1) and len({one, other}) == 2          # an object is itself


@pytest.mark.parametrize("made_before", [0, FEW])
@pytest.mark.parametrize(("arguments", "named"), [
    ((), {}), ((1, [], 2, 3), {}), ((1,), {"first": 2}), ((1,), {"unknown": 2}),
])
def test_wrong_arguments_are_a_type_error(
    made_before: int, arguments: tuple[object, ...], named: dict[str, object]
) -> None:
    _base, derived = make_classes()
    for _ in range(made_before):
        derived(0)
    with pytest.raises(TypeError):
        derived(*arguments, **named)


def test_only_declared_fields_exist() -> None:
    base, derived = make_classes()
    with pytest.raises(AttributeError):
        base(1).lost = 1
    assert derived.__slots__ == ("last",)
    assert not hasattr(base(1), "__dict__")


@pytest.mark.parametrize("made_before", [0, FEW])
def test_frozen_objects_do_not_change(made_before: int) -> None:
    @slotted(frozen=True)
    class Operations:
        read: int
        write: int = 2

    for _ in range(made_before):
        Operations(1)
    table = Operations(1)
    assert (table.read, table.write) == (1, 2)
    with pytest.raises(AttributeError, match="frozen"):
        table.read = 3
    with pytest.raises(AttributeError, match="frozen"):
        del table.read
