# The selftest's workload: answers its own name (or a file of /data) over HTTP, asks its peer by DNS name five times a second and writes
# each outcome to /data/peer, and a line to /data/tick five times a second as a sign of life. Perl, because every Debian has it,
# but not all of its modules.
use strict; use warnings;
use IO::Socket::INET; use IO::Handle;
my $me = $ENV{HOSTNAME};
sub note { my ($file, $text) = @_; open(my $f, '>>', "/data/$file") or return; print $f "$text\n"; $f->flush; $f->sync }
note('starts', time) if -w '/data';
if (!fork) { while (1) { note('tick', time); select(undef, undef, undef, 0.2) } }
my $peer = 'web-' . (($me =~ /(\d+)$/ ? $1 + 1 : 0) % 3) . '.web';
if (!fork) {
  while (1) {
    my $s = IO::Socket::INET->new(PeerAddr => $peer, PeerPort => 8080, Timeout => 1);
    my $got = '';
    if ($s) { print $s "GET / HTTP/1.0\r\n\r\n"; local $/; $got = <$s> // '' }
    note('peer', sprintf '%d %s', time, $got =~ /web-/ ? 'ok' : 'fail');
    select(undef, undef, undef, 0.2);
  }
}
$SIG{TERM} = sub { kill 'KILL', 0 }; $SIG{CHLD} = 'IGNORE';
my $l = IO::Socket::INET->new(LocalPort => 8080, Listen => 64, ReuseAddr => 1) or die $!;
while (1) {
  my $c = $l->accept or next;
  my $line = <$c> // next;
  while (defined(my $h = <$c>)) { last if $h =~ /^\r?\n$/ }
  my $body = "$me\n";
  if ($line =~ m{^GET /(\w+)} && open(my $f, '<', "/data/$1")) { local $/; $body = <$f> }
  print $c "HTTP/1.0 200 OK\r\nContent-Length: " . length($body) . "\r\nConnection: close\r\n\r\n$body";
  close $c;
}
