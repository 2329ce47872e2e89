"""Changing routing tables.

Linux: net/ipv4/fib_trie.c (5.3). Same: the order of routes with the same prefix (table, TOS, priority), what the
NLM_F_* flags allow, errno, flushing. Differs: see fib_lookup.py.
Owns: FibTable, Trie.  Locks: rtnl.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.errno import EEXIST, EINVAL, ENOENT, ESRCH, KernelError
from glasskernel.lib.types import notrace
from glasskernel.net.ipv4.fib_lookup import FibTable, Trie
from glasskernel.net.ipv4.fib_semantics import RTM_DELROUTE, RTM_NEWROUTE, fib_create_info, fib_release_info, inet_of
from glasskernel.net.ipv4.fib_types import (
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    RTNH_F_DEAD,
    FibAlias,
    FibConfig,
)
from glasskernel.net.ipv4.route_cache import rt_cache_flush
from glasskernel.net.ipv4.types import RT_SCOPE_NOWHERE, RT_TABLE_LOCAL, RT_TABLE_MAIN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from glasskernel.net.ipv4.fib_types import FibInfo
    from glasskernel.net.types import Net


def fib_trie_table(tb_id: int, alias: FibTable | None) -> FibTable:
    """A new table; with `alias`, one that shares the other's trie."""
    return FibTable(tb_id, alias.tb_data if alias is not None else Trie())


def fib_new_table(net: Net, tb_id: int) -> FibTable:
    """The table, made if it does not exist. Local shares main's trie: there are no rules between them."""
    tables: dict[int, FibTable] = net.ipv4.fib_tables
    tb_id = tb_id or RT_TABLE_MAIN
    tb = tables.get(tb_id)
    if tb is None:
        alias = fib_new_table(net, RT_TABLE_MAIN) if tb_id == RT_TABLE_LOCAL else None
        tb = tables[tb_id] = fib_trie_table(tb_id, alias)
    return tb


# ---- routes of one prefix -----------------------------------------------------------------------------------------
def fib_insert_alias(t: Trie, new: FibAlias, key: int, at: int) -> None:
    """Puts a route among those of its prefix."""
    leaves = t.aliases.get(new.fa_slen)
    if leaves is None:
        leaves = t.aliases[new.fa_slen] = {}
        t.slens = sorted(t.aliases)
    leaves.setdefault(key, []).insert(at, new)


def fib_remove_alias(t: Trie, key: int, old: FibAlias) -> None:
    leaves = t.aliases[old.fa_slen]
    leaf = leaves[key]
    leaf.remove(old)
    if not leaf:
        del leaves[key]
        if not leaves:
            del t.aliases[old.fa_slen]
            t.slens = sorted(t.aliases)


def fib_find_alias(leaf: list[FibAlias], tos: int, prio: int, tb_id: int) -> int:
    """Where in the list a route of this table, TOS and priority stands, or would."""
    for at, fa in enumerate(leaf):
        if fa.tb_id > tb_id:
            continue
        if fa.tb_id != tb_id:
            return at
        if fa.fa_tos > tos:
            continue
        if fa.fa_info.fib_priority >= prio or fa.fa_tos < tos:
            return at
    return len(leaf)


@notrace
def _leaf(tb: FibTable, cfg: FibConfig) -> tuple[int, list[FibAlias]]:
    """(slen, routes of cfg's prefix). Raises EINVAL if the prefix has bits behind its length."""
    slen = 32 - cfg.fc_dst_len
    if slen < 0 or cfg.fc_dst & ((1 << slen) - 1):
        raise KernelError(EINVAL)
    return slen, tb.tb_data.aliases.get(slen, {}).get(cfg.fc_dst, [])


