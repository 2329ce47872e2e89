"""Devices without protocols: sending, receiving, queues, flags, names."""
from __future__ import annotations

import itertools

import pytest

from glasskernel.kernel.current import register
from glasskernel.kernel.kthread import kthread_run
from glasskernel.kernel.sched.core import msleep
from glasskernel.lib.errno import KernelError
from glasskernel.net.netdevice import PacketType
from glasskernel.net.skbuff import SkBuff, kfree_skb, skb_put_data, skb_reserve

ETH_P_TEST = 0x88B5                      # for local experiments


def packet(dev, payload, protocol=ETH_P_TEST):
    skb = SkBuff(256)
    skb_reserve(skb, 64)
    skb_put_data(skb, payload)
    skb.dev = dev
    skb.protocol = protocol
    dev.header_ops.create(skb, dev, protocol, dev.dev_addr, dev.dev_addr, len(payload))
    return skb


def listen(kernel, got, **options):
    from glasskernel.net.core.dev import dev_add_pack

    def receive(skb, dev, ptype, orig_dev):
        got.append((dev.name, bytes(skb.head[skb.data : skb.tail]), skb.pkt_type))
        kfree_skb(skb)
        return 0

    ptype = PacketType(options.pop("type", ETH_P_TEST), receive, **options)
    dev_add_pack(kernel, ptype)
    return ptype


def test_what_is_sent_through_lo_comes_back(in_thread):
    from glasskernel.net.core.dev import dev_open, dev_queue_xmit
    from glasskernel.net.core.rtnl import rtnl_lock, rtnl_unlock

    def body(kernel, net):
        rtnl_lock(kernel)
        dev_open(net.loopback_dev)
        rtnl_unlock(kernel)
        got, tapped = [], []
        listen(kernel, got)
        listen(kernel, tapped, type=3)
        assert dev_queue_xmit(packet(net.loopback_dev, b"hello")) == 0
        assert got == [(b"lo", b"hello", 0)]
        assert [(kind, frame[-5:]) for _, frame, kind in tapped] == [(4, b"hello"), (0, b"hello")]
        stats = net.loopback_dev.stats
        assert (stats.rx_packets, stats.tx_packets, stats.rx_bytes, stats.tx_bytes) == (1, 1, 5, 5)

    in_thread(body)


def test_a_device_that_is_down_sends_nothing(in_thread):
    from glasskernel.net.core.dev import dev_close, dev_queue_xmit
    from glasskernel.net.core.rtnl import rtnl_lock, rtnl_unlock

    def body(kernel, net):
        lo = net.loopback_dev
        rtnl_lock(kernel)
        dev_close(lo)
        rtnl_unlock(kernel)
        assert dev_queue_xmit(packet(lo, b"x")) in (-100, 2)
        msleep(20)
        assert not lo.stats.tx_packets

    in_thread(body)


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"a b", b"sixteen_letters!", b"a:b", b"a%s", b"a%d%d"])
def test_names_that_an_interface_cannot_have(in_thread, name):
    from glasskernel.net.core.dev import dev_alloc_name

    def body(kernel, net):
        with pytest.raises(KernelError) as error:
            dev_alloc_name(net, name)
        assert error.value.errno == 22

    in_thread(body)


# ---- the network card -------------------------------------------------------------------------------------
def up(kernel, dev, wait=True):
    from glasskernel.net.core.dev import dev_open
    from glasskernel.net.core.rtnl import rtnl_lock, rtnl_unlock
    from glasskernel.net.netdevice import netif_carrier_ok

    rtnl_lock(kernel)
    dev_open(dev)
    rtnl_unlock(kernel)
    while wait and not netif_carrier_ok(dev):
        msleep(4)
    msleep(8)


def frame(dst, src, payload, protocol=ETH_P_TEST):
    return dst + src + protocol.to_bytes(2, "big") + payload


PEER = bytes.fromhex("52550a000202")


def test_eth0_comes_up_sends_and_receives(in_thread):
    from glasskernel.net.core.dev import dev_queue_xmit

    def body(kernel, net):
        nic, eth0 = kernel.machine.nic, net.dev_by_name[b"eth0"]
        assert eth0.dev_addr == nic.mac
        up(kernel, eth0)
        seen, got = [], []
        nic.watch.append(lambda direction, data: seen.append((direction, data)))
        listen(kernel, got)
        assert dev_queue_xmit(packet(eth0, b"p" * 100)) == 0
        msleep(4)
        assert seen[0][1][12:] == b"\x88\xb5" + b"p" * 100
        nic.inject(frame(eth0.dev_addr, PEER, b"q" * 200))
        nic.inject(frame(b"\xff" * 6, PEER, b"r" * 60))
        nic.inject(frame(PEER, PEER, b"not for us"))
        msleep(4)
        assert got == [(b"eth0", b"q" * 200, 0), (b"eth0", b"r" * 60, 1)]
        assert (eth0.stats.rx_packets, eth0.stats.tx_packets) == (2, 1)

    kernel = in_thread(body)
    assert "NIC Link is Up 1000 Mbps Full Duplex" in kernel.dmesg()
    assert b"eth0" in kernel.run(["cat", "/proc/interrupts"]).stdout


