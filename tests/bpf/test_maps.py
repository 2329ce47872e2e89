"""bpf(2): maps of every type, from bpf(2) and from programs; objects in bpffs; bpftool."""
from __future__ import annotations


def lines(result):
    assert result.status == 0, result
    return result.stdout.decode().splitlines()


def test_an_array_has_all_its_elements(bpf_c):
    """bpf(2): BPF_MAP_TYPE_ARRAY: elements are zeros at first and cannot be deleted"""
    assert lines(bpf_c("""
int a = map_new(BPF_MAP_TYPE_ARRAY, 4, 16, 3, 0), k = 2, n; long v[2] = {5, 6}, got[2];
int r = map_get(a, &k, got); printf("%d %ld\\n", r, got[0]);
r = map_set(a, &k, v); map_get(a, &k, got); printf("%d %ld\\n", r, got[1]);
r = map_del(a, &k); printf("%d %d\\n", r, errno);
r = map_do(BPF_MAP_UPDATE_ELEM, a, &k, v, BPF_NOEXIST); printf("%d %d\\n", r, errno);
k = 3; r = map_get(a, &k, got); printf("%d %d\\n", r, errno); r = map_set(a, &k, v); printf("%d %d\\n", r, errno);
for (int *p = 0; !map_next(a, p, &n); p = &k) printf("%d ", k = n);
printf("%d\\n", errno);
r = map_new(BPF_MAP_TYPE_ARRAY, 8, 8, 1, 0); printf("%d %d\\n", r, errno);
""")) == ["0 0", "0 6", "-1 22", "-1 17", "-1 2", "-1 7", "0 1 2 2", "-1 22"]


def test_a_hash_keeps_what_was_put_in(bpf_c):
    """bpf(2): BPF_MAP_TYPE_HASH: BPF_NOEXIST, BPF_EXIST, E2BIG when full, keys one after the other"""
    for flags in ("0", "BPF_F_NO_PREALLOC"):
        assert lines(bpf_c("""
int a = map_new(BPF_MAP_TYPE_HASH, 8, 8, 3, %s), r; long k = 10, v = 1, n, sum = 0, count = 0;
r = map_get(a, &k, &v); printf("%%d %%d\\n", r, errno);
r = map_do(BPF_MAP_UPDATE_ELEM, a, &k, &v, BPF_EXIST); printf("%%d %%d\\n", r, errno);
for (k = 10; k < 13; k++) map_set(a, &k, &k);
r = map_set(a, &k, &v); printf("%%d %%d\\n", r, errno);
k = 11; r = map_do(BPF_MAP_UPDATE_ELEM, a, &k, &v, BPF_NOEXIST); printf("%%d %%d\\n", r, errno);
map_get(a, &k, &v); printf("%%ld\\n", v);
for (long *p = 0; !map_next(a, p, &n); p = &k) k = n, sum += k, count++;
printf("%%ld %%ld\\n", sum, count);
k = 11; map_del(a, &k); r = map_del(a, &k); printf("%%d %%d\\n", r, errno);
k = 99; r = map_set(a, &k, &k); map_get(a, &k, &v); printf("%%d %%ld\\n", r, v);
while (!map_next(a, 0, &k)) map_del(a, &k), count--;
printf("%%ld\\n", count);
""" % flags)) == ["-1 2", "-1 2", "-1 7", "-1 17", "11", "33 3", "-1 2", "0 99", "0"]


def test_programs_count_in_a_hash(bpf_c):
    """bpf-helpers(7): map_lookup_elem(), map_update_elem(), and an atomic addition in the value"""
    assert lines(bpf_c("""
int fd = LOAD(ST(BPF_DW,10,-8,4), MOVR(2,10), ALU(BPF_ADD,2,-8), LDMAP(1,h), CALL(1), JMP(BPF_JEQ,0,0,3),
    MOV(1,1), XADD(BPF_DW,0,1,0), JA(15), MOV(1,0), STX(BPF_DW,10,1,-16), STX(BPF_DW,10,1,-24), STX(BPF_DW,10,1,-32),
    STX(BPF_DW,10,1,-40), STX(BPF_DW,10,1,-48), ST(BPF_DW,10,-56,1), MOVR(3,10), ALU(BPF_ADD,3,-56),
    MOVR(2,10), ALU(BPF_ADD,2,-8), LDMAP(1,h), MOV(4,0), CALL(2), MOV(0,0), EXIT());
if (fd < 0) puts(text);
for (int i = 0; i < 5; i++) prog_run(fd);
long k = 4, v[6]; int r = map_get(h, &k, v); printf("%d %ld\\n", r, v[0]);
"""))[-1] == "0 5"


