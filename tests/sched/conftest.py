import pytest

from tests.sched.sim import Sim


@pytest.fixture
def sim():
    """sim(cpus=..., threads=...) -> Sim; its stacks are unwound afterwards."""
    sims = []

    def make(**options):
        sims.append(Sim(**options))
        return sims[-1]

    yield make
    for s in sims:
        s.close()