def test_the_cable_can_be_pulled(in_thread):
    from glasskernel.net.core.dev import dev_get_flags
    from glasskernel.net.netdevice import IFF_RUNNING, netif_carrier_ok

    def body(kernel, net):
        eth0 = net.dev_by_name[b"eth0"]
        up(kernel, eth0)
        assert dev_get_flags(eth0) & IFF_RUNNING
        kernel.machine.nic.set_carrier(False)
        msleep(1100)
        assert not netif_carrier_ok(eth0)
        assert not dev_get_flags(eth0) & IFF_RUNNING
        kernel.machine.nic.set_carrier(True)
        msleep(1100)
        assert netif_carrier_ok(eth0)
        assert (eth0.carrier_up_count, eth0.carrier_down_count) == (2, 2)

    in_thread(body)


def test_a_flood_fills_the_ring_and_nothing_comes_twice(in_thread):
    def body(kernel, net):
        eth0 = net.dev_by_name[b"eth0"]
        up(kernel, eth0)
        got = []
        listen(kernel, got)
        for number in range(2000):
            kernel.machine.nic.inject(frame(eth0.dev_addr, PEER, b"%04d" % number + bytes(56)))
        msleep(40)
        numbers = [int(data[:4]) for _, data, _ in got]
        assert numbers == sorted(set(numbers))
        from glasskernel.net.core.dev import dev_get_stats

        stats = dev_get_stats(eth0)
        assert len(numbers) == stats.rx_packets
        assert stats.rx_packets + stats.rx_missed_errors == 2000

    in_thread(body)


@pytest.mark.parametrize(("fault", "expected"), [
    ({"lose": [2]}, [0, 2, 3]), ({"duplicate": [2]}, [0, 1, 1, 2, 3]), ({"delay": {2: 500_000}}, [0, 2, 3, 1]),
])
def test_faults_of_the_cable(in_thread, fault, expected):
    from glasskernel.machine.nic import LinkFaults

    def body(kernel, net):
        nic, eth0 = kernel.machine.nic, net.dev_by_name[b"eth0"]
        up(kernel, eth0)
        got = []
        listen(kernel, got)
        nic.frames = 0
        nic.faults = LinkFaults(**fault)
        for number in range(4):
            nic.inject(frame(eth0.dev_addr, PEER, bytes((number,)) * 60))
        msleep(8)
        assert [data[0] for _, data, _ in got] == expected

    in_thread(body)


def test_the_queue_waits_for_the_ring_and_keeps_the_order(in_thread):
    from glasskernel.net.core.dev import dev_queue_xmit

    def body(kernel, net):
        nic, eth0 = kernel.machine.nic, net.dev_by_name[b"eth0"]
        up(kernel, eth0)
        seen = []
        nic.watch.append(lambda direction, data: seen.append(int.from_bytes(data[14:18], "big")))
        for number in range(700):
            assert dev_queue_xmit(packet(eth0, number.to_bytes(4, "big") + bytes(60))) == 0
        msleep(40)
        assert seen == list(range(700))
        assert eth0.tx.qdisc.qlen == 0
        assert eth0.priv.restart_queue

    in_thread(body)


def test_the_card_sums_up_what_the_sender_left_out(in_thread):
    from glasskernel.net.core.dev import dev_queue_xmit
    from glasskernel.net.skbuff import CHECKSUM_PARTIAL

    def body(kernel, net):
        nic, eth0 = kernel.machine.nic, net.dev_by_name[b"eth0"]
        up(kernel, eth0)
        seen = []
        nic.watch.append(lambda direction, data: seen.append(data))
        skb = packet(eth0, bytes(range(2, 66)))
        skb.ip_summed = CHECKSUM_PARTIAL
        skb.csum_start, skb.csum_offset = skb.data + 14, 6
        dev_queue_xmit(skb)
        msleep(4)
        from glasskernel.lib.checksum import csum_partial

        data = seen[0][14:]
        before = csum_partial(bytes(range(2, 66)))
        assert int.from_bytes(data[6:8], "big") == 0xFFFF & ~before

    in_thread(body)