def test_the_least_recently_used_goes_first(bpf_c):
    """bpf(2): an LRU hash is never full; what programs look at stays"""
    assert lines(bpf_c("""
int a = map_new(BPF_MAP_TYPE_LRU_HASH, 8, 8, 4, 0); long v; int left = 0;
for (long k = 0; k < 100; k++) map_set(a, &k, &k);
for (long k = 0; k < 100; k++) left += !map_get(a, &k, &v);
long k = 99; printf("%d %d\\n", left, map_get(a, &k, &v));
""")) == ["4 0"]


def test_values_of_each_cpu(bpf_c):
    """bpf(2): per-CPU maps: bpf(2) reads and writes an array of values, a program has that of its CPU"""
    assert lines(bpf_c("""
for (int type = 0; type < 2; type++) {
    int a = type ? map_new(BPF_MAP_TYPE_PERCPU_HASH, 4, 4, 2, 0) : map_new(BPF_MAP_TYPE_PERCPU_ARRAY, 4, 4, 2, 0), k = 1;
    long v[4] = {1, 2, 3, 4}, got[4]; int sum = 0;
    map_set(a, &k, v); map_get(a, &k, got); printf("%ld %ld ", got[0], got[3]);
    int fd = LOAD(ST(BPF_W,10,-4,1), MOVR(2,10), ALU(BPF_ADD,2,-4), LDMAP(1,a), CALL(1), JMP(BPF_JNE,0,0,1), EXIT(),
        MOV(1,100), XADD(BPF_W,0,1,0), MOV(0,0), EXIT());
    prog_run(fd); map_get(a, &k, got);
    for (int i = 0; i < 4; i++) sum += got[i];
    printf("%d\\n", sum);
}""")) == ["1 4 110", "1 4 110"]


def test_queues_and_stacks(bpf_c):
    """bpf-helpers(7): map_push_elem(), map_pop_elem(); bpf(2): BPF_MAP_LOOKUP_AND_DELETE_ELEM"""
    assert lines(bpf_c("""
for (int type = BPF_MAP_TYPE_QUEUE; type <= BPF_MAP_TYPE_STACK; type++) {
    int a = map_new(type, 0, 8, 3, 0), r; long v;
    for (v = 1; v < 4; v++) map_set(a, 0, &v);
    r = map_set(a, 0, &v); printf("%d %d ", r, errno);
    map_do(BPF_MAP_UPDATE_ELEM, a, 0, &v, BPF_EXIST);
    map_get(a, 0, &v); printf("%ld:", v);
    while (!map_do(BPF_MAP_LOOKUP_AND_DELETE_ELEM, a, 0, &v, 0)) printf(" %ld", v);
    printf(" %d\\n", errno);
}""")) == ["-1 7 2: 2 3 4 2", "-1 7 4: 4 3 2 2"]


def test_tail_calls(bpf_c):
    """bpf-helpers(7): bpf_tail_call() replaces the program; it goes on if there is none, and after 32 of them"""
    assert lines(bpf_c("""
int progs = map_new(BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 4, 0), k = 1, id = 0;
int target = LOAD(MOV(0,77), EXIT());
int main_ = LOAD(LDMAP(2,progs), MOV(3,1), CALL(12), MOV(0,5), EXIT());
if (main_ < 0) puts(text);
printf("%lld ", prog_run(main_)); map_set(progs, &k, &target); printf("%lld ", prog_run(main_));
printf("%d ", map_get(progs, &k, &id)); printf("%d ", id > 0);
int self = LOAD(LDVALUE(1,m,0), LDX(BPF_W,2,1,0), ALU(BPF_ADD,2,1), STX(BPF_W,1,2,0), LD64(1,0), MOV(0,0), EXIT());
int again = LOAD(MOVR(6,1), LDVALUE(1,m,0), LDX(BPF_W,2,1,0), ALU(BPF_ADD,2,1), STX(BPF_W,1,2,0), MOVR(1,6), LDMAP(2,progs),
                 MOV(3,2), CALL(12), MOV(0,9), EXIT());
k = 2; map_set(progs, &k, &again); printf("%lld ", prog_run(again));
int zero = 0; long v; map_get(m, &zero, &v); printf("%ld\\n", v);
""")) == ["5 77 0 1 9 34"]


