"""Tries: the longest prefix that fits, as for routes.

Linux: kernel/bpf/lpm_trie.c (5.3). Same: keys (a prefix length and data, most significant bit first), intermediate
    nodes, errors, order of keys (children before their parents). Owns: BpfTrie. Context: any.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.bpf.arraymap import BPF_F_ACCESS_MASK, KMALLOC_MAX_SIZE, access_flags_ok
from glasskernel.kernel.bpf.memory import bpf_map_charge_init, write_kernel
from glasskernel.kernel.bpf.types import (
    BPF_EXIST,
    BPF_F_NO_PREALLOC,
    BPF_F_NUMA_NODE,
    BPF_NOEXIST,
    BpfMap,
    BpfMapOps,
)
from glasskernel.kernel.capability import CAP_SYS_ADMIN, capable
from glasskernel.lib.errno import E2BIG, EEXIST, EINVAL, ENOENT, ENOSPC, EPERM, KernelError
from glasskernel.lib.types import notrace
from glasskernel.mm.page_alloc import GFP_ATOMIC, GFP_KERNEL
from glasskernel.mm.slab_common import __kmalloc, kfree, kmalloc

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.bpf.syscall_map import MapAttr

SIZEOF_LPM_TRIE, SIZEOF_LPM_TRIE_NODE = 256, 40
LPM_DATA_SIZE_MIN, LPM_DATA_SIZE_MAX = 1, 256


class LpmTrieNode:
    """struct lpm_trie_node. data: the prefix, its other bits as they were given. value: its address, or 0."""

    __slots__ = ("address", "child", "data", "prefixlen", "value")

    def __init__(self, address: int, data: bytes, prefixlen: int, value: int) -> None:
        self.address, self.data, self.prefixlen, self.value = address, data, prefixlen, value
        self.child: list[LpmTrieNode | None] = [None, None]


class BpfTrie(BpfMap):
    """struct lpm_trie"""

    __slots__ = ("data_size", "n_entries", "root")

    def __init__(self, kernel: Kernel, attr: MapAttr) -> None:
        super().__init__(kernel, attr.map_type, attr.key_size, attr.value_size, attr.max_entries, attr.flags_to_keep)
        self.data_size = attr.key_size - 4
        self.n_entries = 0
        self.root: LpmTrieNode | None = None


@notrace
def extract_bit(data: bytes, index: int) -> int:
    return data[index // 8] >> 7 - index % 8 & 1


def longest_prefix_match(node: LpmTrieNode, data: bytes, prefixlen: int) -> int:
    """How many bits a node and a key have in common, at most the shorter prefix."""
    differ = int.from_bytes(node.data, "big") ^ int.from_bytes(data, "big")
    return min(node.prefixlen, prefixlen, len(data) * 8 - differ.bit_length())


@notrace
def split_key(key: bytes) -> tuple[int, bytes]:
    return int.from_bytes(key[:4], "little"), key[4:]


def lpm_trie_node_alloc(map: BpfTrie, data: bytes, prefixlen: int, value: bytes | None) -> LpmTrieNode:
    """Raises ENOMEM."""
    size = SIZEOF_LPM_TRIE_NODE + map.data_size + (map.value_size if value is not None else 0)
    address = __kmalloc(map.kernel, size, GFP_ATOMIC)
    write_kernel(map.kernel, address + SIZEOF_LPM_TRIE_NODE, data + (value or b""))
    where = address + SIZEOF_LPM_TRIE_NODE + map.data_size if value is not None else 0
    return LpmTrieNode(address, data, prefixlen, where)


# ---- operations --------------------------------------------------------------------------------------------------
def trie_alloc(kernel: Kernel, attr: MapAttr) -> BpfTrie:
    """->map_alloc(). Raises EPERM, EINVAL, E2BIG, ENOMEM."""
    if not capable(CAP_SYS_ADMIN):
        raise KernelError(EPERM)
    if (not attr.max_entries or not attr.map_flags & BPF_F_NO_PREALLOC
            or attr.map_flags & ~(BPF_F_NO_PREALLOC | BPF_F_NUMA_NODE | BPF_F_ACCESS_MASK)
            or not access_flags_ok(attr.map_flags) or not attr.value_size
            or not LPM_DATA_SIZE_MIN + 4 <= attr.key_size <= LPM_DATA_SIZE_MAX + 4):
        raise KernelError(EINVAL)
    if attr.value_size > KMALLOC_MAX_SIZE - LPM_DATA_SIZE_MAX - SIZEOF_LPM_TRIE_NODE:
        raise KernelError(E2BIG)
    trie = BpfTrie(kernel, attr)
    per_node = SIZEOF_LPM_TRIE_NODE + attr.value_size + trie.data_size
    trie.memory_pages, trie.user = bpf_map_charge_init(kernel, SIZEOF_LPM_TRIE + trie.max_entries * per_node)
    trie.kaddr = kmalloc(kernel, SIZEOF_LPM_TRIE, GFP_KERNEL)
    return trie


def trie_free(map: BpfTrie) -> None:
    """->map_free()"""
    nodes = [map.root]
    while nodes:
        node = nodes.pop()
        if node is not None:
            nodes += node.child
            kfree(map.kernel, node.address)
    kfree(map.kernel, map.kaddr)


def trie_lookup_elem(map: BpfTrie, key: bytes) -> int:
    """->map_lookup_elem(): the value of the longest prefix of the key's."""
    prefixlen, data = split_key(key)
    node, found = map.root, None
    while node is not None:
        matchlen = longest_prefix_match(node, data, prefixlen)
        if matchlen == map.data_size * 8:
            found = node
            break
        if matchlen < node.prefixlen:
            break
        if node.value:
            found = node
        node = node.child[extract_bit(data, node.prefixlen)]
    return found.value if found is not None else 0


