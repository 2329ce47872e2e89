"""/proc/net/fib_trie and fib_triestat: the trie that Linux keeps routes in.

Linux: net/ipv4/fib_trie.c: fib_trie_seq_show, fib_triestat_seq_show, and the growth of nodes (5.3). Same: a node grows
as long as enough of its children would be used. Differs: built from the routes when somebody looks, so that a trie from
which many routes were taken may look different (Linux shrinks nodes later than it would have grown them).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace
from glasskernel.net.ipv4.fib_lookup import FibTable, Trie, fib_get_table
from glasskernel.net.ipv4.types import RT_TABLE_LOCAL, RT_TABLE_MAIN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from glasskernel.net.ipv4.fib_types import FibAlias
    from glasskernel.net.types import Net

KEYLENGTH = 32
INFLATE_THRESHOLD, INFLATE_THRESHOLD_ROOT = 50, 30
SIZEOF_LEAF, SIZEOF_TNODE = 48, 40
_TYPES = ("UNSPEC", "UNICAST", "LOCAL", "BROADCAST", "ANYCAST", "MULTICAST", "BLACKHOLE", "UNREACHABLE", "PROHIBIT",
          "THROW", "NAT", "XRESOLVE")
_SCOPES = {0: "universe", 200: "site", 253: "link", 254: "host", 255: "nowhere"}


@slotted
class Tnode:
    """struct key_vector with children: 1 << bits of them, chosen by the bits from pos on."""

    key: int
    pos: int
    bits: int
    child: list[Tnode | int | None] = field(default_factory=list)      # an int: a leaf, its key

    def index(self, key: int) -> int:
        return (key ^ self.key) >> self.pos


# ---- the trie ------------------------------------------------------------------------------------------------------
@notrace
def build(trie: Trie) -> tuple[Tnode | int | None, dict[int, list[FibAlias]]]:
    """(the root, leaves: key -> its routes)"""
    leaves: dict[int, list[FibAlias]] = {}
    for slen in trie.slens:
        for key, aliases in trie.aliases[slen].items():
            leaves.setdefault(key, []).extend(aliases)
    root: Tnode | int | None = None
    for key in sorted(leaves):
        root = _insert(root, key)
    return (_resize_all(root, True) if root is not None else None), leaves


@notrace
def _insert(node: Tnode | int | None, key: int) -> Tnode | int:
    """fib_insert_node() with binary nodes; they grow afterwards."""
    if node is None:
        return key
    if isinstance(node, Tnode) and not (key ^ node.key) >> (node.pos + node.bits):
        i = node.index(key)
        node.child[i] = _insert(node.child[i], key)
        return node
    other = node.key if isinstance(node, Tnode) else node
    pos = (key ^ other).bit_length() - 1
    made = Tnode(key >> pos + 1 << pos + 1, pos, 1, [None, None])
    made.child[key >> pos & 1] = key
    made.child[other >> pos & 1] = node
    return made


@notrace
def _resize_all(node: Tnode | int, root: bool) -> Tnode | int:
    if isinstance(node, int):
        return node
    for i, child in enumerate(node.child):
        if child is not None:
            node.child[i] = _resize_all(child, False)
    while _should_inflate(node, root):
        node = _inflate(node)
    only = [child for child in node.child if child is not None]
    if len(only) == 1 and not root:
        return only[0]
    return node


@notrace
def _should_inflate(tn: Tnode, root: bool) -> bool:
    """Would a node twice as wide still be full enough?"""
    if not tn.pos:
        return False
    threshold = (INFLATE_THRESHOLD_ROOT if root else INFLATE_THRESHOLD) << tn.bits
    used = sum(child is not None for child in tn.child)
    used += sum(isinstance(child, Tnode) and child.pos + child.bits == tn.pos for child in tn.child)
    return used > 1 and 50 * used >= threshold


@notrace
def _inflate(oldtnode: Tnode) -> Tnode:
    """inflate(): every child becomes two."""
    pos = oldtnode.pos - 1
    tn = Tnode(oldtnode.key, pos, oldtnode.bits + 1, [None] * (2 << oldtnode.bits))
    for i, node in enumerate(oldtnode.child):
        if node is None:
            continue
        if isinstance(node, int) or node.pos + node.bits < oldtnode.pos:
            tn.child[tn.index(node if isinstance(node, int) else node.key)] = node
        elif node.bits == 1:
            tn.child[2 * i], tn.child[2 * i + 1] = node.child
        else:
            half = 1 << node.bits - 1
            for side in (0, 1):
                key = node.key | side << node.pos + node.bits - 1
                part = Tnode(key, node.pos, node.bits - 1, node.child[side * half : (side + 1) * half])
                tn.child[2 * i + side] = _resize_all(part, False)
    return tn


# ---- the files -----------------------------------------------------------------------------------------------------
@notrace
def _tables(net: Net) -> Iterator[tuple[bytes, FibTable]]:
    for name, tb_id in ((b"Main", RT_TABLE_MAIN), (b"Local", RT_TABLE_LOCAL)):
        tb = fib_get_table(net, tb_id)
        if tb is not None and tb.tb_data.slens:
            yield name, tb


@notrace
def _ip(addr: int) -> str:
    return ".".join(map(str, addr.to_bytes(4, "big")))


def fib_trie_seq_show(net: Net) -> Iterator[bytes]:
    for name, tb in _tables(net):
        yield name + b":\n"
        root, leaves = build(tb.tb_data)
        if root is not None:
            yield "".join(_show(root, leaves, 1)).encode()


@notrace
def _show(node: Tnode | int, leaves: dict[int, list[FibAlias]], depth: int) -> Iterator[str]:
    indent = " " * (3 * depth)
    if isinstance(node, Tnode):
        full = sum(isinstance(c, Tnode) and c.pos + c.bits == node.pos for c in node.child)
        empty = sum(c is None for c in node.child)
        yield f"{indent[:-1]}+-- {_ip(node.key)}/{KEYLENGTH - node.pos - node.bits} {node.bits} {full} {empty}\n"
        for child in node.child:
            if child is not None:
                yield from _show(child, leaves, depth + 1)
        return
    yield f"{indent[:-1]}|-- {_ip(node)}\n"
    for fa in leaves[node]:
        scope = _SCOPES.get(fa.fa_info.fib_scope, f"scope={fa.fa_info.fib_scope}")
        tos = f" tos={fa.fa_tos}" if fa.fa_tos else ""
        yield f"{indent}  /{KEYLENGTH - fa.fa_slen} {scope} {_TYPES[fa.fa_type]}{tos}\n"


def fib_triestat_seq_show(net: Net) -> Iterator[bytes]:
    yield f"Basic info: size of leaf: {SIZEOF_LEAF} bytes, size of tnode: {SIZEOF_TNODE} bytes.\n".encode()
    for name, tb in _tables(net):
        yield name + b":\n" + _stat(tb.tb_data).encode()


@notrace
def _stat(trie: Trie) -> str:
    root, leaves = build(trie)
    depths: list[int] = []
    nodes: dict[int, int] = {}
    nulls = 0

    def walk(node: Tnode | int, depth: int) -> None:
        nonlocal nulls
        if isinstance(node, int):
            depths.append(depth)
            return
        nodes[node.bits] = nodes.get(node.bits, 0) + 1
        for child in node.child:
            if child is None:
                nulls += 1
            else:
                walk(child, depth + 1)

    if root is not None:
        walk(root, 0)
    prefixes = sum(map(len, leaves.values()))
    pointers = sum(count << bits for bits, count in nodes.items())
    average = sum(depths) * 100 // len(depths) if depths else 0
    size = SIZEOF_LEAF * len(depths) + SIZEOF_TNODE * sum(nodes.values()) + 8 * pointers + 48 * prefixes
    sizes = "".join(f"  {bits}: {nodes[bits]}" for bits in sorted(nodes))
    return (f"\tAver depth:     {average // 100}.{average % 100:02d}\n\tMax depth:      {max(depths, default=0)}\n"
            f"\tLeaves:         {len(depths)}\n\tPrefixes:       {prefixes}\n\tInternal nodes: {sum(nodes.values())}\n"
            f"\t{sizes}\n\tPointers: {pointers}\nNull ptrs: {nulls}\nTotal size: {(size + 1023) // 1024}  kB\n"
            f"\nCounters:\n---------\ngets = {trie.gets}\nbacktracks = 0\n"
            f"semantic match passed = {trie.semantic_match_passed}\nsemantic match miss = {trie.semantic_match_miss}\n"
            "null node hit= 0\nskipped node resize = 0\n\n")