def test_maps_in_maps(bpf_c):
    """bpf(2): BPF_MAP_TYPE_ARRAY_OF_MAPS and _HASH_OF_MAPS: maps like the first one only; a program goes through both"""
    assert lines(bpf_c("""
for (int type = BPF_MAP_TYPE_ARRAY_OF_MAPS; type <= BPF_MAP_TYPE_HASH_OF_MAPS; type++) {
    union bpf_attr a; memset(&a, 0, sizeof a);
    a.map_type = type, a.key_size = 4, a.value_size = 4, a.max_entries = 2, a.inner_map_fd = m;
    int outer = sys_bpf(BPF_MAP_CREATE, &a, 112), k = 1, r, z = 0, id = 0; long v = 41;
    r = map_set(outer, &k, &h); printf("%d %d ", r, errno);
    r = map_set(outer, &k, &m); map_set(m, &z, &v); map_get(outer, &k, &id); printf("%d %d ", r, id > 0);
    int fd = LOAD(ST(BPF_W,10,-4,1), MOVR(2,10), ALU(BPF_ADD,2,-4), LDMAP(1,outer), CALL(1), JMP(BPF_JNE,0,0,1), EXIT(),
        ST(BPF_W,10,-4,0), MOVR(1,0), MOVR(2,10), ALU(BPF_ADD,2,-4), CALL(1), JMP(BPF_JNE,0,0,1), EXIT(),
        LDX(BPF_DW,1,0,0), ALU(BPF_ADD,1,1), STX(BPF_DW,0,1,0), MOV(0,0), EXIT());
    if (fd < 0) puts(text);
    prog_run(fd); map_get(m, &z, &v); printf("%ld\\n", v);
}""")) == ["-1 22 0 1 42", "-1 22 0 1 42"]


def test_objects_have_names_in_bpffs(bpf_c):
    """bpf(2): BPF_OBJ_PIN, BPF_OBJ_GET: a map lives as long as its name; names are in bpffs only"""
    assert lines(bpf_c("""
int z = 0, r; long v = 12;
printf("%d ", mount("none", "/sys/fs/bpf", "bpf", 0, "mode=700")); map_set(m, &z, &v);
union bpf_attr a; memset(&a, 0, sizeof a);
a.pathname = (long)"/sys/fs/bpf/map", a.bpf_fd = m; printf("%ld ", sys_bpf(BPF_OBJ_PIN, &a, 112));
r = sys_bpf(BPF_OBJ_PIN, &a, 112); printf("%d ", errno);
a.pathname = (long)"/tmp/map"; r = sys_bpf(BPF_OBJ_PIN, &a, 112); printf("%d ", errno);
close(m); memset(&a, 0, sizeof a); a.pathname = (long)"/sys/fs/bpf/map"; m = sys_bpf(BPF_OBJ_GET, &a, 112);
v = 0; map_get(m, &z, &v); printf("%ld ", v);
struct stat s; stat("/sys/fs/bpf/map", &s); printf("%o %d ", s.st_mode, mkdir("/sys/fs/bpf/d", 0755));
printf("%d ", rename("/sys/fs/bpf/map", "/sys/fs/bpf/d/m2")); printf("%d ", unlink("/sys/fs/bpf/d/m2"));
r = sys_bpf(BPF_OBJ_GET, &a, 112); printf("%d %d\\n", r, errno);
""")) == ["0 0 17 1 12 100600 0 0 0 -1 2"]


def test_a_frozen_map_and_modes(bpf_c):
    """bpf(2): BPF_MAP_FREEZE; BPF_F_RDONLY and BPF_F_WRONLY of a descriptor; BPF_F_RDONLY_PROG for programs"""
    assert lines(bpf_c("""
int k = 0, r; long v = 1; union bpf_attr a;
int ro = map_new(BPF_MAP_TYPE_ARRAY, 4, 8, 1, BPF_F_RDONLY), wo = map_new(BPF_MAP_TYPE_ARRAY, 4, 8, 1, BPF_F_WRONLY);
r = map_set(ro, &k, &v); printf("%d %d ", r, errno); r = map_get(wo, &k, &v); printf("%d %d ", r, errno);
memset(&a, 0, sizeof a); a.map_fd = m; r = sys_bpf(BPF_MAP_FREEZE, &a, 112); printf("%d ", r);
r = map_set(m, &k, &v); printf("%d %d ", r, errno); r = map_get(m, &k, &v); printf("%d ", r);
int p = map_new(BPF_MAP_TYPE_ARRAY, 4, 8, 1, BPF_F_RDONLY_PROG);
r = LOAD(LDVALUE(1,p,0), ST(BPF_DW,1,0,1), MOV(0,0), EXIT()); printf("%d %d\\n", r, !!strstr(text, "write into map forbidden"));
""")) == ["-1 1 -1 1 0 -1 1 0 -1 1"]


