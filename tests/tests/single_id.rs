//! A user without subordinate ids builds what root would: owners, devices and identities that the kernel cannot have
//! are mica's own.

use std::path::Path;

use mica_tests::{Image, Scene, base, machine};

const EPOCH: &str = "SOURCE_DATE_EPOCH=1700000000";

/// Builds in each scene; the images must be the same. Gives the last scene.
#[track_caller]
fn same_images(dockerfile: &str, mut scenes: Vec<Scene>) -> Scene {
    let build = |scene: &Scene| {
        let output = "type=image,rewrite-timestamp=true";
        let args = ["--output", output, "--build-arg", EPOCH, "-t", "built"];
        scene.build(dockerfile, args).ok();
        Image::read(scene, "built")
    };
    let images: Vec<_> = scenes.iter().map(build).collect();
    for (number, image) in images.iter().enumerate().skip(1) {
        images[0].must_equal(image, &format!("the builder number {number}"), &[]);
    }
    let last = scenes.pop().expect("there are scenes");
    last.is_clean();
    last
}

/// Root, a user with subordinate ids and one without.
fn with_base() -> Option<Vec<Scene>> {
    Some(vec![
        Scene::as_root()?,
        Scene::as_user()?,
        Scene::as_plain_user()?,
    ])
}

/// Debian, whose tools do what images are made with.
fn with_debian() -> Option<Vec<Scene>> {
    let shared = machine::shared()?;
    let archives = base::archives(&shared, &["debian"])?;
    let archive = archives.join("debian.tar");
    let scenes = with_base()?;
    for scene in &scenes {
        let input = std::fs::read(Path::new(&archive)).expect("an archive");
        scene.mica(["load"]).stdin(input).ok();
    }
    Some(scenes)
}

#[test]
fn owners_are_exact() {
    let Some(scenes) = with_base() else { return };
    let user = same_images(
        "\
FROM base
RUN for id in 0 1 1000 65534; do touch /f$id && chown $id:$id /f$id; done
RUN mkdir -p /d/e && echo x > /d/e/f && ln -s f /d/e/l && chown -R 33:44 /d && chown -h 5:6 /d/e/l && chown :7 /d/e
RUN stat -c '%u:%g %a %n' /f* /d /d/e /d/e/f /d/e/l > /owners
RUN chmod 6755 /f1 && chown 2:2 /f1 && stat -c '%a' /f1 > /mode
RUN tar -cf /t.tar d && mkdir /x && tar -xf /t.tar -C /x && rm /t.tar
RUN mknod /c c 1 3 && mknod -m 600 /b b 8 17 && mkfifo /p && stat -c '%t:%T %F' /c /b > /devices
COPY --chown=12:34 Dockerfile /copied
RUN stat -c '%u:%g' /copied > /owner && cp -a /copied /again
",
        scenes,
    );
    let owners = user.cat("built", "/owners");
    assert!(owners.contains("65534:65534 644 /f65534\n"), "{owners}");
    assert!(
        owners.ends_with("33:44 755 /d\n33:7 755 /d/e\n33:44 644 /d/e/f\n5:6 777 /d/e/l\n"),
        "{owners}"
    );
    assert_eq!(user.cat("built", "/mode"), "755\n");
    assert_eq!(
        user.cat("built", "/devices"),
        "1:3 character special file\n8:11 block special file\n"
    );
    assert_eq!(user.cat("built", "/owner"), "12:34\n");
}