def fib_table_insert(net: Net, tb: FibTable, cfg: FibConfig) -> None:
    """Adds or replaces a route. Raises EEXIST, ENOENT, and what fib_create_info() raises."""
    slen, leaf = _leaf(tb, cfg)
    fi = fib_create_info(cfg, net)
    try:
        at = fib_find_alias(leaf, cfg.fc_tos, fi.fib_priority, tb.tb_id)
        flags = cfg.fc_nlflags
        if at < len(leaf) and _same_place(leaf[at], cfg, fi, tb.tb_id):
            if flags & NLM_F_EXCL:
                raise KernelError(EEXIST)
            first, match = at, None
            while at < len(leaf) and _same_place(leaf[at], cfg, fi, tb.tb_id):
                if leaf[at].fa_type == cfg.fc_type and leaf[at].fa_info is fi:
                    match = at
                at += 1
            if flags & NLM_F_REPLACE:
                if match is not None:
                    if match == first:
                        fib_release_info(fi)
                        return
                    raise KernelError(EEXIST)
                old = leaf[first].fa_info
                leaf[first] = new = FibAlias(fi, cfg.fc_tos, cfg.fc_type, slen, tb.tb_id)
                fib_release_info(old)
                rt_cache_flush(net)
                rtmsg_fib(RTM_NEWROUTE, net, cfg.fc_dst, new)
                return
            if match is not None:
                raise KernelError(EEXIST)
            if not flags & NLM_F_APPEND:
                at = first
        if not flags & NLM_F_CREATE:
            raise KernelError(ENOENT)
    except KernelError:
        fib_release_info(fi)
        raise
    new = FibAlias(fi, cfg.fc_tos, cfg.fc_type, slen, tb.tb_id)
    fib_insert_alias(tb.tb_data, new, cfg.fc_dst, at)
    if not cfg.fc_dst_len:
        tb.tb_num_default += 1
    rt_cache_flush(net)
    rtmsg_fib(RTM_NEWROUTE, net, cfg.fc_dst, new)


@notrace
def _same_place(fa: FibAlias, cfg: FibConfig, fi: FibInfo, tb_id: int) -> bool:
    return fa.tb_id == tb_id and fa.fa_tos == cfg.fc_tos and fa.fa_info.fib_priority == fi.fib_priority


def fib_table_delete(net: Net, tb: FibTable, cfg: FibConfig) -> None:
    """Removes the first route that fits. Raises ESRCH if none does."""
    _, leaf = _leaf(tb, cfg)
    for at in range(fib_find_alias(leaf, cfg.fc_tos, 0, tb.tb_id), len(leaf)):
        fa = leaf[at]
        if fa.tb_id != tb.tb_id or fa.fa_tos != cfg.fc_tos:
            break
        fi = fa.fa_info
        if ((not cfg.fc_type or fa.fa_type == cfg.fc_type)
                and cfg.fc_scope in (RT_SCOPE_NOWHERE, fi.fib_scope)
                and (not cfg.fc_prefsrc or fi.fib_prefsrc == cfg.fc_prefsrc)
                and (not cfg.fc_protocol or fi.fib_protocol == cfg.fc_protocol)
                and fib_nh_match(cfg, fi)):
            rtmsg_fib(RTM_DELROUTE, net, cfg.fc_dst, fa)
            _forget(tb, cfg.fc_dst, fa)
            rt_cache_flush(net)
            return
    raise KernelError(ESRCH)


def fib_nh_match(cfg: FibConfig, fi: FibInfo) -> bool:
    """Does the route fit to what a delete request says of priority and next hops?"""
    if cfg.fc_priority and cfg.fc_priority != fi.fib_priority:
        return False
    if cfg.fc_mp:
        return [(nh.nh_oif, nh.nh_gw) for nh in fi.fib_nh] == [(oif, gw) for oif, gw, _, _ in cfg.fc_mp]
    nh = fi.fib_nh[0]
    return (not cfg.fc_oif or cfg.fc_oif == nh.nh_oif) and (not cfg.fc_gw or cfg.fc_gw == nh.nh_gw)


@notrace
def _forget(tb: FibTable, key: int, fa: FibAlias) -> None:
    fib_remove_alias(tb.tb_data, key, fa)
    if fa.fa_slen == 32:
        tb.tb_num_default -= 1
    fib_release_info(fa.fa_info)


def fib_table_flush(net: Net, tb: FibTable, flush_all: bool) -> int:
    """Removes the dead routes of a table, or all; how many."""
    found = 0
    for key, fa in list(fib_table_walk(tb)):
        if flush_all or fa.fa_info.fib_flags & RTNH_F_DEAD:
            if not flush_all:
                rtmsg_fib(RTM_DELROUTE, net, key, fa)
            _forget(tb, key, fa)
            found += 1
    return found


@notrace
def fib_table_walk(tb: FibTable) -> Iterator[tuple[int, FibAlias]]:
    """(first address, route) of a table's own routes, in the order in which Linux's dumps have them."""
    aliases = tb.tb_data.aliases
    for key in sorted({key for leaves in aliases.values() for key in leaves}):
        for slen in tb.tb_data.slens:
            for fa in aliases[slen].get(key, ()):
                if fa.tb_id == tb.tb_id:
                    yield key, fa


@notrace
def rtmsg_fib(event: int, net: Net, key: int, fa: FibAlias) -> None:
    """rtmsg_fib() of rtnetlink, which is above us."""
    hook = inet_of(net).rtmsg_fib
    if hook is not None:
        hook(event, net, key, fa)
