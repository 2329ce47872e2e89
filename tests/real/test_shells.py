"""busybox ash, dash and bash, unmodified, with the host's Linux as the reference."""
import pytest

from tests.conftest import need

POSIX = """
    # variables, quoting, arithmetic, functions, case, loops
    a=5; b='x  y'; echo "$a" $b "$b" $((a * 7 % 4)) ${a:-no} ${c:-none} ${#b} ${b%y}
    f() { echo "f got $# args: $*"; return 3; }
    f one 'two three'; echo "status $?"
    for i in 1 2 3; do case $i in 2) continue;; esac; printf '%s ' $i; done; echo
    i=0; while [ $i -lt 3 ]; do i=$((i + 1)); done; until [ $i -eq 0 ]; do i=$((i - 1)); done; echo $i
    # expansion and redirection
    echo hello >f; echo again >>f; cat <f; cat <<E
here $a $(echo sub)
E
    echo err >&2; { echo out; echo err2 >&2; } 2>&1 | sort; exec 3>g; echo three >&3; exec 3>&-; cat g; echo *
    ls nosuch 2>/dev/null; echo $?; cat f | tr a-z A-Z | wc -l; set -- p q r; shift; echo $1 $#; (cd /; pwd); eval 'echo ev'
    # processes
    (exit 7); echo $?; sh -c 'kill -9 $$'; echo $?; true && echo and || echo or; ! true; echo $?
    sleep 0.05 & wait $!; echo waited $?; (sleep 0.02; exit 5) & wait $!; echo $?; trap 'echo usr1' USR1; kill -USR1 $$
    trap 'echo bye' EXIT; x=$(printf 'a\\nb\\n\\n'); echo "$x"; umask; umask 077; umask; read l <f; echo "$l"
    nosuchcommand 2>/dev/null; echo $?; /etc/passwd 2>/dev/null; echo $?; . ./nosuch 2>/dev/null || echo dot
"""


@pytest.mark.parametrize("shell", ["/bin/dash", "/bin/bash"])
def test_shell_script_behaves_as_on_linux(shell, agree):
    agree(POSIX, shell=shell)


def test_busybox_ash_behaves_as_on_linux(agree):
    need("busybox", "busybox-static")
    agree("exec busybox ash -c \"$SCRIPT\"", env={"SCRIPT": POSIX})


def test_busybox_applets_are_ordinary_programs(agree):
    need("busybox", "busybox-static")
    agree("""
        b=busybox; $b seq 3 | $b tac; echo hello | $b sed s/l/L/g; $b mkdir d; $b touch d/f; $b ls d; $b find . | $b sort
        $b echo hi | $b md5sum; $b awk 'BEGIN {print 6*7}'; $b tar -cf t d && $b tar -tf t; $b expr 2 + 3; $b dd if=/dev/zero bs=1k count=1 | $b wc -c
        $b printf '%03d\\n' 7; $b stat -c %s t; $b nosuch; echo $?; $b vi --help 2>&1 | $b head -0; $b test -d d; echo $?""",
        stderr=False)  # fmt: skip


def test_bash_arrays_patterns_and_process_substitution(agree):
    agree("""
        a=(x y z); a+=(w); echo ${#a[@]} ${a[@]:1:2} ${!a[@]}; declare -A m=([k]=v [l]=w); for k in k l; do echo $k=${m[$k]}; done
        s=foobar; echo ${s^^} ${s/o/0} ${s//o/0} ${s:1:3} ${s@Q}; [[ $s =~ ^f(o+) ]] && echo ${BASH_REMATCH[1]}; shopt -s extglob
        echo {1..5} {a,b}{1,2}; diff <(seq 3) <(seq 4); cat <<<here; printf -v v %04d 42; echo $v; echo $((16#52)) $((16#ec)) $((2**40))
        time_taken() { local t=$SECONDS; echo $((SECONDS - t)); }; time_taken; mapfile -t l < <(seq 3); echo ${l[2]}
        coproc cat; echo ping >&${COPROC[1]}; read -u ${COPROC[0]} r; echo $r; eval "exec ${COPROC[1]}>&-"; wait; exec {fd}>f; echo $((fd >= 10)); set -o pipefail
        false | true; echo $? ${PIPESTATUS[@]}; wait -n 2>/dev/null; echo $?; ulimit -n 64; ulimit -n; type -t cd ls nosuch""", stderr=False)


def test_bash_waits_for_jobs_and_reports_signals(agree):
    agree("""
        for i in 1 2 3; do (sleep 0.0$i; exit $i) & p[i]=$!; done; for i in 3 1 2; do wait ${p[i]}; echo $?; done
        sleep 10 & kill $!; wait $!; echo $?; sleep 10 & kill -STOP $!; kill -KILL $!; wait $!; echo $?
        (trap 'echo term; exit 4' TERM; while :; do sleep 0.01; done) & sleep 0.2; kill $!; wait $!; echo $?
        trap 'echo chld' CHLD; (exit 1) & wait; trap - CHLD; trap '' INT; (kill -INT $BASHPID; echo survived)
        sh -c 'kill -SEGV $$'; echo $?; sh -c 'ulimit -c 0; kill -ABRT $$'; echo $?""", stderr=False)


def test_a_thousand_forks_of_one_shell(agree):
    agree("n=0; for i in $(seq 200); do n=$((n + $(echo $i))); done; echo $n; for i in $(seq 100); do (exit $i); s=$((s + $?)); done; echo $s")


def test_a_long_pipeline_moves_a_megabyte(agree):
    agree("head -c 1000000 /dev/zero | tr '\\0' a | cat | cat | cat | dd bs=1000 status=none | cat | md5sum; yes | head -c 300000 | wc -c")


def test_here_documents_larger_than_a_pipe(agree):
    agree("x=$(seq 30000); cat <<E | md5sum\n$x\nE\nwc -c <<<\"$x\"")


def test_stdin_reaches_the_program_and_stops_at_its_end(agree):
    agree("cat; echo; read x; echo \"[$x]\" $?", stdin=b"one\ntwo\nno newline")
    agree("tr a-z A-Z", stdin=b"x" * 200_000)


def test_scripts_run_by_their_first_line(agree):
    agree("""
        printf '#!/bin/sh\\necho "$0 $#" "$@"\\n' >s; chmod +x s; ./s a 'b c'; printf '#!/usr/bin/awk -f\\nBEGIN {print "awk", ARGC}\\n' >w
        chmod +x w; ./w x; printf '#!./s extra arg\\n' >n; chmod +x n; ./n 1; printf 'echo no first line\\n' >p; chmod +x p; ./p
        printf '#!/nosuch\\n' >m; chmod +x m; ./m 2>/dev/null; echo $?; printf '#!./m2\\n' >m2; chmod +x m2; ./m2 2>/dev/null; echo $?
        printf '#!/bin/sh' >e; chmod +x e; ./e; echo $?""")
