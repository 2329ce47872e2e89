"""The Kernel that users of the package hold: the kernel itself, and the tools that look at it."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from glasskernel.init import kernel as plain

if TYPE_CHECKING:
    from glasskernel.init.command import Device
    from glasskernel.machine.disk import Disk
    from glasskernel.tools.trace.model import Record
    from glasskernel.tools.trace.recorder import Recording


class Kernel(plain.Kernel):
    __doc__ = (plain.Kernel.__doc__ or "") + """
    home: the first disk, or a fresh one of 1 GiB if there are none, carries /root: it is formatted if it is empty, and
    its ext4 is mounted. Only with the default root; False: no disk is added, and none is formatted or mounted.
    """

    def __init__(self, *, disks: Sequence[Disk] = (), seed: int = 0, root: str | None = None, home: bool = True,
                 root_dev: Device | None = None, **options: Any) -> None:
        home_dev = None
        if home and root is None and root_dev is None:
            from glasskernel.tools.image.home import home_disks

            disks, home_dev = home_disks(disks, seed)
        super().__init__(disks=disks, seed=seed, root=root, root_dev=root_dev, home_dev=home_dev, **options)

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