def test_memory_is_charged_to_the_user(bpf_c):
    """bpf(2): EPERM beyond RLIMIT_MEMLOCK; fdinfo says how much a map takes"""
    assert lines(bpf_c("""
struct rlimit l = {65536, 65536}; setrlimit(RLIMIT_MEMLOCK, &l);
int big = map_new(BPF_MAP_TYPE_ARRAY, 4, 4096, 100, 0); printf("%d %d\\n", big, errno);
int small = map_new(BPF_MAP_TYPE_ARRAY, 4, 4096, 2, 0); char name[64], line[100]; sprintf(name, "/proc/self/fdinfo/%d", small);
FILE *f = fopen(name, "r"); while (fgets(line, 100, f)) if (strncmp(line, "pos", 3) && strncmp(line, "mnt", 3)) fputs(line, stdout);
"""))[:11] == ["-1 1", "flags:\t02000002", "map_type:\t2", "key_size:\t4", "value_size:\t4096", "max_entries:\t2",
              "map_flags:\t0x0", "memlock:\t12288", "map_id:\t3", "frozen:\t0"]


def test_loading_a_program_calls_vmalloc(bpf_c):
    """lab B38: a kprobe at vmalloc() with stacks, while programs are loaded"""
    seen = lines(bpf_c("""
mount("t", "/sys/kernel/debug", "debugfs", 0, 0);
chdir("/sys/kernel/debug/tracing");
system("echo 'p:vmalloc vmalloc' > kprobe_events; echo 1 > options/stacktrace; echo 1 > events/kprobes/vmalloc/enable");
int fd = LOAD(MOV(0,0), EXIT());
system("echo 0 > events/kprobes/vmalloc/enable; grep -v '^#' trace");
"""))
    assert any("vmalloc: (vmalloc+0x" in line for line in seen), seen
    stack = [line.split("=> ")[1] for line in seen if "=> " in line]
    calls = [name for name in stack if name in ("bpf_prog_calc_tag", "bpf_check", "bpf_prog_load", "__x64_sys_bpf")]
    assert calls[:4] == ["bpf_prog_calc_tag", "bpf_check", "bpf_prog_load", "__x64_sys_bpf"], stack


def test_bpftool_shows_objects(run):
    """bpftool(8): map create, update, dump, lookup, show; prog show"""
    result = run("""set -e
mount -t bpf none /sys/fs/bpf
bpftool map create /sys/fs/bpf/t type hash key 4 value 8 entries 16 name numbers
bpftool map update pinned /sys/fs/bpf/t key 1 0 0 0 value 2 0 0 0 0 0 0 0
bpftool map lookup pinned /sys/fs/bpf/t key 1 0 0 0
bpftool map dump pinned /sys/fs/bpf/t
bpftool map show
bpftool map delete pinned /sys/fs/bpf/t key 1 0 0 0
bpftool map dump pinned /sys/fs/bpf/t
rm /sys/fs/bpf/t; bpftool map show; echo done""")
    text = result.stdout.decode()
    assert "key: 01 00 00 00  value: 02 00 00 00 00 00 00 00" in text, (text, result.stderr)
    assert "hash  name numbers  flags 0x0" in text
    assert "key 4B  value 8B  max_entries 16  memlock 4096B" in text
    assert "Found 0 elements" in text and text.endswith("done\n")


