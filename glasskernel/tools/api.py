"""The Kernel that users of the package hold: the kernel itself, and the tools that look at it."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from glasskernel.init import kernel as plain

if TYPE_CHECKING:
    from glasskernel.tools.trace.model import Record
    from glasskernel.tools.trace.recorder import Recording


class Kernel(plain.Kernel):
    __doc__ = plain.Kernel.__doc__

    def trace(
        self,
        functions: str | Sequence[str] = (),
        *,
        events: str | Sequence[str] = (),
        never: str | Sequence[str] = (),
        user: bool = False,
        depth: int = 0,
        arguments: bool = False,
        on_record: Callable[[Record], None] | None = None,
    ) -> Recording:
        """Records what programs do while the answer is open as a context manager. The run does not change.

        functions: patterns of kernel functions (and, with user, of those of programs and libraries); none: all,
            unless events are asked for. never: functions to leave out.
        events: patterns, `sched` or `sched:sched_switch`.
        depth: how many calls deep, 0: all. arguments: with what functions were called.
        on_record: called at once with each record; it must not change anything.
        Raises TraceError, on entering it, when a pattern matches nothing.
        """
        from glasskernel.tools.trace.recorder import Recording, What

        only, unwanted, raised = _patterns(functions), _patterns(never), _patterns(events)
        what = What(only=only, never=unwanted, depth=depth, kernel=bool(only) or not raised, user=user,
                    arguments=arguments, events=raised)
        return Recording(self, what, on_record)


def _patterns(value: str | Sequence[str]) -> Sequence[str]:
    return (value,) if isinstance(value, str) else value
