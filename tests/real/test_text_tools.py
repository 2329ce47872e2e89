"""grep, sed, awk, find, diff, tar, gzip, xz, make: the same output as on the host."""
from tests.conftest import need


def test_grep_finds_patterns(agree):
    agree("""
        printf 'alpha\\nbeta\\nGamma\\n\\n' >f; mkdir d; cp f d/g
        grep a f; grep -n ^b f; grep -ic g f; grep -v a f; grep -E 'al|am' f; grep -o 'm\\+' f; grep -rl beta . | sort
        grep -q zzz f; echo $?; grep x nosuch; echo $?; grep -F -x beta f; grep -P '\\bbe' f; grep -A1 -B1 beta f; egrep -w be f
        printf 'a\\0b' | grep -c b; grep -H --colour=always beta f""")


def test_sed_edits_streams_and_files(agree):
    agree("""
        seq 5 | sed -n 2,3p; seq 3 | sed 's/2/two/;/3/d'; echo 'hello world' | sed -E 's/(\\w+) (\\w+)/\\2 \\1/'
        seq 4 | sed '2i\\new' ; printf 'a\\nb\\n' >f; sed -i.bak s/a/A/ f; cat f f.bak; sed '$!N;s/\\n/-/' f; sed = f; sed y/ab/xy/ f
        sed -n '/A/,/b/{=;p}' f; sed 5q </dev/null; sed 'bad' f; echo $?""")


def test_awk_computes(agree):
    need("gawk", "gawk")
    agree("""
        printf 'a 1\\nb 2\\na 3\\n' >f
        gawk '{s[$1] += $2} END {for (k in s) print k, s[k] | "sort"}' f; gawk -F, '{print $2}' <<<1,2; gawk 'NR==2' f
        gawk 'BEGIN {printf "%.3f %d %s\\n", atan2(0,-1), 2^10, toupper("x"); print length("abc"), substr("hello",2,3)}'
        gawk 'BEGIN {while (("echo l1; echo l2" | getline x) > 0) print x; "date -u -d @0 +%Y" | getline y; print y; system("exit 3")}'
        gawk '{print > ($1 ".out")} END {exit 4}' f; echo $?; cat a.out b.out; mawk 'BEGIN {print index("abc","c")}'""")


def test_find_walks_and_acts(agree):
    agree("""
        mkdir -p a/b c; touch a/1.txt a/b/2.txt c/3.dat; ln -s a l; chmod 600 a/1.txt; touch -d '10 days ago' c/3.dat
        find . | sort; find . -name '*.txt' | sort; find . -type l; find . -type d -empty; find . -perm 600 -printf '%f %m\\n'
        find . -mtime +5; find . -newer c/3.dat -type f | sort; find . -name '*.txt' -exec wc -c {} + | sort; find . -maxdepth 1 | sort
        find . -name '*.dat' -delete; find c; find -L l -name '*.txt' | sort; find nosuch; echo $?; find . -size -1c -type f | wc -l
        find . -print0 | sort -z | xargs -0 -n2 echo""")


def test_diff_cmp_and_patch_compare(agree):
    agree("""
        seq 10 >a; sed 's/5/five/' a >b; diff a b; echo $?; diff -u --label a --label b a b >p; cat p; cmp a b; echo $?
        diff3 a b a; sdiff -s a b | wc -l; cmp a a; echo $?""")


def test_tar_packs_and_unpacks_a_tree(agree):
    need("xz", "xz-utils")
    agree("""
        mkdir -p t/d; echo hello >t/f; ln t/f t/h; ln -s f t/s; seq 10000 >t/d/big; chmod 751 t/d; find t | xargs touch -h -d @1000000
        tar -cf a.tar --sort=name --owner=0 --group=0 --numeric-owner t; tar -tvf a.tar; sha256sum a.tar; mkdir o; tar -xf a.tar -C o
        diff -r t o/t && stat -c '%a %Y %h' o/t/f o/t/d; tar -czf a.tgz t && tar -tzf a.tgz | wc -l; tar -cJf a.txz t; tar -xJOf a.txz t/f
        gzip -9nc t/d/big | sha256sum; gzip -k t/d/big; gzip -t t/d/big.gz; zcat t/d/big.gz | tail -1; gunzip <t/d/big.gz | cmp - t/d/big
        xz -k t/d/big && xz -dc t/d/big.xz | md5sum; tar -xf nosuch; echo $?; printf garbage | gzip -d; echo $?""")


def test_make_builds_what_is_out_of_date(agree):
    need("make", "make")
    agree("""
        printf 'all: out\\nout: in\\n\\ttr a-z A-Z <in >out; @echo made\\n' | sed 's/; @/\\n\\t@/' >Makefile; echo text >in; touch -d @1 in
        make; cat out; make; touch -d '1 hour' in 2>/dev/null; make -j2 -s; make -n all; make nosuch; echo $?
        printf 'a b c:\\n\\t@sleep 0.05; echo $@\\n.PHONY: a b c\\n' >m2; make -f m2 -j3 a b c | sort; V=1 make -f m2 -s a
        printf 'fail:\\n\\texit 3\\n' >m3; make -f m3; echo $?""", stderr=False)


def test_less_and_more_copy_when_there_is_no_terminal(agree):
    need("less", "less")
    agree("seq 3 | less; seq 2 | more; seq 4 | column -c 80; printf 'a b\\nccc d\\n' | column -t; printf x | hexdump -C; seq 5 | xxd | head -2")


def test_file_recognises_types(agree):
    need("file", "file")
    agree("echo hi >t; gzip -kn t; mkdir d; ln -s t l; file t t.gz d l /dev/null; printf '#!/bin/sh\\n' >s; file s; : >e; file e")


def test_man_prints_a_page(run):
    """B129, B449: man ps | grep RSS; man signal."""
    need("man", "man-db")
    assert b"SIGSEGV" in run("man 7 signal | cat").stdout or b"No manual entry" in run("man 7 signal 2>&1").stdout