def test_the_longest_prefix(bpf_c):
    """bpf(2): BPF_MAP_TYPE_LPM_TRIE: the longest prefix wins; deleting gives the shorter one back"""
    assert lines(bpf_c("""
struct { uint32_t len; unsigned char a[4]; } k = {16, {10, 1, 0, 0}}, q = {32, {10, 1, 2, 3}}, n, *p = 0;
int t = map_new(BPF_MAP_TYPE_LPM_TRIE, 8, 8, 10, BPF_F_NO_PREALLOC), r, count = 0; long v = 16;
map_set(t, &k, &v); k.len = 8; v = 8; map_set(t, &k, &v); k.len = 24; k.a[2] = 2; v = 24; map_set(t, &k, &v);
k.a[2] = 9; v = 99; map_set(t, &k, &v); k.a[2] = 2;
r = map_get(t, &q, &v); printf("%d %ld ", r, v); q.a[2] = 3; map_get(t, &q, &v); printf("%ld ", v);
q.a[1] = 2; map_get(t, &q, &v); printf("%ld ", v); q.a[0] = 11; r = map_get(t, &q, &v); printf("%d %d ", r, errno);
r = map_del(t, &k); q.a[0] = 10; q.a[1] = 1; q.a[2] = 2; map_get(t, &q, &v); printf("%d %ld ", r, v);
r = map_del(t, &k); printf("%d %d ", r, errno);
while (!map_next(t, p, &n)) k = n, p = &k, count++;
printf("%d ", count); k.len = 33; r = map_set(t, &k, &v); printf("%d %d ", r, errno);
r = map_new(BPF_MAP_TYPE_LPM_TRIE, 8, 8, 10, 0); printf("%d %d\\n", r, errno);
""")) == ["0 24 16 8 -1 2 0 16 -1 2 3 -1 22 -1 22"]


def test_bpftool_loads_and_shows_a_program(bpf_shell):
    """bpftool(8): prog load, show, dump xlated with the lines of the source; maps of the object; prog run"""
    result = bpf_shell("""set -e
mount -t bpf none /sys/fs/bpf
bpftool prog load /bpf/rxq_info.o /sys/fs/bpf/p
bpftool prog show pinned /sys/fs/bpf/p
bpftool map dump name config
bpftool prog dump xlated pinned /sys/fs/bpf/p
head -c 100 /bin/true > /tmp/in; bpftool prog run pinned /sys/fs/bpf/p data_in /tmp/in repeat 2
rm /sys/fs/bpf/p; bpftool prog show; bpftool map show; echo done""")
    text = result.stdout.decode()
    assert "xdp  name rxq_info  tag " in text and "  gpl\n" in text, (text, result.stderr)
    assert "map_ids 1,2,3" in text and '"value": 0' in text
    assert "; if (!ifindex)" in text and "(85) call bpf_map_lookup_elem#1" in text and "map[id:1]" in text
    assert "Return value: 2, duration (average):" in text and text.endswith("done\n")


def test_a_value_with_a_lock(bpf_shell):
    """bpf-helpers(7): bpf_spin_lock() in a value whose BTF says so; a global variable; a function of its own"""
    result = bpf_shell("""set -e
mount -t bpf none /sys/fs/bpf
bpftool prog load /bpf/locks.o /sys/fs/bpf/p pinmaps /sys/fs/bpf
head -c 100 /bin/true > /tmp/in; bpftool prog run pinned /sys/fs/bpf/p data_in /tmp/in repeat 3 | cut -d, -f1
bpftool map lookup pinned /sys/fs/bpf/counters key 7 0 0 0
bpftool map dump name locks.bss""")
    text = "".join(result.stdout.decode().split())
    assert "Returnvalue:2" in text and '"packets":3,"bytes":150' in text and '"seen":3' in text, (text, result.stderr)


def test_statistics_and_the_switch_for_users(bpf_c):
    """proc(5): kernel.bpf_stats_enabled; kernel.unprivileged_bpf_disabled cannot be taken back"""
    assert lines(bpf_c("""
int fd = LOAD(MOV(0,0), EXIT()), r; char name[64], line[100]; unsigned long ns = 0, runs = 9;
prog_run(fd); system("echo 1 > /proc/sys/kernel/bpf_stats_enabled"); prog_run(fd); prog_run(fd);
sprintf(name, "/proc/self/fdinfo/%d", fd); FILE *f = fopen(name, "r");
while (fgets(line, 100, f)) sscanf(line, "run_time_ns: %lu", &ns), sscanf(line, "run_cnt: %lu", &runs);
printf("%lu %d\\n", runs, ns > 0); fflush(stdout);
system("echo 1 > /proc/sys/kernel/unprivileged_bpf_disabled; echo 0 2>/dev/null > /proc/sys/kernel/unprivileged_bpf_disabled; "
       "cat /proc/sys/kernel/unprivileged_bpf_disabled");
setuid(1000); r = LOAD(MOV(0,0), EXIT()); printf("%d %d\\n", r, errno);
"""))[-3:] == ["2 1", "1", "-1 1"]
