"""The numbers of machine/unicorn_lib.py are those of Unicorn's own Python binding."""
from unicorn import unicorn_const, x86_const

from glasskernel.machine import unicorn_lib


def test_the_constants_are_the_bindings():
    ours = {name: value for name, value in vars(unicorn_lib).items() if name.startswith("UC_")}
    theirs = vars(unicorn_const) | vars(x86_const)
    assert len(ours) > 40
    assert ours == {name: theirs[name] for name in ours}