# ---- who calls whom ------------------------------------------------------------------------------------------
def call_graph(kernel):
    import pathlib
    import sys

    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "trace"))
    from call_graph import CallGraph

    return CallGraph(kernel)


def assert_chain(graph, *names):
    missing = [edge for edge in itertools.pairwise(names) if edge not in graph.edges]
    assert not missing


def test_the_chain_from_the_card_s_interrupt_to_the_protocols(in_thread):
    """The seeds' chains do-irq-e1000-softirq-raise and sshd-wakeup-stack, as far as in_thread go."""

    def body(kernel, net):
        eth0 = net.dev_by_name[b"eth0"]
        up(kernel, eth0)
        listen(kernel, [])
        with call_graph(kernel) as graph:
            kernel.machine.nic.inject(frame(eth0.dev_addr, PEER, bytes(60)))
            msleep(8)
        assert_chain(graph, "do_IRQ", "irq_enter", "rcu_irq_enter")
        assert_chain(graph, "do_IRQ", "handle_irq", "handle_fasteoi_irq", "handle_irq_event")
        assert graph.reaches("handle_irq_event", "e1000_intr")
        assert_chain(graph, "e1000_intr", "napi_schedule_prep")
        assert_chain(graph, "e1000_intr", "__napi_schedule", "__raise_softirq_irqoff")
        assert_chain(graph, "do_IRQ", "irq_exit", "__do_softirq", "net_rx_action", "e1000_clean", "napi_complete_done",
                     "gro_normal_list", "netif_receive_skb_list_internal", "__netif_receive_skb_list_core")

    in_thread(body)


def test_the_chains_of_sending(in_thread):
    """As ../shared's edges of c-udp and udpout show them."""
    from glasskernel.net.core.dev import dev_queue_xmit

    def body(kernel, net):
        eth0, lo = net.dev_by_name[b"eth0"], net.loopback_dev
        up(kernel, eth0)
        up(kernel, lo)
        listen(kernel, [])
        with call_graph(kernel) as graph:
            dev_queue_xmit(packet(lo, b"x"))
            dev_queue_xmit(packet(eth0, b"x"))
            msleep(8)
        assert_chain(graph, "dev_queue_xmit", "__dev_queue_xmit", "dev_hard_start_xmit", "loopback_xmit", "netif_rx",
                     "netif_rx_internal", "enqueue_to_backlog")
        assert_chain(graph, "__dev_queue_xmit", "netdev_core_pick_tx")
        assert_chain(graph, "__dev_queue_xmit", "validate_xmit_skb", "netif_skb_features", "skb_network_protocol")
        assert_chain(graph, "loopback_xmit", "eth_type_trans")
        assert_chain(graph, "__dev_queue_xmit", "__local_bh_enable_ip", "do_softirq", "__do_softirq", "net_rx_action",
                     "process_backlog", "__netif_receive_skb", "__netif_receive_skb_one_core", "__netif_receive_skb_core")
        assert_chain(graph, "__dev_queue_xmit", "sch_direct_xmit", "dev_hard_start_xmit", "e1000_xmit_frame")
        assert_chain(graph, "__dev_queue_xmit", "__qdisc_run", "pfifo_fast_dequeue")
        assert_chain(graph, "e1000_clean", "e1000_clean_tx_irq")

    in_thread(body)


def test_ksoftirqd_helps_in_a_flood(in_thread):
    """What ten rounds do not finish, or what is left when somebody else wants the CPU, a thread does (A143)."""
    from glasskernel.kernel.sched.wait import WaitQueueHead, wait_event, wake_up

    def body(kernel, net):
        from glasskernel.net.core.dev import dev_add_pack, dev_get_stats

        eth0 = net.dev_by_name[b"eth0"]
        up(kernel, eth0)
        who, queue, woken = [], WaitQueueHead(), []

        def receive(skb, dev, ptype, orig_dev):
            who.append(register.task.comm)
            kfree_skb(skb)
            wake_up(queue)
            return 0

        def reader(_data):
            wait_event(queue, lambda: len(who) > 600)
            woken.append(True)
            return 0

        dev_add_pack(kernel, PacketType(ETH_P_TEST, receive))
        kthread_run(reader, None, "reader")
        for _ in range(3000):
            kernel.machine.nic.inject(frame(eth0.dev_addr, PEER, bytes(60)))
        msleep(40)
        assert len(who) + dev_get_stats(eth0).rx_missed_errors == 3000
        assert woken
        assert any(comm.startswith(b"ksoftirqd/") for comm in who)

    kernel = in_thread(body, cpus=1)
    text = kernel.run(["cat", "/proc/softirqs"]).stdout.decode()
    row = next(line for line in text.splitlines() if "NET_RX" in line)
    assert sum(map(int, row.split()[1:])) > 5