def trie_update_elem(map: BpfTrie, key: bytes, value: bytes, flags: int) -> None:
    """->map_update_elem(). Raises EINVAL, EEXIST, ENOENT, ENOSPC, ENOMEM."""
    prefixlen, data = split_key(key)
    if flags > BPF_EXIST or prefixlen > map.data_size * 8:
        raise KernelError(EINVAL)
    parent: LpmTrieNode | None = None
    bit = matchlen = 0
    node = map.root
    while node is not None:
        matchlen = longest_prefix_match(node, data, prefixlen)
        if node.prefixlen != matchlen or node.prefixlen in (prefixlen, map.data_size * 8):
            break
        parent, bit = node, extract_bit(data, node.prefixlen)
        node = node.child[bit]
    same = node is not None and node.prefixlen == matchlen and matchlen == prefixlen
    there = node is not None and same and bool(node.value)
    if flags == BPF_NOEXIST and there:
        raise KernelError(EEXIST)
    if flags == BPF_EXIST and not there:
        raise KernelError(ENOENT)
    if not there and map.n_entries == map.max_entries:
        raise KernelError(ENOSPC)
    new = lpm_trie_node_alloc(map, data, prefixlen, value)
    map.n_entries += not there
    put = new
    if node is not None and same:
        new.child = node.child
        kfree(map.kernel, node.address)
    elif node is not None and matchlen == prefixlen:
        new.child[extract_bit(node.data, matchlen)] = node
    elif node is not None:
        put = lpm_trie_node_alloc(map, node.data, matchlen, None)
        put.child[extract_bit(data, matchlen)] = new
        put.child[1 - extract_bit(data, matchlen)] = node
    set_child(map, parent, bit, put)


@notrace
def set_child(map: BpfTrie, parent: LpmTrieNode | None, bit: int, node: LpmTrieNode | None) -> None:
    if parent is None:
        map.root = node
    else:
        parent.child[bit] = node


def trie_delete_elem(map: BpfTrie, key: bytes) -> None:
    """->map_delete_elem(): an intermediate node that is left with one child goes as well. Raises EINVAL, ENOENT."""
    prefixlen, data = split_key(key)
    if prefixlen > map.data_size * 8:
        raise KernelError(EINVAL)
    path: list[tuple[LpmTrieNode | None, int]] = []
    parent: LpmTrieNode | None = None
    bit = 0
    node = map.root
    while node is not None:
        matchlen = longest_prefix_match(node, data, prefixlen)
        if node.prefixlen != matchlen or node.prefixlen == prefixlen:
            break
        path.append((parent, bit))
        parent, bit = node, extract_bit(data, node.prefixlen)
        node = node.child[bit]
    if node is None or node.prefixlen != prefixlen or matchlen != prefixlen or not node.value:
        raise KernelError(ENOENT)
    map.n_entries -= 1
    if node.child[0] is not None and node.child[1] is not None:
        node.value = 0
        return
    left = node.child[0] or node.child[1]
    set_child(map, parent, bit, left)
    kfree(map.kernel, node.address)
    if parent is not None and not parent.value and left is None:
        set_child(map, *path[-1], parent.child[1 - bit])
        kfree(map.kernel, parent.address)


def trie_get_next_key(map: BpfTrie, key: bytes | None) -> bytes:
    """->map_get_next_key(): the one behind `key`, or the first if that is not there. Raises ENOENT."""
    keys = [node.prefixlen.to_bytes(4, "little") + node.data for node in post_order(map.root) if node.value]
    if not keys:
        raise KernelError(ENOENT)
    at = keys.index(key) + 1 if key in keys else 0
    if at == len(keys):
        raise KernelError(ENOENT)
    return keys[at]


@notrace
def post_order(root: LpmTrieNode | None) -> list[LpmTrieNode]:
    """Children first."""
    nodes, stack = [], [root]
    while stack:
        node = stack.pop()
        if node is not None:
            nodes.append(node)
            stack += node.child
    nodes.reverse()
    return nodes


trie_map_ops = BpfMapOps(
    trie_alloc, trie_free, map_lookup_elem=trie_lookup_elem, map_update_elem=trie_update_elem,
    map_delete_elem=trie_delete_elem, map_get_next_key=trie_get_next_key)
