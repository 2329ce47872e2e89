R=$1; mkdir -p $R; cd $R || exit 1
mount -t tmpfs -o size=1m,mode=700 top $R && cd $R
show() { echo "-- $*"; sed -n "s# \([0-9]*\) \([0-9]*\) [0-9:]* # #; s#^[0-9]* [0-9]* [0-9:]* ##; s#$R#R#gp" /proc/self/mountinfo | sed 's/shared:[0-9]*/shared:N/; s/master:[0-9]*/master:N/; s/,inode64//; s/,seclabel//; s/,noswap//' ; }
run() { "$@" 2>&1 | sed "s#$R#R#g"; echo "rc ${PIPESTATUS[0]}: $*" | sed "s#$R#R#g"; }
show start
mkdir a b c; echo A > a/f; echo B > b/f; touch file1 file2; echo first > file1; echo second > file2
run mount --bind a b; cat b/f; run umount b; cat b/f
run mount --bind file2 file1; cat file1; run rm file1; run mv file1 x; run umount file1; cat file1
run mount --bind a file1; run mount --bind file1 a; run mount --bind nope a
run mount -t tmpfs -o size=64k t1 a; run mkdir a/sub; run mount -t tmpfs t2 a/sub; show nested
run umount a; run mount --rbind a c; show rbind; ls c; run umount -l c; run umount a/sub; run umount a; run umount a
run mount -t tmpfs t1 a; cd a; run umount $R/a; cd ..; run umount a
run mount -t tmpfs -o ro t1 a; run touch a/x; run mount -o remount,rw a; run touch a/x; exec 5>a/y; run mount -o remount,ro a; exec 5>&-; run mount -o remount,ro a; run touch a/z; run rm a/x; run chmod 600 a/x; run ln a/x a/zz; run mkdir a/d; run mkdir a/x; run sh -c 'echo > a/x'
run mount -o remount,bind,rw,nosuid,noexec,nodev a; show flags; run umount a
run mount --bind a b; run mount -o remount,bind,ro b; run touch b/new; run touch a/new; run umount b; ls a
run mount -t suchfs x a; run mount -t tmpfs -o bogus=1 x a; run mount -t tmpfs -o size=abc x a
run mount -t tmpfs t1 a; run mkdir a/m; run mount --move a b; show moved; run mount --move b b/m; run umount b
run rmdir b; mkdir b; run mount -t tmpfs t b; run rmdir b; run mv b q; run umount b
run mount --make-shared .; show shared; mkdir p; run mount --bind a p; mkdir a/s; run mount -t tmpfs s1 a/s; show prop; run umount p/s; show after; run umount p; run mount --make-private .; show priv
run mount --bind a p; run mount --make-shared p; run mount --bind p c; run mount --make-slave c; show slave; run mount -t tmpfs sl p/s; ls -d c/s; show slave2; run umount c/s; show slave3; run umount p/s; run umount c; run umount p
run mount --bind a p; run mount --make-unbindable p; run mount --bind p c; run umount p
run mount -t tmpfs -o size=8k small a; run dd if=/dev/zero of=a/big bs=4k count=5 status=none; stat -c %s a/big; df --output=size,used,avail a | tail -1; run rm a/big; df --output=used a | tail -1; run umount a
run mount -t tmpfs -o nr_inodes=3 small a; run touch a/1 a/2 a/3 a/4; run umount a
run mount -t proc p a; ls -d a/1; run umount a
run umount /nonexistent; run umount file1; run umount a
cp -a /bin/true a/t; run mount --bind a a; run mount -o remount,bind,noexec a; run a/t; run umount a; run a/t
mknod a/null c 1 3; run mount --bind a a; run mount -o remount,bind,nodev a; run cat a/null; run umount a; run cat a/null
cp /bin/sleep a/sl; a/sl 0.3 & sleep 0.1; run sh -c 'echo x > a/sl'; wait; run sh -c 'echo x >> a/sl'
unshare -m bash -c "mount --bind $R/file2 $R/file1; cat $R/file1"; cat file1
unshare -m bash -c "mount -t tmpfs x $R/a; touch $R/a/inns; ls $R/a"; ls a
mkdir pr; mount -t tmpfs pr pr; mkdir -p pr/old pr/bin; unshare -m bash -c "cd $R/pr; pivot_root . old; echo pivoted; cd /; echo *; pwd"
run mount -t tmpfs u1 b; run chroot b /bin/true; run umount -l pr; run umount b; cd /; run umount $R; 