# ---- segmentation and its opposite ---------------------------------------------------------------------------
def numbered_offload():
    """A protocol of one byte, a running number, and payload: what GRO merges and GSO takes apart."""
    from glasskernel.net.core.gro import gro_cb, skb_gro_header, skb_gro_pull, skb_gro_receive
    from glasskernel.net.netdevice import PacketOffload
    from glasskernel.net.skbuff import skb_pull, skb_segment

    def gro_receive(held, skb):
        at = skb_gro_header(skb, 1)
        number = skb.head[at]
        skb_gro_pull(skb, 1)
        for p in held:
            if not gro_cb(p).same_flow:
                continue
            if p.head[p.data] + gro_cb(p).count != number or not skb_gro_receive(p, skb):
                gro_cb(p).same_flow = False
                return p
        return None

    def gro_complete(skb, nhoff):
        skb.shinfo.gso_segs = gro_cb(skb).count

    def gso_segment(skb, features):
        skb_pull(skb, 1)
        segs = skb_segment(skb)
        for i, seg in enumerate(segs):
            seg.head[seg.network_header] += i
        return segs

    return PacketOffload(ETH_P_TEST, gso_segment, gro_receive, gro_complete)


def test_packets_that_continue_each_other_go_up_as_one(in_thread):
    def body(kernel, net):
        from glasskernel.net.core.dev import dev_add_offload, dev_add_pack
        from glasskernel.net.skbuff import skb_copy_bits

        eth0 = net.dev_by_name[b"eth0"]
        up(kernel, eth0)
        dev_add_offload(kernel, numbered_offload())
        got = []

        def receive(skb, dev, ptype, orig_dev):
            got.append((skb_copy_bits(skb, 0, skb.len), skb.shinfo.gso_segs, skb.shinfo.gso_size))
            kfree_skb(skb)
            return 0

        dev_add_pack(kernel, PacketType(ETH_P_TEST, receive))
        for number in (1, 2, 3, 7, 8):
            kernel.machine.nic.faults.delay[kernel.machine.nic.frames + 1] = 1_000_000 - 1000 * number
            kernel.machine.nic.inject(frame(eth0.dev_addr, PEER, bytes((number,)) + bytes((64 + number,)) * 59))
        msleep(12)
        assert sum(max(segs, 1) for _, segs, _ in got) == 5
        whole = b"".join(data[1:] for data, _, _ in sorted(got))
        assert sorted(whole) == sorted(b"".join(bytes((64 + n,)) * 59 for n in (1, 2, 3, 7, 8)))

    in_thread(body)


def test_a_big_packet_is_cut_for_a_card_that_cannot(in_thread):
    from glasskernel.net.core.dev import dev_add_offload, dev_queue_xmit
    from glasskernel.net.skbuff import skb_add_data_frag

    def body(kernel, net):
        nic, eth0 = kernel.machine.nic, net.dev_by_name[b"eth0"]
        up(kernel, eth0)
        dev_add_offload(kernel, numbered_offload())
        seen, freed = [], []
        nic.watch.append(lambda direction, data: seen.append(data))
        skb = packet(eth0, b"\x05")
        skb.network_header = skb.transport_header = skb.data + 14
        payload = bytes(range(256)) * 12
        skb_add_data_frag(skb, payload)
        skb.shinfo.gso_size = 1000
        skb.destructor = lambda _skb: freed.append(True)
        assert dev_queue_xmit(skb) == 0
        msleep(8)
        assert [data[14] for data in seen] == [5, 6, 7, 8]
        assert b"".join(data[15:] for data in seen)[: len(payload)] == payload
        assert [len(data) for data in seen] == [1015, 1015, 1015, 87]
        assert freed == [True]

    in_thread(body)


# ---- namespaces -------------------------------------------------------------------------------------------------
def test_a_namespace_has_an_lo_of_its_own_and_nothing_else(boot):
    kernel = boot()
    done = kernel.run(["/bin/bash", "-c", "readlink /proc/self/ns/net; unshare -n bash -c "
                       "'readlink /proc/self/ns/net; grep -c : /proc/net/dev; grep -o lo: /proc/net/dev'"])
    first, second, count, name = done.stdout.decode().split()
    assert first != second and (count, name) == ("1", "lo:")
    assert kernel.run(["true"]).status == 0                  # time for the worker
    assert len(kernel.net.net_namespace_list) == 1


