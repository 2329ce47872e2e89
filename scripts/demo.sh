#!/bin/bash
# What `make demo` runs inside Glasskernel: ordinary programs doing ordinary work.
# It also runs on Linux itself (in an empty directory), which shows the two agree.

bold='' plain=''
if [ -t 1 ]; then bold=$'\e[1m' plain=$'\e[0m'; fi
section() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
have() {
    command -v "$1" >/dev/null || { echo "(no $1 on this host: section left out)"; return 1; }
}

section "Which kernel is this?"
uname -srm
cat /proc/version
printf 'up for %s seconds, load %s\n' "$(cut -d' ' -f1 /proc/uptime)" "$(cut -d' ' -f1-3 /proc/loadavg)"

section "The shell: loops, functions, arithmetic, here-documents"
fib() { local a=0 b=1; while [ "$a" -lt "$1" ]; do printf '%d ' "$a"; local next=$((a + b)); a=$b b=$next; done; echo; }
fib 100
for word in a kernel you can see through; do printf '%s(%d) ' "$word" ${#word}; done
echo
while read -r name age; do echo "$name is $age"; done <<PEOPLE
Linux $((2019 - 1991))
UNIX $((2019 - 1969))
PEOPLE

section "Processes: background jobs, wait, exit status, signals"
(exit 3) & wait $!; echo "a child left with status $?"
sleep 1000 & kill -TERM $!; wait $! 2>/dev/null; echo "sleep was killed by signal $(($? - 128))"
trap 'echo "the shell caught SIGUSR1"' USR1; kill -USR1 $$
(sleep 1; echo "one second of virtual time later") & wait

section "coreutils in a pipeline"
seq 1 2000 | sort -R --random-source=/dev/zero | sort -n | tail -n 3 | paste -sd' '
printf '%s\n' pipe inode page pipe task page pipe | sort | uniq -c | sort -rn

section "grep, sed, awk"
if have awk; then
    printf '%s\n' 'read 3 4096' 'write 1 12' 'read 5 100' 'close 3 0' >calls
    grep -c read calls
    sed -E 's/^(\w+) ([0-9]+).*/\1(fd=\2)/' calls | paste -sd' '
    awk '{bytes[$1] += $3} END {for (c in bytes) print c, bytes[c]}' calls | sort
fi

section "Files: links, modes, renames, find"
mkdir -p tree/{a,b}/c && echo hello >tree/a/file && ln tree/a/file tree/b/hard && ln -s ../a/file tree/b/soft
chmod 640 tree/a/file && mv tree/b/hard tree/b/c/moved
stat -c '%A %h links, %s bytes' tree/b/c/moved
find tree | sort | paste -sd' '
cat tree/b/soft
df -hT . /tmp | awk '{print $2, $7}'

section "tar and gzip, there and back"
if have gzip; then
    tar -cf - tree | gzip -9 >tree.tar.gz && mkdir back && gzip -dc tree.tar.gz | tar -xf - -C back
    diff -r tree back/tree && echo "$(stat -c %s tree.tar.gz) bytes hold $(tar -tzf tree.tar.gz | wc -l) entries"
fi

section "A C program, compiled here"
if have gcc; then
    cat >hello.c <<'C'
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
int main(void)
{
    int fds[2], n, status;
    pipe(fds);
    if (fork() == 0) {
        for (n = 1; n <= 10; n++)
            write(fds[1], &n, sizeof n);
        _exit(7);
    }
    close(fds[1]);
    int sum = 0;
    while (read(fds[0], &n, sizeof n) == sizeof n)
        sum += n;
    wait(&status);
    printf("the numbers from the child add up to %d; it left with %d\n", sum, WEXITSTATUS(status));
    return 0;
}
C
    gcc -O1 -w -o hello hello.c && ./hello
fi

section "Python inside Python"
have python3 && python3 -c '
import mmap, os, platform
m = mmap.mmap(-1, 3 * mmap.PAGESIZE)
m[mmap.PAGESIZE] = 42
print(f"Python {platform.python_version()} on {platform.system()} {platform.release()}, page {mmap.PAGESIZE}")
print("2**100 =", 2**100, "| pid", os.getpid(), "| byte", m[mmap.PAGESIZE])'

section "Who is running?"
have ps && ps -eo pid,ppid,stat,comm | head -n 15

section "Looking at ourselves through /proc"
grep -E '^(Name|State|Pid|VmRSS|Threads)' /proc/self/status
head -n 4 /proc/self/maps
grep -E '^(MemTotal|MemFree|Cached)' /proc/meminfo
ls -l /proc/self/fd | awk 'NR > 1 {print $9, $10, $11}' | head -n 3

section "The end"