#[test]
fn all_that_stat_tells_is_what_a_step_of_root_sees() {
    let Some(scenes) = with_debian() else { return };
    let told = "%n %u:%g %a %h %s %b %B %t:%T %F %Y";
    let user = same_images(
        &format!(
            "\
FROM debian:bookworm-slim
RUN mkdir -p /d/sub && cd /d && seq 5000 | head -c 12345 > lower && ln -s lower link && mkfifo fifo && mknod device c 5 6 \\
 && cp lower root && ln root second && chown -h 12:34 . sub lower link fifo device && touch -hd @1600000000 * .
# Whoever closes a file has the kernel forget how much space it takes.
RUN cat /d/lower /d/root > /dev/null && find /d -printf '%p %U:%G %m %n %s %b %y %T@\\n' | sort > /found \\
 && stat -c '{told}' /d /d/* > /told && stat -Lc '{told}' /d/link > /followed && stat -c '{told}' - < /d/lower > /open
RUN cd /d && echo more >> lower && echo new > own && chown 7:8 own && echo more >> own \\
 && stat -c '%n %u:%g %a %s' lower own > /changed && truncate -s 1000000 own && find . -name own -printf '%U:%G %s' > /truncated
"
        ),
        scenes,
    );
    let listed = user.cat("built", "/told");
    let line = "/d/lower 12:34 644 1 12345 25 512 0:0 regular file 1600000000\n";
    assert!(listed.contains(line), "{listed}");
    let open = user.cat("built", "/open");
    assert!(open.ends_with(&line["/d/lower".len()..]), "{open}");
    assert_eq!(
        user.cat("built", "/changed"),
        "lower 12:34 644 12350\nown 7:8 644 9\n"
    );
    assert_eq!(user.cat("built", "/truncated"), "7:8 1000000");
}

#[test]
fn an_id_beyond_every_range_is_one_as_any_other() {
    let Some(mut scenes) = with_base() else { return };
    // Subordinate ids do not go so far.
    scenes.remove(1);
    let user = same_images(
        "FROM base\nRUN touch /f && chown 4000000000:4000000000 /f && stat -c %u:%g /f > /owner\n",
        scenes,
    );
    assert_eq!(user.cat("built", "/owner"), "4000000000:4000000000\n");
}

#[test]
fn a_step_s_user_is_who_it_is_to_be() {
    let Some(scenes) = with_base() else { return };
    let user = same_images(
        "\
FROM base
RUN mkdir -m 1777 /shared && echo root > /shared/roots && mkdir -m 2775 /group && chown 0:50 /group
RUN echo secret > /closed && chmod 600 /closed && mkdir -m 700 /inner && echo x > /inner/file && chmod 644 /inner/file
RUN mkdir -m 700 /mine && chown 1000:1000 /mine
USER 1000:50
RUN id -u > /tmp/ids && id -g >> /tmp/ids && touch /shared/own /group/own && stat -c '%u:%g' /shared/own >> /tmp/ids
RUN ! cat /closed && ! echo x >> /etc/passwd && ! rm -f /shared/roots && ! mv /shared/roots /shared/r
RUN ! cat /inner/file && ! stat /inner/file && ! chown 1000 /closed && ! chmod 777 /etc && ! touch /new
RUN ! chown 0 /shared/own && chgrp 50 /shared/own && chmod 600 /shared/own && [ -O /shared/own ] && ! [ -w /etc/passwd ]
RUN cd /mine && (umask 777 && echo written > closed) && ! cat closed && chmod 400 closed && cat closed && ! echo > closed
RUN ! mknod /shared/null c 1 3 && ! ls /inner && cd /mine && touch a && mkdir b && rmdir b && ln a c && mv c d
USER root
RUN cat /inner/file && [ -r /closed ] && stat -c '%u:%g %a' /shared/own /mine/a > /tmp/all && ! [ -x /closed ]
",
        scenes,
    );
    assert_eq!(user.cat("built", "/tmp/ids"), "1000\n50\n1000:50\n");
    assert_eq!(user.cat("built", "/tmp/all"), "1000:50 600\n1000:50 644\n");
}

#[test]
fn mounts_have_their_owners() {
    let Some(user) = Scene::as_plain_user() else {
        return;
    };
    user.write("word", "secret\n");
    let dockerfile = "\
FROM base AS other
RUN mkdir /o && echo x > /o/f && chown 3:4 /o/f
FROM base
RUN --mount=type=secret,id=word,target=/w,mode=0440,uid=5,gid=6 stat -c '%u:%g %a' /w > /secret && cat /w
RUN --mount=type=cache,target=/c,uid=7,gid=8,mode=0750 stat -c '%u:%g %a' /c > /cache && touch /c/f && chown 9 /c/f && stat -c %u /c/f >> /cache
RUN --mount=type=bind,from=other,source=/o,target=/b stat -c '%u:%g' /b/f > /bound
RUN --mount=type=tmpfs,target=/t touch /t/f && chown 9:9 /t/f && stat -c '%u:%g' /t/f > /memory
RUN stat -c '%u:%g' /dev/null /dev /proc/sys > /foreign
";
    user.build(dockerfile, ["--secret", "id=word,src=word", "-t", "built"])
        .ok();
    assert_eq!(user.cat("built", "/secret"), "5:6 440\n");
    assert_eq!(user.cat("built", "/cache"), "7:8 750\n9\n");
    assert_eq!(user.cat("built", "/bound"), "3:4\n");
    assert_eq!(user.cat("built", "/memory"), "9:9\n");
    assert_eq!(user.cat("built", "/foreign"), "0:0\n0:0\n0:0\n");
    user.is_clean();
}

/// Of paths, descriptors and flags that mean nothing, or something out of the way, a step of root hears the same.
#[test]
fn odd_arguments_are_answered_as_by_the_kernel() {
    let Some(scenes) = with_debian() else { return };
    let user = same_images(
        "\
FROM debian:bookworm-slim
COPY --chmod=755 <<'END' /odd.pl
#!/usr/bin/perl
use POSIX (); my $x86 = `uname -m` =~ /x86_64/;
my ($fstatat, $statx, $chownat, $openat, $access) = $x86 ? (262, 332, 260, 257, 269) : (79, 291, 54, 56, 48);
my ($none, $fd) = ('', POSIX::open('/d/file')); my $directory = POSIX::open('/d'); my $long = 'x' x 5000; my $name = 'x' x 256;
mkdir '/gone'; my $gone = POSIX::open('/gone'); rmdir '/gone';
my @paths = ($none, '.', '/d/file', '/d/file/', '/d/file/.', '/d/link', '/d/link/', '/d/to-dir', '/d/to-dir/', '/d/dangling', '/d/round',
  '/d/../d/./file', '//d//file', 'file', 'd/file', $long, $name, '/proc/self/', '/proc/self/exe', '/proc/self/status', '/dev/fd/99', '/d/missing/file');
sub told { my $got = shift; $got < 0 ? $! + 0 : $got }
for my $path (@paths) { for my $from (-100, $fd, $directory, $gone, 99, -5) { for my $flags (0, 0x100, 0x1000, 0x1100, 0x800, 0x4) {
  my $at = $path; my $buffer = \"\\0\" x 300; my @got = told(syscall($fstatat, $from, $at, $buffer, $flags));
  my ($uid) = unpack $x86 ? 'x28L' : 'x24L', $buffer; push @got, $got[0] == 0 ? $uid : '-';
  $buffer = \"\\0\" x 300; push @got, told(syscall($statx, $from, $at, $flags, 0x7ff, $buffer));
  push @got, $got[-1] == 0 ? unpack('x20L', $buffer) : '-';
  push @got, told(syscall($chownat, $from, $at, -1, -1, $flags)) unless $at =~ m{^/proc|^/dev};
  print substr($path, 0, 20), \" $from $flags @got\\n\";
} } }
my $buffer = \"\\0\" x 300;
print 'pointers ', told(syscall($fstatat, -100, 8, $buffer, 0)), ' ', told(syscall($fstatat, -100, my $root = '/', 8, 0)), ' ',
  told(syscall($statx, -100, 8, 0, 0x7ff, $buffer)), ' ', told(syscall($statx, -100, $root, 0, 0x7ff, 8)), ' ',
  told(syscall($statx, -100, $root, 0, 0x80000000, $buffer)), ' ', told(syscall($openat, -100, 8, 0)), \"\\n\";
END
RUN mkdir d && echo 1 > d/file && ln -s file d/link && ln -s . d/to-dir && ln -s nothing d/dangling && ln -s round d/round \
 && chown -h 7:8 d d/* && mkdir -m 1777 /told && /odd.pl > /told/roots
USER 7:8
WORKDIR /told
RUN /odd.pl > /told/users
",
        scenes,
    );
    let told = user.cat("built", "/told/roots");
    let has = |line: &str| assert!(told.contains(line), "{line}: {told}");
    has("\n/d/link -100 0 0 7 0 7 0\n");
    has("\n/d/file/ -100 0 20 - 20 - 20\n");
    has("\n/d/round -100 0 40 - 40 - 40\n");
    assert!(told.starts_with(" -100 0 2 - 2 - 2\n"), "{told}");
}

/// The kernel of root's step is asked the same.
#[test]
fn every_way_to_open_a_file_is_checked() {
    let Some(scenes) = with_debian() else { return };
    let user = same_images(
        "\
FROM debian:bookworm-slim
COPY --chmod=755 <<'END' /open.pl
#!/usr/bin/perl
use Fcntl; my ($path, $new, $directory) = (010000000, O_CREAT | O_EXCL, O_DIRECTORY);
my %flags = (read => O_RDONLY, write => O_WRONLY, both => O_RDWR, empty => O_RDONLY | O_TRUNC, make => O_WRONLY | O_CREAT,
  new => O_WRONLY | $new, path => $path, nofollow => O_RDONLY | O_NOFOLLOW, directory => O_RDONLY | $directory);
my ($openat, $open) = `uname -m` =~ /x86_64/ ? (257, 2) : (56, 0);
opendir(my $inner, '/'); my $top = fileno($inner) // 3; my $at;
sub told { my $fd = shift; POSIX::close($fd) if $fd >= 0; $fd >= 0 ? 'opened' : $! + 0 }
use POSIX ();
for my $name (qw(closed inner/file inner readable writable link pipe search search/file group nothing usr/bin/perl)) {
  for my $kind (sort keys %flags) {
    my $flags = $flags{$kind} | ($kind eq 'path' ? 0 : O_NONBLOCK); my @got;
    push @got, told(syscall($openat, -100, \"/$name\", $flags, 0644));
    next if $kind eq 'new' || $kind eq 'make' && $name eq 'nothing';
    push @got, told(syscall($openat, $top, $at = $name, $flags, 0644));
    push @got, told(syscall(437, -100, $at = \"/$name\", pack('QQQ', $flags, $kind eq 'make' ? 0644 : 0, 0), 24));
    push @got, told($open ? syscall($open, $at = \"/$name\", $flags, 0644) : syscall($openat, -100, $at = \"/$name\", $flags, 0644));
    my $fd = syscall($openat, -100, $at = \"/$name\", $path);
    push @got, told(syscall($openat, -100, $at = \"/proc/self/fd/$fd\", $flags, 0644)) if $fd >= 0; POSIX::close($fd);
    print \"$name $kind @got\\n\";
  }
}
END
RUN echo 1 > closed && chmod 600 closed && mkdir -m 700 inner && echo 1 > inner/file && echo 1 > readable && echo 1 > writable \
 && chmod 622 writable && ln -s closed link && mkfifo -m 600 pipe && mkdir -m 711 search && echo 1 > search/file \
 && echo 1 > group && chown 0:700 group && chmod 640 group && mkdir -m 1777 /told && /open.pl > /told/roots
USER 33:33
RUN /open.pl > /told/users
USER 33:700
RUN /open.pl > /told/groups
",
        scenes,
    );
    let users = user.cat("built", "/told/users");
    let has = |line: &str| assert!(users.contains(line), "{line}: {users}");
    has("closed read 13 13 13 13 13\n");
    has("readable read opened opened opened opened opened\n");
    has("readable both 13 13 13 13 13\n");
    has("writable write opened opened opened opened opened\n");
    has("pipe read 13 13 13 13 13\n");
    has("inner/file read 13 13 13 13\n");
    has("group read 13 13 13 13 13\n");
    let groups = user.cat("built", "/told/groups");
    assert!(groups.contains("group read opened"), "{groups}");
}

#[test]
fn programs_that_change_their_user_work() {
    let Some(scenes) = with_debian() else { return };
    same_images(
        "\
FROM debian:bookworm-slim
RUN groupadd -g 700 staff2 && useradd -u 700 -g 700 -G 33 -m -s /bin/sh dev && passwd -l dev
RUN su dev -c 'id > /tmp/su && touch ~/made && test -O ~/made'
RUN setpriv --reuid=700 --regid=33 --clear-groups id > /setpriv && setpriv --reuid=700 --regid=33 --keep-groups grep '^$' -c /etc/shadow; true
RUN setpriv --reuid=700 --regid=700 --init-groups sh -c '! su root -c true </dev/null; ! cat /etc/shadow; id' > /fails 2>/dev/null; : > /var/log/btmp
RUN cp /usr/bin/id /usr/bin/sid && chown dev:33 /usr/bin/sid && chmod 6755 /usr/bin/sid && setpriv --reuid=1 --regid=1 --clear-groups sid > /sid
RUN printf '#!/bin/sh\\nid' > /usr/bin/script && chmod 4755 /usr/bin/script && su dev -c /usr/bin/script > /script
RUN install -d -o dev -g 33 -m 2750 /srv/d && install -o 5 -g 6 -m 640 /etc/hostname /srv/d/f && cp -a /srv/d /srv/e
RUN perl -e '$) = \"33 33 44\"; $> = 700; open F, q(>), q(/tmp/perl) or die; print F qq($< $> $( $)); $> = 0; die $! unless $> == 0'
RUN chgrp -R 44 /home/dev && tar -C / -cf /t.tar home srv && mkdir /x && tar -C /x -xpf /t.tar && find /x -printf '%U:%G %m %p\\n' | sort > /list && rm /t.tar
USER dev
WORKDIR /home/dev
RUN id > w && cd / && stat -c '%u:%g %a' /home/dev /srv/d > ~/stat; ls /srv/d > ~/ls
",
        scenes,
    );
}

#[test]
fn processes_are_told_apart() {
    let Some(scenes) = with_debian() else { return };
    let user = same_images(
        "\
FROM debian:bookworm-slim
COPY <<'END' /peer.pl
use Socket;
socket(my $s, PF_UNIX, SOCK_STREAM, 0); bind($s, pack_sockaddr_un('/tmp/s')); listen($s, 1); chmod 0777, '/tmp/s';
unless (fork) { $) = '33 33'; $( = 33; $< = $> = 44; socket(my $c, PF_UNIX, SOCK_STREAM, 0);
connect($c, pack_sockaddr_un('/tmp/s')) or die $!; sysread($c, my $x, 1); exit }
accept(my $c, $s); my ($pid, $uid, $gid) = unpack('lll', getsockopt($c, SOL_SOCKET, 17));
printf \"%d %d %d\\n\", $pid > 1, $uid, $gid; close $c; wait
END
RUN perl /peer.pl > /peer; rm /tmp/s
RUN sleep 60 & setpriv --reuid=5 --regid=6 --clear-groups sleep 60 & sleep 1; stat -c '%u:%g' /proc/$! > /proc-owner; \
    setpriv --reuid=5 --regid=5 --clear-groups sh -c \"! kill $$ && kill $! && ! kill %1\" 2>/dev/null; echo $? > /killed
RUN mkdir -p /r/etc /r/d && cp -a /bin /lib* /usr /r/ && ln -s /d /r/l && chroot /r sh -c 'touch /d/f && chown 3:4 /l/f && stat -c %u:%g /l/f' > /chrooted; \
    setpriv --reuid=5 --regid=5 --clear-groups chroot /r true 2>/dev/null; echo $? >> /chrooted; stat -c %u:%g /r/d/f >> /chrooted; rm -r /r
",
        scenes,
    );
    assert_eq!(user.cat("built", "/peer"), "1 44 33\n");
    assert_eq!(user.cat("built", "/proc-owner"), "5:6\n");
    assert_eq!(user.cat("built", "/chrooted"), "3:4\n125\n3:4\n");
}

/// A list is kept, agrees with the mode, is inherited and decides as the kernel of root's step has it.
#[test]
fn access_control_lists_are_those_of_a_step_of_root() {
    let Some(scenes) = with_debian() else { return };
    let user = same_images(
        "\
FROM debian:bookworm-slim
COPY --chmod=755 <<'END' /lists.pl
#!/usr/bin/perl
use POSIX (); use Fcntl; $| = 1;
my %number = `uname -m` =~ /x86_64/ ? (set => 188, lset => 189, fset => 190, get => 191, lget => 192, fget => 193, remove => 197, list => 194)
  : (set => 5, lset => 6, fset => 7, get => 8, lget => 9, fget => 10, remove => 14, list => 11);
my ($access, $default) = map { \"system.posix_acl_$_\" } qw(access default);
sub call { my $name = shift; my ($path, $second, @rest) = @_; my $got = $name eq 'list' ? syscall($number{list}, $path, $_[1], $_[2])
  : @rest ? syscall($number{$name}, $path, $second, $_[2], @rest[1 .. $#rest]) : syscall($number{$name}, $path, $second); $got == -1 ? 'E' . ($! + 0) : $got }
sub packed { pack 'L(SSL)*', 2, map { my ($tag, $bits, $id) = @$_; ($tag, $bits, $id // 0xffffffff) } @_ }
sub set { my ($path, $name, @entries) = @_; my $value = packed(@entries); call('set', $path, $name, $value, length $value, 0) }
sub shown { my ($path, $name) = @_; my $value = \"\\0\" x 512; my $got = call('get', $path, $name, $value, 512);
  $got =~ /^E/ ? $got : do { my (undef, @w) = unpack 'L(SSL)*', substr $value, 0, $got; my @t; push @t, join ':', splice @w, 0, 3 while @w; \"@t\" } }
sub told { my $path = shift; my $list = \"\\0\" x 512; my $n = call('list', $path, $list, 512);
  print \"$path \", sprintf('%o', (stat $path)[2]), ' [', shown($path, $access), '] [', shown($path, $default), \"] \", join(',', sort split /\\0/, substr $list, 0, $n), \"\\n\" }
my @all = ([1, 6], [2, 4, 33], [4, 4], [8, 6, 44], [8, 1, 45], [16, 6], [32, 0]);
mkdir '/a'; mkdir '/a/closed', 0700; for my $name (qw(file closed/file script none zero plain)) { open my $h, '>', \"/a/$name\"; print $h \"#!/bin/sh\\necho ran\\n\"; close $h; chmod 0640, \"/a/$name\" }
symlink 'file', '/a/link'; umask 027;
print 'set: ', set('/a/file', $access, @all), ' ', set('/a/script', $access, [1, 6], [2, 5, 33], [4, 0], [16, 5], [32, 0]), ' ',
  set('/a/closed', $access, [1, 7], [2, 1, 33], [4, 0], [16, 7], [32, 0]), ' ', set('/a/zero', $access, [1, 6], [2, 6, 33], [4, 0], [16, 0], [32, 4]), ' ',
  set('/a/plain', $access, [1, 6], [4, 4], [32, 4]), ' ', set('/a', $default, [1, 7], [2, 7, 33], [4, 5], [16, 7], [32, 1]), \"\\n\";
mkdir '/a/new'; mkdir '/a/new/er', 0700; for my $mode (0666, 0600, 0777) { sysopen my $h, sprintf('/a/made%o', $mode), O_CREAT | O_WRONLY, $mode }
told($_) for glob('/a /a/* /a/new/* /a/closed/*');
chmod 0604, '/a/file'; told('/a/file'); chmod 0660, '/a/file'; told('/a/file'); chmod 02775, '/a/new'; told('/a/new');
my $bad = packed([1, 6], [4, 4]); my $value = packed(@all); my $small = \"\\0\" x 8; open my $open, '<', '/a/none'; my $v = packed([1, 6], [2, 4, 33], [4, 4], [16, 4], [32, 0]);
print 'odd: ', join(' ', call('set', '/a/none', $access, $bad, length $bad, 0), call('set', '/a/none', $access, $value, 7, 0), call('set', '/a/none', $default, $value, length $value, 0),
  call('lset', '/a/link', $access, $value, length $value, 0), call('get', '/a/file', $access, $small, 8), call('get', '/a/file', $access, $small, 0), call('lget', '/a/link', $access, $small, 8),
  call('get', '/a/none', $access, $small, 8), call('get', '/a/nothing', $access, $small, 8), call('set', '/a/none', $access, $v, length $v, 9), call('fset', fileno $open, $access, $v, length $v, 0),
  call('fget', fileno $open, $access, $small, 0), call('remove', '/a/none', $access), call('remove', '/a/none', $access), call('remove', '/a/none', $default),
  call('set', '/a/file', 'user.x', $v, 3, 0), call('get', '/a/file', 'user.x', $small, 8), call('remove', '/a/file', 'user.x')), \"\\n\"; told('/a/none');
for my $who ([33, 33], [50, 44], [50, 45], [50, 50], [50, 50, 44], [50, 0], [33, 0, 44]) {
  my ($user, $group, @more) = @$who; my $pid = fork; if (!$pid) { $) = join ' ', $group, @more ? @more : $group; $( = $group; POSIX::setuid($user);
    print \"@$who:\"; for my $name (qw(file script closed/file zero plain none made666 new/file)) { for my $how (O_RDONLY, O_WRONLY, O_RDWR) {
      my $fd = $name eq 'new/file' ? POSIX::open(\"/a/new/$user$group@more\", $how | O_CREAT, 0644) : POSIX::open(\"/a/$name\", $how); print ' ', defined $fd ? 'ok' : $! + 0 } print ',' }
    print ' ', POSIX::access('/a/file', 4) ? 'may' : 'not', ' ', POSIX::access('/a/closed', 1) ? 'may' : 'not', ' ', opendir(my $d, '/a/closed') ? 'lists' : 'not', ' ', set('/a/file', $access, @all), ' ', system('/a/script'), \"\\n\"; POSIX::_exit(0) } waitpid $pid, 0 }
told($_) for glob('/a/new/*');
END
RUN /lists.pl > /told
",
        scenes,
    );
    let told = user.cat("built", "/told");
    assert!(
        told.starts_with("set: 0 0 0 0 0 0\n/a 40755 [E61] [1:7:4294967295 2:7:33 "),
        "{told}"
    );
    assert!(told.contains("/a/file 100660 [1:6:4294967295 2:4:33 "), "{told}");
    assert!(told.contains("\n33 33: ok 13 13,"), "{told}");
}

/// At each place a process changes itself or a file by chance, tells what the kernel says, and who it is then.
#[test]
fn walks_through_identities_lead_where_the_kernel_leads() {
    let Some(scenes) = with_debian() else { return };
    let walks = if machine::is_long() { 1000 } else { 40 };
    for scene in &scenes {
        scene.write("ctx/walk.pl", include_str!("single_id/walk.pl"));
    }
    let user = same_images(
        &format!(
            "\
FROM debian:bookworm-slim
COPY walk.pl /
RUN mkdir /set && for n in 5 0; do cp /usr/bin/perl /set/perl$n && chown $n:0 /set/perl$n && chmod 4755 /set/perl$n; done \
 && cp /usr/bin/perl /set/group && chown 0:33 /set/group && chmod 2755 /set/group && mkdir -m 777 /walks
RUN for seed in $(seq {walks}); do perl -T /walk.pl $seed 0 30; done > /told
"
        ),
        scenes,
    );
    let told = user.cat("built", "/told");
    assert_eq!(told.lines().count(), walks * 30, "{told}");
    assert!(told.contains(" exec /set/perl5\n") && told.contains(": E1 |") && told.contains(": 0 |"));
}

#[test]
fn privileges_are_followed() {
    let Some(scenes) = with_debian() else { return };
    let user = same_images(
        "\
FROM debian:bookworm-slim
COPY <<'END' /access.pl
use POSIX; sub asks { access('/closed', R_OK) ? 'yes' : 'no' }
$> = 700; print 'effective user: ', asks, \"\\n\"; $> = 0;
$< = 700; print 'real user: ', asks, open(my $f, '<', '/closed') ? ' opens' : '', chdir '/inner' ? ' enters' : '';
print system('/usr/bin/test', '-r', '/closed') ? ' is refused' : ' tests', \"\\n\"
END
COPY <<'END' /kill.pl
use POSIX; $| = 1; setpgid(0, 0);
sub other { my $user = shift; my $pid = fork // die; return $pid if $pid; become($user); sleep 60; exit }
sub become { my $user = shift; $) = \"$user $user\"; setgid($user); setuid($user) }
my ($roots, @own) = (other(0), other(5), other(5)); my $apart = other(5); setpgid($apart, $apart);
sleep 1; my $got = 0; $SIG{TERM} = sub { $got++ }; become(5);
my ($thread, $ours, $queue, $ours_queue) = `uname -m` =~ /x86_64/ ? (200, 234, 129, 297) : (130, 131, 138, 240);
for my $pid ($roots, $own[0], 1, 0 + $$) {
  my $info = pack('lll', 0, 0, -1) . \"\\0\" x 116; my $held = syscall(434, $pid, 0); my @ways = ([$thread, $pid, 0], [$ours, $pid, $pid, 0],
    [$queue, $pid, 0, $info], [$ours_queue, $pid, $pid, 0, $info], [424, $held, 0, 0, 0], [$ours, 0, $pid, 0], [$thread, -1, 0]);
  print join(' ', 'ways:', map { my ($call, @with) = @$_; syscall($call, @with) ? 'E' . ($! + 0) : 'ok' } @ways), \"\\n\";
}
print 'group: ', kill(-15, getpgrp), ' ', join(' ', map { waitpid($_, 0); $? } @own), \" $got\\n\";
print 'root: ', kill(0, $roots) + kill(0, 1), ' ', $!{EPERM} ? 'EPERM' : $!, \"\\n\";
print 'all: ', kill('TERM', -1), ' ', waitpid($apart, 0) == $apart && $?, \" $got\\n\";
print 'none: ', kill('TERM', -1), ' ', $!{EPERM} ? 'EPERM' : $!, ' ', kill(0, $roots), \"\\n\"
END
RUN echo secret > /closed && chmod 600 /closed && mkdir -m 700 /inner && perl /access.pl > /access
RUN perl /kill.pl > /kill
RUN cp /usr/bin/id /usr/bin/sid && chown 700:33 /usr/bin/sid && chmod 6755 /usr/bin/sid && \
    for option in --no-new-privs ''; do setpriv $option --reuid=1 --regid=1 --clear-groups sid; done > /no-new
RUN case $(uname -m) in x86_64) number=157;; aarch64) number=167;; esac; \
    dropped=\"perl -e 'print syscall($number, 23, \\$_) for 0, 1, 5, 99'\"; eval \"$dropped\" > /bounding; \
    setpriv --bounding-set=-chown,-kill sh -c \"$dropped; chown 5 /closed || chmod 644 /closed && echo refused\" >> /bounding; \
    setpriv --reuid=1 --clear-groups perl -e \"print syscall($number, 24, 0)\" >> /bounding
",
        scenes,
    );
    assert_eq!(
        user.cat("built", "/access"),
        "effective user: yes\nreal user: no opens enters tests\n"
    );
    assert_eq!(
        user.cat("built", "/kill"),
        "ways: E1 E1 E1 E1 E1 E22 E22\nways: ok ok ok ok ok E22 E22\n\
         ways: E1 E1 E1 E1 E1 E22 E22\nways: ok ok ok ok ok E22 E22\ngroup: 1 15 15 1\nroot: 0 EPERM\nall: 1 15 1\nnone: 1 EPERM 0\n"
    );
    assert_eq!(
        user.cat("built", "/no-new"),
        "uid=1(daemon) gid=1(daemon) groups=1(daemon)\n\
         uid=1(daemon) gid=1(daemon) euid=700 egid=33(www-data) groups=33(www-data)\n"
    );
    assert_eq!(user.cat("built", "/bounding"), "111-1010-1refused\n-1");
}

#[test]
fn nothing_is_left_of_a_build_that_is_killed() {
    let Some(user) = Scene::as_plain_user() else {
        return;
    };
    user.write(
        "ctx/Dockerfile",
        "FROM base\nRUN touch /f && chown 5 /f && while true; do stat /f > /dev/null; done\n",
    );
    let program = user.program();
    for wait in ["0.3", "0.7"] {
        let program = program.display();
        let build = format!("{program} build --progress=plain ctx >/dev/null 2>&1");
        user.shell(&format!(
            "{build} & pid=$!; sleep {wait}; kill -9 $pid; wait $pid || true"
        ))
        .ok();
    }
    user.is_clean();
}

#[test]
fn whoever_has_no_subordinate_ids_needs_no_option() {
    let Some(user) = Scene::as_plain_user() else {
        return;
    };
    user.build("FROM base\nRUN chown 5 /home\n", ["-t", "a"]).ok();
    let wanted = user.build("FROM base\nRUN chown 6 /home\n", ["--userns=subuid"]);
    wanted.fails().says("no subordinate ids").says("usermod");
    let run = user.mica(["run", "--user", "5", "a", "sh", "-c", "id -u; stat -c %u /home"]);
    assert_eq!(run.ok().stdout(), "5\n5\n");
    user.mkdir("m");
    let seen = user.mica([
        "mount",
        "--rw",
        "a",
        "m",
        "--",
        "sh",
        "-c",
        "stat -c %u m/home; echo x > m/etc/new",
    ]);
    assert_eq!(seen.ok().stdout(), "0\n");
    user.is_clean();
}
