"""What traces show of TCP: states, and Linux's calls."""
from __future__ import annotations

import re

PY = "/usr/bin/python3"
CONNECTION = r"""
import socket, time
t = "/sys/kernel/tracing/"
def w(name, text): open(t + name, "w").write(text)
l = socket.socket(); l.bind(("127.0.0.1", 5556))
%s
w("tracing_on", "1")
l.listen(); c = socket.socket(); c.connect(("127.0.0.1", 5556)); s, _ = l.accept()
c.sendall(b"hello"); s.recv(100); c.close(); s.close(); l.close()
w("tracing_on", "0")
print(open(t + "trace").read())
"""
STATES = """\
sport=5556 dport=0 saddr=127.0.0.1 daddr=0.0.0.0 TCP_CLOSE TCP_LISTEN
sport=0 dport=5556 saddr=127.0.0.1 daddr=127.0.0.1 TCP_CLOSE TCP_SYN_SENT
sport=P dport=5556 saddr=127.0.0.1 daddr=127.0.0.1 TCP_SYN_SENT TCP_ESTABLISHED
sport=5556 dport=0 saddr=127.0.0.1 daddr=0.0.0.0 TCP_LISTEN TCP_SYN_RECV
sport=5556 dport=P saddr=127.0.0.1 daddr=127.0.0.1 TCP_SYN_RECV TCP_ESTABLISHED
sport=P dport=5556 saddr=127.0.0.1 daddr=127.0.0.1 TCP_ESTABLISHED TCP_FIN_WAIT1
sport=5556 dport=P saddr=127.0.0.1 daddr=127.0.0.1 TCP_ESTABLISHED TCP_CLOSE_WAIT
sport=P dport=5556 saddr=127.0.0.1 daddr=127.0.0.1 TCP_FIN_WAIT1 TCP_FIN_WAIT2
sport=P dport=5556 saddr=127.0.0.1 daddr=127.0.0.1 TCP_FIN_WAIT2 TCP_CLOSE
sport=5556 dport=P saddr=127.0.0.1 daddr=127.0.0.1 TCP_CLOSE_WAIT TCP_LAST_ACK
sport=5556 dport=P saddr=127.0.0.1 daddr=127.0.0.1 TCP_LAST_ACK TCP_CLOSE
sport=5556 dport=0 saddr=127.0.0.1 daddr=0.0.0.0 TCP_LISTEN TCP_CLOSE
"""
# pairs that Linux's function graph of the same program has
EDGES = """
tcp_sendmsg tcp_sendmsg_locked; tcp_sendmsg_locked tcp_push; tcp_push __tcp_push_pending_frames
__tcp_push_pending_frames tcp_write_xmit; tcp_write_xmit __tcp_transmit_skb; __tcp_transmit_skb ip_queue_xmit
tcp_write_xmit tcp_event_new_data_sent; ip_protocol_deliver_rcu tcp_v4_rcv; tcp_v4_rcv __inet_lookup_established
tcp_v4_rcv tcp_v4_do_rcv; tcp_v4_do_rcv tcp_rcv_established; tcp_rcv_established tcp_data_queue
tcp_data_queue tcp_queue_rcv; tcp_data_queue tcp_data_ready; tcp_data_ready sock_def_readable
tcp_rcv_established tcp_ack; tcp_ack tcp_clean_rtx_queue; tcp_v4_connect tcp_connect; tcp_v4_connect inet_hash_connect
tcp_rcv_state_process tcp_v4_conn_request; tcp_v4_conn_request tcp_conn_request; tcp_conn_request inet_reqsk_alloc
tcp_conn_request tcp_v4_send_synack; tcp_v4_send_synack tcp_make_synack; tcp_v4_send_synack ip_build_and_send_pkt
tcp_rcv_state_process tcp_finish_connect; tcp_finish_connect tcp_init_transfer; tcp_v4_rcv tcp_check_req
tcp_check_req tcp_v4_syn_recv_sock; tcp_v4_syn_recv_sock tcp_create_openreq_child
tcp_create_openreq_child inet_csk_clone_lock; inet_csk_clone_lock sk_clone_lock
tcp_check_req inet_csk_complete_hashdance; tcp_v4_rcv tcp_child_process; tcp_child_process tcp_rcv_state_process
inet_accept inet_csk_accept; inet_recvmsg tcp_recvmsg; tcp_recvmsg skb_copy_datagram_iter; tcp_recvmsg tcp_cleanup_rbuf
tcp_close tcp_send_fin; tcp_fin tcp_time_wait; tcp_time_wait inet_twsk_alloc; tcp_time_wait tcp_done
tcp_done inet_csk_destroy_sock; inet_csk_destroy_sock tcp_v4_destroy_sock; tcp_set_state inet_put_port
inet_csk_listen_start inet_csk_get_port; tcp_recvmsg tcp_rcv_space_adjust; release_sock tcp_release_cb
"""


def test_states_are_told_in_linuxs_order(run):
    """sock/inet_sock_set_state, as the reference machine shows it for the same program"""
    result = run([PY, "-c", CONNECTION % 'w("events/sock/inet_sock_set_state/enable", "1")'])
    assert result.status == 0, result.stderr
    got = []
    for line in result.stdout.decode().splitlines():
        found = re.search(r"inet_sock_set_state: family=AF_INET protocol=IPPROTO_TCP (sport=\d+ dport=\d+ saddr=\S+ daddr=\S+) "
                          r"saddrv6=::ffff:\S+ daddrv6=::ffff:\S+ oldstate=(\S+) newstate=(\S+)", line)
        if found:
            flow = re.sub(r"=(?!5556)\d{5}\b", "=P", found[1])
            got.append(f"{flow} {found[2]} {found[3]}")
    assert sorted(got) == sorted(STATES.splitlines())
    assert got[0] == STATES.splitlines()[0]


def test_a_stack_from_the_system_call_to_the_wakeup(run):
    """Pairs of caller and callee are those of Linux (reference/edges/tcp-python)."""
    result = run([PY, "-c", CONNECTION % 'w("current_tracer", "function_graph"); w("options/funcgraph-irqs", "1")'])
    assert result.status == 0, result.stderr
    stack, edges = {}, set()
    for line in result.stdout.decode().splitlines():
        found = re.match(r"\s*(\d+)\).*?\|(\s+)(\S+)\(\)(;| \{)", line)
        if found:
            cpu, depth, name = found[1], len(found[2]), found[3]
            above = stack.setdefault(cpu, {})
            for d in [d for d in above if d >= depth]:
                del above[d]
            if above:
                edges.add((above[max(above)], name))
            above[depth] = name
    wanted = [tuple(pair.split()) for line in EDGES.strip().splitlines() for pair in line.split(";")]
    missing = [pair for pair in wanted if pair not in edges]
    assert not missing
