"""Features of a journal: what its superblock says that it uses.

Linux: a part of fs/jbd2/journal.c (5.3). Owns: s_feature_*, s_checksum_type, j_csum_seed.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.jbd2.types import (
    JBD2_CRC32C_CHKSUM,
    JBD2_FEATURE_COMPAT_CHECKSUM,
    JBD2_FEATURE_INCOMPAT_CSUM_V2,
    JBD2_FEATURE_INCOMPAT_CSUM_V3,
    JBD2_KNOWN_COMPAT_FEATURES,
    JBD2_KNOWN_INCOMPAT_FEATURES,
    JBD2_KNOWN_ROCOMPAT_FEATURES,
)
from glasskernel.lib.crc32c import crc32c
from glasskernel.lib.types import U32_MAX, notrace

if TYPE_CHECKING:
    from glasskernel.fs.jbd2.types import Journal

CSUM_V2OR3 = JBD2_FEATURE_INCOMPAT_CSUM_V2 | JBD2_FEATURE_INCOMPAT_CSUM_V3


@notrace
def load_csum_driver(journal: Journal) -> None:
    """From now on blocks of the log have checksums, which begin with that of the uuid."""
    journal.j_has_csum_driver = True
    journal.j_csum_seed = crc32c(U32_MAX, journal.j_superblock.s_uuid)


def jbd2_journal_check_used_features(journal: Journal, compat: int, ro: int, incompat: int) -> bool:
    """True if the journal has all of these features."""
    if not (compat or ro or incompat):
        return True
    if journal.j_format_version < 2:
        return False
    sb = journal.j_superblock
    return bool(sb.s_feature_compat & compat == compat and sb.s_feature_ro_compat & ro == ro
                and sb.s_feature_incompat & incompat == incompat)


def jbd2_journal_check_available_features(journal: Journal, compat: int, ro: int, incompat: int) -> bool:
    """True if the journal could have all of these features."""
    if not (compat or ro or incompat):
        return True
    return (journal.j_format_version == 2 and compat & JBD2_KNOWN_COMPAT_FEATURES == compat
            and ro & JBD2_KNOWN_ROCOMPAT_FEATURES == ro and incompat & JBD2_KNOWN_INCOMPAT_FEATURES == incompat)


def jbd2_journal_set_features(journal: Journal, compat: int, ro: int, incompat: int) -> bool:
    """Marks features as used; False if the journal cannot have them. The superblock is written with the next update."""
    if jbd2_journal_check_used_features(journal, compat, ro, incompat):
        return True
    if not jbd2_journal_check_available_features(journal, compat, ro, incompat):
        return False
    if incompat & JBD2_FEATURE_INCOMPAT_CSUM_V2:           # nobody makes v2 any more
        incompat = incompat & ~JBD2_FEATURE_INCOMPAT_CSUM_V2 | JBD2_FEATURE_INCOMPAT_CSUM_V3
    sb = journal.j_superblock
    if incompat & JBD2_FEATURE_INCOMPAT_CSUM_V3:
        if compat & JBD2_FEATURE_COMPAT_CHECKSUM:
            compat &= ~JBD2_FEATURE_COMPAT_CHECKSUM
        if not sb.s_feature_incompat & JBD2_FEATURE_INCOMPAT_CSUM_V3:
            sb.s_checksum_type = JBD2_CRC32C_CHKSUM
            sb.s_feature_compat &= ~JBD2_FEATURE_COMPAT_CHECKSUM
            load_csum_driver(journal)
    if compat & JBD2_FEATURE_COMPAT_CHECKSUM:
        sb.s_feature_incompat &= ~CSUM_V2OR3               # the old checksum excludes the new ones
        journal.j_has_csum_driver = False
    sb.s_feature_compat |= compat
    sb.s_feature_ro_compat |= ro
    sb.s_feature_incompat |= incompat
    return True


def jbd2_journal_clear_features(journal: Journal, compat: int, ro: int, incompat: int) -> None:
    """Marks features as not used any more."""
    sb = journal.j_superblock
    sb.s_feature_compat &= ~compat
    sb.s_feature_ro_compat &= ~ro
    sb.s_feature_incompat &= ~incompat
    if not sb.s_feature_incompat & CSUM_V2OR3:
        journal.j_has_csum_driver = False
