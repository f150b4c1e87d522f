#!/usr/bin/perl
# A walk through identities: at each place a system call by chance, what it says, and who the process is then.
use POSIX ();
my ($seed, $at, $steps) = map { /^(\d+)$/ ? $1 : die } @ARGV; $ENV{PATH} = '/usr/bin'; delete @ENV{qw(ENV BASH_ENV)}; $| = 1;
my %number = `uname -m` =~ /x86_64/
  ? (setuid => 105, setgid => 106, setreuid => 113, setregid => 114, setresuid => 117, getresuid => 118, setresgid => 119, getresgid => 120,
     setfsuid => 122, setfsgid => 123, setgroups => 116, getgroups => 115, capget => 125, capset => 126, prctl => 157, chownat => 260)
  : (setuid => 146, setgid => 144, setreuid => 145, setregid => 143, setresuid => 147, getresuid => 148, setresgid => 149, getresgid => 150,
     setfsuid => 151, setfsgid => 152, setgroups => 159, getgroups => 158, capget => 90, capset => 91, prctl => 167, chownat => 54);
my @ids = (0, 0, 5, 700, 33, -1);
sub pick { $_[int rand @_] }
sub id { pick(@ids) }
sub call { my $name = shift; my $got = syscall($number{$name}, @_); $got == -1 ? 'E' . ($! + 0) : $got }
sub header { pack 'LL', 0x20080522, 0 }
sub caps { my $head = header(); my $data = "\0" x 24; call('capget', $head, $data); my @w = unpack 'L6', $data; map { sprintf '%x', $w[$_] | $w[$_ + 3] << 32 } 0 .. 2 }
sub who {
  my @got; for my $name (qw(getresuid getresgid)) { my @b = map { "\0" x 4 } 1 .. 3; call($name, @b); push @got, join ',', map { unpack 'L', $_ } @b }
  my $b = "\0" x 256; my $n = call('getgroups', 64, $b); push @got, join ',', 'g', unpack "L$n", $b;
  push @got, call('setfsuid', -1) . ',' . call('setfsgid', -1), caps(), call('prctl', 7, 0);
  "@got"
}
sub stat_of { my @s = lstat shift; @s ? sprintf('%d:%d %o', @s[4, 5, 2]) : 'E' . ($! + 0) }
sub opened { my $fd = POSIX::open(@_); defined $fd ? do { POSIX::close($fd); 'ok' } : 'E' . ($! + 0) }
my $dir = "/walks/$seed";
if ($at == 0) { mkdir $dir; chmod 01777, $dir;
  for my $f (['own', 700, 5, 0640], ['root', 0, 0, 0600], ['group', 0, 33, 0660], ['set', 5, 33, 06755], ['any', 33, 700, 0666]) {
    my ($name, $u, $g, $m) = @$f; open my $h, '>', "$dir/$name"; close $h; chown $u, $g, "$dir/$name"; chmod $m, "$dir/$name" } }
my @files = map { "$dir/$_" } qw(own root group set any made);
while ($at < $steps) {
  srand($seed * 1000 + $at++); my $does = int rand 30; my @did;
  if ($does < 2) { @did = ('setuid', id()) } elsif ($does < 3) { @did = ('setgid', id()) }
  elsif ($does < 5) { @did = ('setreuid', id(), id()) } elsif ($does < 6) { @did = ('setregid', id(), id()) }
  elsif ($does < 9) { @did = ('setresuid', id(), id(), id()) } elsif ($does < 11) { @did = ('setresgid', id(), id(), id()) }
  elsif ($does < 12) { @did = ('setfsuid', id()) } elsif ($does < 13) { @did = ('setfsgid', id()) }
  elsif ($does < 14) { @did = ('prctl', 8, pick(0, 1, 1)) } elsif ($does < 15) { @did = ('prctl', 24, pick(0, 1, 5, 6, 7, 27, 31)) }
  my $said;
  if (@did) { my ($name, @a) = @did; $said = call($name, @a) }
  elsif ($does < 16) { my @g = map { pick(0, 5, 33, 700) } 1 .. int rand 4; @did = ('setgroups', @g); my $l = pack 'L*', @g; $said = call('setgroups', scalar @g, $l) }
  elsif ($does < 18) { my @c = map { hex } caps(); my @m = map { pick(~0, ~0, 0xff, ~3, 0, ~128) & 0x1ffffffffff } 1 .. 3;
    my @new = ($c[0] & $m[0], $c[1] & $m[1], pick($c[2], $c[2] | $c[1] & $m[2], 0)); @new = (pick($c[1], $new[0]), $new[1], $new[2]);
    my $head = header(); my $data = pack 'L6', (map { $_ & 0xffffffff } @new), map { $_ >> 32 } @new;
    @did = ('capset', map { sprintf '%x', $_ } @new); $said = call('capset', $head, $data) }
  elsif ($does < 20) { my $f = pick(@files); @did = ('chown', substr($f, length $dir), id(), id()); $said = call('chownat', -100, $f, $did[2], $did[3], 0) . ' ' . stat_of($f) }
  elsif ($does < 21) { my $f = pick(@files); my $m = pick(0600, 0640, 06755, 02644, 0); @did = ('chmod', substr($f, length $dir), $m); $said = (chmod($m, $f) ? 'ok' : 'E' . ($! + 0)) . ' ' . stat_of($f) }
  elsif ($does < 23) { @did = ('make'); my $f = "$dir/made"; $said = opened($f, POSIX::O_CREAT | POSIX::O_RDWR, pick(0600, 0444, 0666)) . ' ' . stat_of($f) }
  elsif ($does < 26) { my $f = pick(@files); my $how = pick(0, 1, 2, 01001); @did = ('open', substr($f, length $dir), $how); $said = opened($f, $how) . ' ' . stat_of($f) }
  elsif ($does < 27) { my $f = pick(@files[0 .. 4]); @did = ('rename', substr($f, length $dir)); $said = rename($f, "$f.x") ? do { rename "$f.x", $f; 'ok' } : 'E' . ($! + 0) }
  elsif ($does < 28) { @did = ('access', map { my $f = $_; join '', map { POSIX::access($f, $_) ? 1 : 0 } 4, 2, 1 } @files); $said = '' }
  else { my $program = pick('/usr/bin/perl', '/usr/bin/perl', '/set/perl5', '/set/perl0', '/set/group'); print "$seed $at exec $program\n";
    my $go = fork; if (!$go) { exec $program, '-T', '/walk.pl', $seed, $at, $steps; print "$seed $at no exec E", $! + 0, "\n"; POSIX::_exit(0) } waitpid $go, 0; exit }
  $said = 'fs' if $did[0] =~ /^setfs/;
  print "$seed $at @did: $said | ", who(), "\n";
}
