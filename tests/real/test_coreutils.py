"""coreutils, unmodified: the same script on this host's Linux and inside must say the same."""


def test_ls_cp_mv_rm_ln_and_mkdir_change_the_tree(agree):
    agree("""
        mkdir -p a/b/c && echo one >a/one && cp a/one a/b/two && ln a/one a/hard && ln -s one a/soft
        ls -R a; ls -l a/one a/hard a/soft | awk '{print $1, $2, $5, $9, $10, $11}'; ls -F a; ls -1p a; ls -id a | wc -w
        cp -r a copy && diff -r a copy && mv copy moved && ls moved
        mv -n moved/one moved/hard; ls moved
        rm a/one && cat a/hard && cat a/soft; echo "status $?"
        rmdir a/b; echo "status $?"; rm -r a && ls; mkdir moved; echo "status $?"
        cp -a moved again && find again | sort""")


def test_mv_between_file_systems_copies(agree):
    result = agree("""
        d=/dev/shm/$$ && mkdir $d && echo data >f && chmod 640 f && touch -d @1000000000 f && mkdir t && echo x >t/x
        mv f $d/f && mv t $d && stat -c '%a %Y %s' $d/f && ls && cat $d/f $d/t/x && rm -r $d; df --output=fstype /dev/shm""")
    assert result.stdout.startswith(b"640 1000000000 5\n")


def test_cp_keeps_holes_modes_and_times_when_asked(agree):
    agree("""
        dd if=/dev/zero of=sparse bs=1 count=1 seek=1048575 status=none
        printf x >>sparse; stat -c %s sparse; cp --sparse=always sparse copy; cmp sparse copy && echo same
        touch -d '2001-02-03 04:05:06.789' sparse; chmod 751 sparse
        cp -p sparse kept; stat -c '%a %s %.9Y' kept; cp kept plain; stat -c %a plain""")


def test_sort_uniq_and_wc_count_words(agree):
    agree("""
        printf '%s\\n' pear apple fig apple pear apple >words
        sort words | uniq -c | sort -k1,1nr -k2 ; sort -u words | wc; wc -lwc words words
        printf '10 b\\n9 a\\n10 a\\n' | sort -n -k1,1 -k2; printf '1M\\n2K\\n3\\n' | sort -h; sort -c words; echo $?
        seq 3000 | sort -R --random-source=/dev/zero | sort -n -S 1k -T . | md5sum""")


def test_head_tail_tr_cut_paste_join_comm_and_seq_filter(agree):
    agree("""
        seq 100 >n; head -n 3 n; tail -n 2 n; tail -c 5 n; head -n -98 n; tail -n +99 n
        echo 'Hello World' | tr a-z A-Z | tr -d L | tr -s O; printf 'a:b:c\\n' | cut -d: -f1,3; cut -c1 n | tail -1
        seq 3 | paste -sd+; paste -d, n n | head -2; printf '1 x\\n2 y\\n' >l; printf '2 Y\\n3 Z\\n' >r
        join l r; join -a1 -a2 l r; printf 'a\\nb\\n' >p; printf 'b\\nc\\n' >q; comm p q; seq -w 8 2 12; seq 5 -2 1
        printf 'abcdefgh' | fold -w 3; echo; nl -ba l; tac l; rev l; expand -t4 <<<$'a\\tb'; split -n 2 l s; ls s*""")


def test_printf_expr_test_and_numfmt_compute(agree):
    agree("""
        /usr/bin/printf '%5.2f|%-5s|%05d|%x|%b\\n' 3.14159 ab 42 255 'a\\tb'
        expr 6 '*' 7; expr length hello; expr substr hello 2 3; expr 1 = 2; echo $?
        [ -d / ] && echo dir; /usr/bin/test 3 -gt 5; echo $?; numfmt --to=iec 1048576; factor 360; seq -s' ' 10
        basename /a/b.c .c; dirname /a/b; echo -e 'x\\ny'; yes | head -2; true; echo $?; false; echo $?""")


def test_date_formats_any_time(agree):
    agree("""
        date -u -d @0; date -u -d @1568577600 '+%Y-%m-%d %H:%M:%S %j %a'; TZ=Asia/Seoul date -d @0 +%FT%T%z
        date -u -d '2019-09-15 +1 month' +%F; touch -d @86400 f; date -u -r f +%F""")


def test_stat_touch_chmod_chown_and_ln_change_metadata(agree):
    agree("""
        umask 027; touch f; mkdir d; stat -c '%n %A %a %F %h %s %B' f d | sed 's/ [0-9]* 512/ N 512/'
        chmod u+x,g-r f; stat -c %a f; chmod 4755 f; stat -c %A f; chmod 1777 d; stat -c %A d; chmod +t,g+s d
        stat -c %a d; chown $(id -u):$(id -g) f && stat -c %a f; touch -a -d @5 f; touch -m -d @6 f; stat -c '%X %Y' f
        touch -r f g; stat -c '%X %Y' g; ln -s f l; stat -c '%F %N' l; readlink l; readlink -f l | sed 's,.*/,,'
        ln f h; stat -c %h f; chmod 000 f; stat -c '%A %a' f; touch -c none; ls none; truncate -s 12345 g; stat -c %s g
        truncate -s -345 g; stat -c %s g; mktemp -u XXXX | wc -c; realpath -m --relative-to=/a/b /a/c; sync""")


