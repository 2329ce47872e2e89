"""Indexes of pt_regs: a task's registers are `task.thread.regs`, 64-bit words in the engine's own order."""
from __future__ import annotations

AX, CX, DX, BX, SP, BP, SI, DI = range(8)
R8, R9, R10, R11, R12, R13, R14, R15, IP = range(8, 17)
