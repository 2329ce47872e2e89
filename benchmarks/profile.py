"""Where the next microsecond is: `python -m benchmarks.profile [ROW] [--count N] [--lines N]`.

Runs one row of the suite on a kernel in this process under cProfile and prints the functions by own time.
The profiler itself costs 50 to 100 ns a call, so small functions look dearer than they are: compare, do not
add up.
"""

from __future__ import annotations

import cProfile
import pstats
import sys
import time

import click

from benchmarks.__main__ import cache_folder
from benchmarks.peers import GUEST_DIR, Peer
from benchmarks.suite import SUITE, build_programs


@click.command()
@click.argument("row", default="null syscall")
@click.option("--count", type=click.IntRange(1), default=20_000, show_default=True, help="Operations.")
@click.option("--lines", type=click.IntRange(1), default=30, show_default=True, help="Functions to print.")
@click.option("--sort", type=click.Choice(["tottime", "cumtime", "ncalls"]), default="tottime")
@click.option("--save", type=click.Path(dir_okay=False), help="Keep the data for snakeviz, gprof2dot, ...")
def main(row: str, count: int, lines: int, sort: str, save: str | None) -> None:
    """Profile one row of the benchmarks ("null syscall", "stat", ...) on the kernel."""
    chosen = [b for b in SUITE if b.name == row] or [b for b in SUITE if row in b.name]
    if not chosen:
        raise click.UsageError(f"no row is called {row!r}: {', '.join(b.name for b in SUITE)}")
    programs = cache_folder() / "programs"
    build_programs(programs)
    from glasskernel.init.kernel import Kernel, Share

    argv = Peer("glasskernel", (), GUEST_DIR, "/tmp").command((*chosen[0].argv, str(count)))

    def run(profile: cProfile.Profile | None) -> float:
        kernel = Kernel(shares=[Share(str(programs), GUEST_DIR, False)])
        if profile:
            profile.enable()
        start = time.perf_counter()
        result = kernel.run(argv)
        took = time.perf_counter() - start
        if profile:
            profile.disable()
        if result.status:
            raise click.ClickException(f"{' '.join(argv)}: status {result.status}: {result.stderr!r}")
        return took

    plain = run(None)
    profile = cProfile.Profile()
    slowed = run(profile)
    plain_us, slowed_us = plain / count * 1e6, slowed / count * 1e6
    print(f"{chosen[0].name}: {plain_us:.2f} µs each ({slowed_us:.2f} µs under the profiler)")
    if save:
        profile.dump_stats(save)
    pstats.Stats(profile, stream=sys.stdout).strip_dirs().sort_stats(sort).print_stats(lines)


if __name__ == "__main__":
    main()