def test_du_and_df_add_up(agree):
    agree("""
        mkdir d; head -c 100000 /dev/zero >d/a; head -c 5000 /dev/zero >d/b; ln d/a d/c
        du --apparent-size -b d/a d/b; du -B1 --apparent-size d/b | cut -f1
        df . | wc -l; df --output=target / | tail -1; df -P /dev | head -1""")


def test_df_shows_type_size_and_use_of_every_mount(run):
    """B012, B445: df -h, df -Th."""
    lines = run("df -Th").stdout.decode().splitlines()
    assert lines[0].split() == ["Filesystem", "Type", "Size", "Used", "Avail", "Use%", "Mounted", "on"]
    rows = {line.split()[-1]: line.split() for line in lines[1:]}
    assert rows["/tmp"][1] == "tmpfs"
    assert rows["/tmp"][5] == "0%"
    assert rows["/"][1] == "overlay"


def test_mkfifo_dd_tee_od_and_checksums_move_bytes(agree):
    agree("""
        mkfifo p; stat -c %F p; seq 5 >p & cat p; wait
        dd if=/dev/zero bs=4k count=3 status=none | wc -c; printf 0123456789 | dd bs=1 skip=3 count=4 status=none; echo
        dd if=/dev/zero of=z bs=1000 count=3 conv=notrunc 2>&1 | head -2; printf abc | tee x y | od -c; cat x y; echo
        printf 'abc\\0\\377' | od -An -tx1; od -A d -t d4 z | head -2; printf abc | sha256sum; printf abc | md5sum
        printf abc | cksum; printf abc | base64; printf YWJj | base64 -d; echo; head -c 70000 /dev/zero | sha1sum
        seq 2 | tee /dev/full >/dev/null; echo "status $?"; echo x >/dev/full; echo "status $?" """)


def test_timeout_nice_env_nohup_and_xargs_run_commands(agree):
    agree("""
        timeout 0.1 sleep 10; echo $?; timeout -s KILL 0.1 sleep 10; echo $?; timeout 5 true; echo $?
        timeout 1 nosuch; echo $?; nice; nice -n 7 nice; nice -n 5 nice -n 30 nice; env -i A=1 B=2 env; env A=3 sh -c 'echo $A'
        env -u HOME sh -c 'echo [$HOME]'; nohup echo hi </dev/null 2>/dev/null; stdbuf -oL echo line
        printf '%s\\n' 1 2 3 | xargs -n1 echo n; printf 'a b' | xargs -I{} echo '<{}>'; seq 20 | xargs -P4 -n5 sh -c 'exit 0'
        echo $?; sleep 0.01 && echo slept; kill -l 9; kill -l TERM""")


def test_nproc_counts_the_cpus_of_the_machine(boot):
    assert boot(cpus=3).run(["nproc"]).stdout == b"3\n"
    assert boot(cpus=1).run(["nproc"]).stdout == b"1\n"


def test_uname_names_the_machine(run):
    """A021, B002."""
    words = run("uname -a").stdout.decode().split()
    assert words[0] == "Linux"
    assert words[2] == "5.3.0-glasskernel"
    assert words[3].startswith("#") and "SMP" in words
    assert words[-2:] == ["x86_64", "GNU/Linux"]
    assert run("uname -r; hostname; uname -m").stdout.split()[::2] == [b"5.3.0-glasskernel", b"x86_64"]


def test_id_and_whoami_know_who_asks(run):
    assert run("id -u; id -g; whoami; groups").stdout == b"0\n0\nroot\nroot\n"
    assert run("id -u; id -g; id -un; cat /proc/self/status | grep -E '^[UG]id'", uid=1, gid=1, cwd="/").stdout == (
        b"1\n1\ndaemon\nUid:\t1\t1\t1\t1\nGid:\t1\t1\t1\t1\n"
    )


def test_tty_pwd_and_who_answer_without_a_terminal(agree):
    agree("tty; echo $?; tty -s; echo $?; pwd | sed 's,.*/,,' | wc -w; cd / && /bin/pwd; logname 2>&1 | head -0; arch")


def test_shuf_and_urandom_follow_the_seed(boot):
    script = "head -c 16 /dev/urandom | od -An -tx1; seq 10 | shuf | paste -sd,"
    outputs = {boot(seed=seed).run(["/bin/sh", "-c", script]).stdout for seed in (1, 1, 2)}
    assert len(outputs) == 2


def test_install_tsort_csplit_pr_and_dircolors_too(agree):
    agree("""
        echo x >s; install -m 600 -D s d/e/t; stat -c %a d/e/t; printf 'a b\\nb c\\n' | tsort; seq 10 | csplit -s - 4 7; wc -l xx*
        seq 3 | pr -T -2; printf 'x\\ty\\n' | unexpand -a; seq 9 | shuf -n 3 --random-source=/dev/zero | wc -l; ptx <<<abc | wc -l
        pathchk a/b && echo ok; link s k && unlink k && ls; sum s; b2sum s | cut -c1-8; echo 5 | tee a | cat - a; vdir | wc -l
        chmod -R a+rX d; ls -ld d/e | cut -c1-10; mknod f p && stat -c %F f; hostid | wc -c; users | wc -l; stty 2>&1 | head -1""")
