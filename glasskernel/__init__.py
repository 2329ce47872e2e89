"""Glasskernel: a Linux-compatible kernel in Python that you can see through.

    from glasskernel import Kernel
    result = Kernel().run(["uname", "-a"])
    print(result.stdout.decode())
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glasskernel.init.kernel import Result as Result
    from glasskernel.init.kernel import Share as Share
    from glasskernel.tools.api import Kernel as Kernel

__all__ = ["Kernel", "Result", "Share"]


def __getattr__(name: str) -> Any:      # importing the package must not build a kernel: --help stays quick
    if name == "Kernel":
        from glasskernel.tools.api import Kernel

        return Kernel
    if name in __all__:
        from glasskernel.init import kernel

        return getattr(kernel, name)
    raise AttributeError(f"module 'glasskernel' has no attribute {name!r}")