def test_a_card_comes_back_when_its_namespace_ends(in_thread):
    from glasskernel.net.core.dev import dev_change_net_namespace
    from glasskernel.net.core.net_namespace import CLONE_NEWNET, copy_net_ns
    from glasskernel.net.core.rtnl import rtnl_lock, rtnl_unlock
    from glasskernel.net.types import put_net

    def body(kernel, net):
        eth0 = net.dev_by_name[b"eth0"]
        new = copy_net_ns(CLONE_NEWNET, net, kernel)
        rtnl_lock(kernel)
        dev_change_net_namespace(eth0, new, b"")
        rtnl_unlock(kernel)
        assert (sorted(new.dev_by_name), list(net.dev_by_name)) == ([b"eth0", b"lo"], [b"lo"])
        put_net(new)
        msleep(20)
        assert sorted(net.dev_by_name) == [b"eth0", b"lo"] and eth0.net is net
        assert new not in kernel.net.net_namespace_list

    in_thread(body)


def test_the_calls_of_unshare_newnet(boot):
    """As ../shared's edges of c-unsharenet show them, as far as in_thread go."""
    kernel = boot()
    kernel.run(["ip", "link"])                               # the network is up
    with call_graph(kernel) as graph:
        assert kernel.run(["unshare", "-n", "true"]).status == 0
    assert_chain(graph, "unshare_nsproxy_namespaces", "create_new_namespaces", "copy_net_ns", "setup_net", "ops_init",
                 "loopback_net_init", "register_netdev", "register_netdevice", "call_netdevice_notifiers_info",
                 "raw_notifier_call_chain")
    assert_chain(graph, "loopback_net_init", "alloc_netdev_mqs", "loopback_setup")
    assert_chain(graph, "register_netdev", "rtnl_lock_killable", "mutex_lock_killable")
    assert_chain(graph, "register_netdev", "rtnl_unlock", "netdev_run_todo", "__rtnl_unlock", "mutex_unlock")
    for callee in ("dev_get_valid_name", "loopback_dev_init", "list_netdevice", "linkwatch_init_dev", "dev_init_scheduler",
                   "rtnl_is_locked", "rtmsg_ifinfo"):
        assert_chain(graph, "register_netdevice", callee)


def test_drivers_that_are_not_polled_by_napi_may_hand_up_one_or_many(in_thread):
    from glasskernel.net.core.dev_receive import netif_receive_skb, netif_receive_skb_list
    from glasskernel.net.ethernet.eth import eth_type_trans

    def body(kernel, net):
        got, events = [], []
        kernel.tp.netif_receive_skb_list_entry = lambda skb: events.append("list")
        kernel.tp.netif_receive_skb_entry = lambda skb: events.append("one")
        listen(kernel, got)

        def received(payload):
            skb = packet(net.loopback_dev, payload)
            skb.protocol = eth_type_trans(skb, net.loopback_dev)
            return skb

        assert netif_receive_skb(received(b"1")) == 0
        netif_receive_skb_list([received(b"2"), received(b"3")])
        assert [data for _, data, _ in got] == [b"1", b"2", b"3"]
        assert events == ["one", "list", "list"]

    in_thread(body)


def test_a_card_that_hangs_is_reset(in_thread):
    from glasskernel.net.core.dev import dev_queue_xmit

    def body(kernel, net):
        nic, eth0 = kernel.machine.nic, net.dev_by_name[b"eth0"]
        up(kernel, eth0)
        nic._descriptor_done = lambda at, command, when: None
        for _ in range(300):
            dev_queue_xmit(packet(eth0, bytes(60)))
        assert eth0.tx.stopped
        del nic._descriptor_done
        msleep(12_000)
        msleep(1200)                                         # the reset, and the link again
        assert eth0.priv.tx_timeout_count == 1 and eth0.tx.trans_timeout == 1
        seen = []
        nic.watch.append(lambda direction, data: seen.append(data))
        dev_queue_xmit(packet(eth0, bytes(60)))
        msleep(8)
        assert seen and not eth0.tx.stopped

    kernel = in_thread(body)
    assert "NETDEV WATCHDOG: eth0 (e1000): transmit queue 0 timed out" in kernel.dmesg()
    assert "Reset adapter" in kernel.dmesg()


def test_a_machine_without_a_card_has_lo(boot):
    kernel = boot()
    kernel.machine.has_nic = False
    done = kernel.run(["/bin/bash", "-c", "ip -o link | wc -l; ping -c 1 127.0.0.1 >/dev/null; echo $?; lspci | wc -l"])
    assert done.stdout.split() == [b"1", b"0", b"1"], done.stderr
