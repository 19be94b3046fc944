# The program inside a Perl worker: see package worker for the protocol.
#
# It runs on Perl 5.10.1 and later with modules of the core alone. Perl has no
# recvmsg of its own, so descriptors come and go by syscall.
package Liege;
use strict;
use warnings;
no warnings 'once';
# What this program opens are bytes, also where PERL_UNICODE=D or -Mopen=:utf8 says
# otherwise for the main program, which this is a part of. Applications are not.
BEGIN { ${^OPEN} = ":bytes\0:bytes" if defined ${^OPEN} }
use POSIX ();
our $c;    # the control socket

use constant {
    PROTOCOL => 1,    # lang.Protocol
    QUEUE => 4, SLOTS => 5, STDERR_FD => 6,
    HEADER => 'a4VVVa8',    # type, head bytes, body bytes, argument, request
    BIG => 1 << 18,         # what is larger is sent in pieces of its own
    PACKET => 1 << 15,      # longest packet of the queue
    SPOOL => 112 << 10,     # of a body that is kept in memory; the rest goes to a file
    CHEAP => 15,            # exit status of a worker that was not needed any more
    DONTWAIT => 0x40,
};
my $SELF = '<liege>';
my $GONE = "the client went away\n";    # what is thrown then

# recvmsg, sendmsg, signalfd4: by processor. All of these have 64 bits.
my %NUMBERS = (
    x86_64 => [47, 46, 289], aarch64 => [212, 211, 74], riscv64 => [212, 211, 74],
    loongarch64 => [212, 211, 74], ppc64le => [342, 341, 313], s390x => [372, 370, 322],
);
my ($RECVMSG, $SENDMSG, $SIGNALFD) = @{ $NUMBERS{ (POSIX::uname())[4] } || [] };

# ---- messages for people

# Write whole lines to the log with one write, so that they stay whole. Not by
# STDERR: it is the application's, and syswrite dies where it is :utf8 (since 5.30).
sub say_line {
    my $text = join '', map { defined $_ ? $_ : '' } @_;
    utf8::encode($text) if utf8::is_utf8($text);
    $text .= "\n" unless $text =~ /\n\z/;
    POSIX::write(2, $text, length $text);
}

# Say what was thrown, of which the text may be code of the application's.
sub say_error {
    my $error = shift;
    eval { say_line("$error"); 1 } or say_line('an exception of ' . ref($error) . ', of which the text cannot be had');
}

# ---- children that the application forks

my $MINE = $$;    # the number of this process; a child of the application's has another

# End this process if the application has forked it: it came back from the
# application's code, or died of an error. The requests are its parent's.
sub stray {
    return if $$ == $MINE;
    if (@_) { say_error(ref $_[0] eq 'ARRAY' ? $_[0][1] : $_[0]) }
    else { say_line('a process that the application has forked ends where it would go on as its parent; hint: end it with POSIX::_exit') }
    POSIX::_exit(@_ ? 1 : 0);
}

sub only_worker { die "only the worker can answer its request, and not a process that it has forked\n" if $$ != $MINE }

# Call what is the application's. A process that it forks does not come back.
# False, with the error in $@: it died.
sub guarded {
    my $code = shift;
    my $ok = eval { $code->(@_); 1 };
    my $error = $@;
    stray($ok ? () : $error);
    $@ = $error;
    $ok;
}

# psgi.errors: the log.
package Liege::Errors;
sub new { my $self = ''; bless \$self, shift }
sub print { my $self = shift; Liege::say_line(@_) if grep { defined && length } @_; 1 }
sub printf { my ($self, $format) = splice @_, 0, 2; $self->print(sprintf $format, @_) }
sub say { my $self = shift; $self->print(@_, "\n") }
sub write { my ($self, $text, $length, $offset) = @_; $self->print(substr $text, $offset || 0, defined $length ? $length : length $text) }
sub flush { 1 }
sub autoflush { 1 }
sub fileno { 2 }
sub opened { 1 }
sub binmode { 1 }
sub close { 1 }

# ---- request bodies

# psgi.input: what is in the packet, or what the core sends piece by piece, as
# asked for. What was read is kept, in memory and then in a file of the private
# /tmp, so that it can be read again (psgix.input.buffered).
package Liege::Input;
use constant { REQUEST => 0, KEPT => 1, FILE => 2, GOT => 3, AT => 4, OVER => 5 };

sub new {
    my ($class, $request, $body) = @_;
    bless [$request, $body, undef, length $body, 0, !$request], $class;
}

sub fetch {
    my ($self, $n) = @_;
    die "the request is over: its body cannot be read any more\n" unless $self->[REQUEST];
    my $data = $self->[REQUEST]->pull($n < 1 ? 1 : $n > 65536 ? 65536 : $n);
    return $self->[OVER] = 1 unless length $data;
    if (!$self->[FILE] && $self->[GOT] + length $data > Liege::SPOOL) {
        open my $file, '+>', undef or die "a temporary file for the request's body: $!\n";
        binmode $file;
        print $file $self->[KEPT] or die "the request's body: $!\n";
        $self->[FILE] = $file;
        $self->[KEPT] = '';
    }
    if (my $file = $self->[FILE]) {
        seek $file, $self->[GOT], 0;
        print $file $data or die "the request's body: $!\n";
    } else {
        $self->[KEPT] .= $data;
    }
    $self->[GOT] += length $data;
}

sub take {
    my ($self, $n) = @_;
    my $left = $self->[GOT] - $self->[AT];
    $n = $left if $n > $left;
    return '' if $n <= 0;
    my $data;
    if (my $file = $self->[FILE]) {
        seek $file, $self->[AT], 0;
        my $got = CORE::read $file, $data, $n;
        die "the request's body: $!\n" unless defined $got;
    } else {
        $data = substr $self->[KEPT], $self->[AT], $n;
    }
    $self->[AT] += length $data;
    $data;
}

sub read {
    my ($self, undef, $length, $offset) = @_;
    $self->fetch($self->[AT] + $length - $self->[GOT]) until $self->[OVER] || $self->[GOT] - $self->[AT] >= $length;
    my $data = $self->take($length);
    $_[1] = '' unless defined $_[1];
    if ($offset) {
        $offset += length $_[1] if $offset < 0;
        $_[1] .= "\0" x ($offset - length $_[1]) if $offset > length $_[1];
        substr($_[1], $offset) = $data;
    } else {
        $_[1] = $data;
    }
    length $data;
}
*sysread = \&read;

sub getline {
    my $self = shift;
    my $line = '';
    my $end = $/;
    $end = "\n" if defined $end && $end eq '';
    while (1) {
        $self->fetch(4096) if $self->[GOT] == $self->[AT] && !$self->[OVER];
        my $piece = $self->take(4096);
        last unless length $piece;
        $line .= $piece;
        next if !defined $end || ref $end;
        my $at = index $line, $end;
        if ($at >= 0) {
            my $keep = $at + length $end;
            $self->[AT] -= length($line) - $keep;
            return substr $line, 0, $keep;
        }
    }
    length $line ? $line : undef;
}
sub getlines { my $self = shift; my @lines; while (defined(my $l = $self->getline)) { push @lines, $l } @lines }

sub seek {
    my ($self, $to, $whence) = @_;
    if ($whence) {
        if ($whence == 2) { $self->fetch(65536) until $self->[OVER] }
        $to += $whence == 1 ? $self->[AT] : $self->[GOT];
    }
    return 0 if $to < 0;
    $self->fetch($to - $self->[GOT]) until $self->[OVER] || $to <= $self->[GOT];
    $self->[AT] = $to < $self->[GOT] ? $to : $self->[GOT];
    1;
}
sub tell { $_[0][AT] }
sub eof { my $self = shift; $self->fetch(1) if $self->[GOT] == $self->[AT] && !$self->[OVER]; $self->[GOT] == $self->[AT] }
sub fileno { undef }
sub opened { 1 }
sub binmode { 1 }
sub close { 1 }

# The request is over: nothing more comes, and the file goes.
sub finish { my $self = shift; @$self[REQUEST, FILE, KEPT, GOT, AT, OVER] = (undef, undef, '', 0, 0, 1) }

# ---- one request

package Liege::Writer;
sub new { my ($class, $request) = @_; bless [$request], $class }
sub write { my ($self, $data) = @_; $self->[0]->send($data) if defined $data && length $data; 1 }
sub close { my $self = shift; $self->[0]->finish(0); 1 }

package Liege::Request;
use constant { LANE => 0, ID => 1, HEAD => 2, STARTED => 3, LEFT => 4, SKIP => 5, ABORTED => 6, OVER => 7 };

sub new {
    my ($class, $lane, $id, $skip) = @_;
    bless [$lane, $id, undef, 0, -1, $skip, 0, 0], $class;
}

# Behind a NUL would be a field of its own.
sub whole_word {
    my $text = shift;
    return '' unless defined $text;
    die "a NUL in a header field\n" if index($text, "\0") >= 0;
    $text;
}

sub head {
    my ($self, $status, $headers) = @_;
    die "the status is " . (defined $status ? "'$status'" : 'undefined') . ", not 200 to 599\n"
        unless defined $status && $status =~ /\A[2-5][0-9][0-9]\b/;
    $self->[SKIP] = 1 if $status =~ /\A(?:204|304)/;
    die "the headers are no array\n" unless ref $headers eq 'ARRAY';
    for (my $i = 0; $i < @$headers; $i += 2) {
        $self->[LEFT] = $headers->[$i + 1] + 0 if length $headers->[$i] == 14 && lc $headers->[$i] eq 'content-length';
    }
    my $head = join "\0", map { whole_word($_) } $status, @$headers;
    $head .= "\0" if @$headers % 2;
    utf8::downgrade($head, 1) or utf8::encode($head) if utf8::is_utf8($head);
    $self->[HEAD] = $head;
}

sub put {
    my ($self, $kind, $head, $body, $arg) = @_;
    Liege::only_worker();
    Liege::write_all($self->[LANE], pack(Liege::HEADER, $kind, length $head, length $body, $arg, $self->[ID]) . $head . $body);
}

# The bytes of a piece of the body.
sub bytes {
    my $data = shift;
    die "the body has an undefined piece\n" unless defined $data;
    utf8::downgrade($data, 1) or die "Wide character in the body: encode it\n" if utf8::is_utf8($data);
    $data;
}

# An answer of which data is the whole body, in one message.
sub whole {
    my ($self, $data) = @_;
    my $size = length $data;
    if ($self->[LEFT] >= 0 && $size > $self->[LEFT]) {
        $data = substr $data, 0, $self->[LEFT];
        $size = $self->[LEFT];
    }
    $data = '' if $self->[SKIP];
    $self->[STARTED] = $self->[OVER] = 1;
    $self->put('A', $self->[HEAD], $data, $size);
}

# Send data, after the head if that is still to come.
sub send {
    my ($self, $data) = @_;
    die "the answer is complete: nothing can be added to it\n" if $self->[OVER];
    $data = bytes($data);
    if ($self->[LEFT] >= 0) {
        $data = substr $data, 0, $self->[LEFT] if length $data > $self->[LEFT];
        $self->[LEFT] -= length $data;
    }
    $data = '' if $self->[SKIP];
    my ($kind, $head) = ('D', '');
    if (!$self->[STARTED]) {
        $self->[STARTED] = 1;
        ($kind, $head) = ('H', $self->[HEAD]);
    } else {
        $self->check;
        return unless length $data;
    }
    return $self->put($kind, $head, $data, 0) if length $data <= Liege::BIG;
    for (my $at = 0; $at < length $data; $at += Liege::BIG) {
        $self->check if $at;
        $self->put($kind, $head, substr($data, $at, Liege::BIG), 0);
        ($kind, $head) = ('D', '');
    }
}

sub finish {
    my ($self, $failed) = @_;
    return if $self->[OVER];
    return $self->whole('') if !$failed && !$self->[STARTED];
    $self->[OVER] = 1;
    $self->put('E', '', '', $failed ? 1 : 0);
}

# The connection itself is the application's from here on: what it sends is an
# answer with its head. $other is the end for the core.
sub hijack {
    my ($self, $other) = @_;
    die "the answer has begun: the connection cannot be taken over\n" if $self->[STARTED] || $self->[OVER];
    $self->[STARTED] = 1;
    $self->put('J', '', '', 0);
    $self->frame;
    Liege::send_fd($self->[LANE], fileno $other);
    $self->[OVER] = 1;
}

# psgix.informational: a response of its own before the answer.
sub inform {
    my ($self, $status, $headers) = @_;
    die "the status is " . (defined $status ? "'$status'" : 'undefined') . ", not 102 to 199\n" unless defined $status && $status =~ /\A1(?:0[2-9]|[1-9][0-9])\z/;
    die "the headers are no array\n" unless ref $headers eq 'ARRAY';
    die "the answer has begun: nothing can come before it\n" if $self->[STARTED] || $self->[OVER];
    my $fields = join '', map { whole_word($_) . "\0" } @$headers, @$headers % 2 ? '' : ();
    utf8::downgrade($fields, 1) or utf8::encode($fields) if utf8::is_utf8($fields);
    $self->put('I', '', $fields, $status);
}

# Let the core send the rest of a file; false: it is not one.
sub file {
    my ($self, $fh) = @_;
    return 0 if $self->[STARTED] || !$SENDMSG;
    my $fd = eval { fileno $fh };
    return 0 unless defined $fd && $fd >= 0 && -f $fh;
    return 0 if grep { $_ ne 'unix' && $_ ne 'perlio' && $_ ne 'stdio' } PerlIO::get_layers($fh);
    my $at = tell $fh;
    my $count = (-s $fh) - $at;
    return 0 if $at < 0;
    $count = $self->[LEFT] if $self->[LEFT] >= 0 && $self->[LEFT] < $count;
    if ($self->[SKIP] || $count <= 0) {
        $self->send('');
        return 1;
    }
    $self->[STARTED] = 1;
    $self->put('H', $self->[HEAD], '', 0);
    $self->put('F', '', pack('Q<Q<', $at, $count), 0);
    $self->frame;
    Liege::send_fd($self->[LANE], $fd);
    1;
}

# One frame of the core's about this request; others are old news.
sub frame {
    my $self = shift;
    while (1) {
        my ($kind, undef, $size, $arg, $id) = unpack Liege::HEADER, Liege::read_all($self->[LANE], 24);
        my $data = $size ? Liege::read_all($self->[LANE], $size) : '';
        next if $id ne $self->[ID];
        if (ord $kind == 88) {    # X
            $self->[ABORTED] = 1;
            die $GONE;
        }
        return ($arg, $data);
    }
}

sub check {
    my $self = shift;
    Liege::only_worker();
    die $GONE if $self->[ABORTED];
    my $ready = '';
    vec($ready, fileno $self->[LANE], 1) = 1;
    $self->frame if select($ready, undef, undef, 0) > 0;
}

# At most size bytes of the request's body; empty at its end.
sub pull {
    my ($self, $size) = @_;
    die "the request is over: its body cannot be read any more\n" if $self->[OVER];
    $self->put('R', '', '', $size);
    my ($arg, $data) = $self->frame;
    die "the request body could not be read: the client went away or was too slow\n" if $arg;
    $data;
}

# The packet of a request that does not fit the queue's.
sub packet {
    my $self = shift;
    $self->put('V', '', '', 0);
    my $all = '';
    while (1) {
        my ($arg, $data) = $self->frame;
        $all .= $data;
        return $all unless $arg;
    }
}

# psgix.io: one end of a socket pair, whose other end goes to the core when the
# application first uses this one. Until then the request is answered as any
# other. The handle is a real one, so that what is no reading or writing
# (fcntl, setsockopt) works, and is tied to hear of these.
package Liege::IO;
no warnings 'untie';

sub offer {
    my $request = shift;
    socketpair my $own, my $other, 1, 1, 0 or die "a socket pair for psgix.io: $!\n";    # AF_UNIX, SOCK_STREAM
    bless $own, 'IO::Socket::UNIX';
    $own->autoflush(1);
    tie *$own, 'Liege::IO', $own, $other, $request;
    $own;
}

sub TIEHANDLE {
    my ($class, @self) = @_;
    Scalar::Util::weaken($self[0]);
    bless \@self, $class;
}

# The handle as it is without us.
sub take {
    my ($own, $other, $request) = @{ $_[0] };
    untie *$own;
    $request->hijack($other);
    close $other;
    $own;
}
sub FILENO { fileno $_[0]->take }
sub PRINT { my $own = shift->take; print $own @_ }
sub PRINTF { my $own = shift->take; printf $own @_ }
sub WRITE { my $own = shift->take; syswrite $own, $_[0], $_[1], $_[2] || 0 }
sub READ { my $own = shift->take; sysread $own, $_[0], $_[1], $_[2] || 0 }
sub READLINE { my $own = $_[0]->take; wantarray ? <$own> : scalar <$own> }
sub GETC { getc $_[0]->take }
sub EOF { eof $_[0]->take }
sub BINMODE { 1 }
sub CLOSE { close $_[0]->take }

package Liege;

sub write_all {
    my ($fh, $data) = @_;
    my $at = 0;
    while ($at < length $data) {
        my $n = syswrite $fh, $data, length($data) - $at, $at;
        if (defined $n) { $at += $n }
        elsif (!$!{EINTR}) { POSIX::_exit(0) }    # the core is gone
    }
}

sub read_all {
    my ($fh, $size) = @_;
    my $data = '';
    while (length $data < $size) {
        my $n = sysread $fh, $data, $size - length $data, length $data;
        next if !defined $n && $!{EINTR};
        POSIX::_exit(0) unless $n;
    }
    $data;
}

# ---- descriptors over sockets: struct msghdr, of 64-bit Linux

# A string that is nobody else's: the kernel writes into it.
sub buffer { my $b = "\0" x shift; substr($b, 0, 1) = "\0"; $b }

sub send_fd {
    my ($fh, $fd) = @_;
    my $byte = "\0";
    my $iov = pack 'P Q', $byte, 1;
    my $control = pack 'Q l l l x4', 20, 1, 1, $fd;    # SOL_SOCKET, SCM_RIGHTS
    my $message = pack 'Q L x4 P Q P Q l x4', 0, 0, $iov, 1, $control, length $control, 0;
    my $n = syscall $SENDMSG, fileno $fh, $message, 0;
    die "the file cannot be handed over: $!\n" if $n < 1;
}

# One packet with the descriptors that came with it.
sub receive {
    my $fh = shift;
    my ($data, $control) = (buffer(4096), buffer(4096));
    my $iov = pack 'P Q', $data, length $data;
    my $message = pack 'Q L x4 P Q P Q l x4', 0, 0, $iov, 1, $control, length $control, 0;
    my $n;
    do { $n = syscall $RECVMSG, fileno $fh, $message, 0x40000000 } while $n < 0 && $!{EINTR};    # MSG_CMSG_CLOEXEC
    return ('') if $n <= 0;
    my $size = unpack 'x40 Q', $message;
    my @fds;
    for (my $at = 0; $at + 16 <= $size;) {
        my ($len, $level, $type) = unpack "x$at Q l l", $control;
        last if $len < 16;
        push @fds, unpack "x" . ($at + 16) . " l" . int(($len - 16) / 4), $control if $level == 1 && $type == 1;
        $at += ($len + 7) & ~7;
    }
    (substr($data, 0, $n), @fds);
}

sub handle {
    my ($fd, $mode) = @_;
    open my $fh, $mode || '+<&=', $fd or die "descriptor $fd: $!\n";
    fcntl $fh, 2, 1;    # F_SETFD, FD_CLOEXEC
    binmode $fh;
    $fh;
}

# A packet that is no request.
sub dict {
    my %got = unpack 'x (V/a*)*', shift;
    for (values %got) {
        my $kind = substr $_, 0, 1, '';
        $_ = [unpack '(V/a*)*', $_] if $kind eq 'l';
    }
    \%got;
}

# ---- serving

sub send_body {
    my ($request, $body) = @_;
    if (ref $body eq 'ARRAY') {
        my $data = '';
        if (@$body == 1) { $data = Liege::Request::bytes($body->[0]) }
        else { $data .= Liege::Request::bytes($_) for @$body }
        return $request->whole($data) if length $data <= BIG;
        $request->send($data);
        return $request->finish(0);
    }
    die "the body is neither an array nor a handle\n" unless ref $body;
    my $sent = 0;
    if (ref $body eq 'GLOB' || (Scalar::Util::reftype($body) || '') eq 'GLOB') {
        $sent = $request->file($body);
    } elsif (Scalar::Util::blessed($body) && $body->can('path') && defined(my $path = $body->path)) {
        if (-f $path && open my $fh, '<:raw', $path) { $sent = $request->file($fh) }
    }
    if (!$sent) {
        require IO::Handle if ref $body eq 'GLOB';
        local $/ = \65536;
        while (defined(my $piece = $body->getline)) {
            last if $request->[Liege::Request::SKIP];
            $request->send($piece) if length $piece;
        }
    }
    $body->close if ref $body ne 'GLOB' && $body->can('close') || ref $body eq 'GLOB' && require IO::Handle;
    $request->[Liege::Request::STARTED] || !$request->[Liege::Request::SKIP] || $request->send('');
    $request->finish(0);
}

sub answer {
    my ($request, $response) = @_;
    return if $request->[Liege::Request::OVER];    # taken over
    if (ref $response eq 'ARRAY') {
        die "the application returned " . @$response . " values; want [status, headers, body]\n" unless @$response == 3;
        $request->head($response->[0], $response->[1]);
        return send_body($request, $response->[2]);
    }
    die "the application returned neither an array nor a function\n"
        unless ref $response && (Scalar::Util::reftype($response) || '') eq 'CODE';
    my $called = 0;
    $response->(sub {
        my $r = shift;
        die "the responder was called twice\n" if $called++;
        $request->head($r->[0], $r->[1]);
        return send_body($request, $r->[2]) if defined $r->[2];
        $request->send('');
        Liege::Writer->new($request);
    });
    die "the application returned without an answer\n" unless $called || $request->[Liege::Request::OVER];
    $request->finish(0);
}

my (%BASE, $OFFER);

# Answer one request. False: the worker is to end.
sub serve {
    my ($app, $lane, $id, $ask, $body, $env) = @_;
    my $request = Liege::Request->new($lane, $id, ($env->{REQUEST_METHOD} || '') eq 'HEAD');
    @$env{keys %BASE} = values %BASE;
    my $input = $env->{'psgi.input'} = Liege::Input->new($ask eq '1' ? $request : undef, $body);
    my $handlers = $env->{'psgix.cleanup.handlers'} = [];
    $env->{'psgix.io'} = Liege::IO::offer($request) if $OFFER;
    $env->{'psgix.informational'} = sub { $request->inform(@_) } if ($env->{SERVER_PROTOCOL} || '') ne 'HTTP/1.0';
    if (!guarded(sub { answer($request, $app->($env)) })) {
        my $error = $@;
        say_error($error) unless !ref $error && $error eq $GONE;
        $request->finish(1);
    }
    $input->finish if $ask eq '1';
    for my $handler (@$handlers) {
        guarded($handler, $env) or say_error($@);
    }
    !$env->{'psgix.harakiri.commit'};
}

# ---- functions that routing rules call

my %RPC;

sub call_rpc {
    my ($request, $name, $args) = @_;
    my $ok = guarded(sub {
        my $func = $RPC{$name};
        my $result = $func ? $func->(@$args) : undef;
        $request->head(!$func ? 404 : defined $result ? 200 : 204, []);
        $request->[Liege::Request::SKIP] = 0;
        $result = defined $result ? "$result" : '';
        utf8::encode($result) if utf8::is_utf8($result);
        $request->whole($result);
    });
    return if $ok;
    say_error($@);
    $request->finish(1);
}

my @POSTFORK;

sub uwsgi_package {
    my $config = shift;
    no strict 'refs';
    no warnings 'once';
    *{'uwsgi::log'} = sub { say_line(@_); 1 };
    *{'uwsgi::worker_id'} = sub { $config->{worker} || 0 };
    *{'uwsgi::masterpid'} = sub { $config->{master} };
    *{'uwsgi::setprocname'} = sub { $0 = shift };
    *{'uwsgi::postfork'} = sub { push @POSTFORK, shift; 1 };
    *{'uwsgi::register_rpc'} = sub {
        my ($name, $func) = @_;
        die "an rpc function must be a code reference\n" unless ref $func eq 'CODE';
        $RPC{$name} = $func;
        1;
    };
    *{'uwsgi::call'} = sub {
        my $name = shift;
        my $func = $RPC{$name} or die "unable to call rpc function $name: it is not registered\n";
        $func->(@_);
    };
    *{'uwsgi::rpc'} = sub {
        my $node = shift;
        die "functions of other instances are not called yet\n" if defined $node && length $node;
        uwsgi::call(@_);
    };
    $uwsgi::VERSION = $config->{version};
}

# ---- loading

# Run a file as Plack does, in a package of its own.
sub run_file {
    my $file = shift;
    (my $name = $file) =~ s/([^A-Za-z0-9_])/sprintf '_%2x', unpack 'C', $1/eg;
    open my $fh, '<', $file or die ['file', "$file: $!", ''];
    close $fh;
    local $0 = $file;    # for FindBin
    my $error;
    my $value = eval "package Liege::Sandbox::$name; my \$value = do \$file; \$error = \$@; \$value";
    die explained($error || $@) if $error || $@;
    $value;
}

# A failure: kind, message, name.
sub explained {
    my $error = "@_";
    chomp $error;
    $error =~ s/\nBEGIN failed--compilation aborted at [^\n]*//g;
    return ['load', $error, $1] if $error =~ /^Can't locate (\S+)\.pm in \@INC/;
    return ['load', $error, $1] if $error =~ /^Can't locate (\S+) in \@INC/;
    return ['syntax', $error, ''] if $error =~ /^(?:syntax error|Global symbol|Bareword|Can't find string terminator|Missing right)/;
    ['exception', $error, ''];
}

sub load {
    my $config = shift;
    for my $file (@{ $config->{exec} }) { run_file($file) }
    my $app = run_file($config->{file});
    if (Scalar::Util::blessed($app) && $app->can('to_app')) {
        $app = eval { $app->to_app } || die explained($@);
    }
    die ['callable', "$config->{file} returns " . (defined $app ? ref $app || "'" . substr($app, 0, 40) . "'" : 'nothing') . ", not a code reference", '']
        unless ref $app && ((Scalar::Util::reftype($app) || '') eq 'CODE' || overload::Method($app, '&{}'));
    $app;
}

sub prepare {
    my $config = shift;
    umask $config->{umask} if $config->{umask} >= 0;
    setpriority 0, 0, $config->{nice} or say_line("liege: prio $config->{nice}: $!") if $config->{nice};
    chdir $config->{dir} or die ['dir', "$config->{dir}: $!", ''];
    $config->{cwd} = $config->{dir};
    require Scalar::Util;
    require overload;
    require Errno;
    for my $dir (reverse @{ $config->{lib} }) {
        # local::lib's layout, else the directory itself
        my @dirs = grep { -d } "$dir/lib/perl5/$Config::Config{archname}", "$dir/lib/perl5";
        unshift @INC, @dirs ? @dirs : $dir;
    }
    @ARGV = @{ $config->{args} };
    # uWSGI's: without a PLACK_ENV Mojolicious and Dancer2 are in development, and
    # show their source on pages of errors.
    for my $name (qw(PLACK_ENV PLACK_SERVER)) { $ENV{$name} = 'uwsgi' unless defined $ENV{$name} }
    uwsgi_package($config);
    if ($OFFER = $config->{io}) { require IO::Socket::UNIX }
}

# ---- perl-auto-reload

my %TOLD;

# Tell the core which files have been loaded since the last time; it looks what
# they are.
sub report_code {
    my ($config, $control) = @_;
    my %ignored = map { $_ => 1 } @{ $config->{unwatched} };
    my @words;
    my %loaded = (%INC, map { $_ => $_ } $config->{file}, @{ $config->{exec} }, @{ $config->{exec_post_fork} });
    for my $name (keys %loaded) {
        my $path = $loaded{$name};
        next if !defined $path || ref $path || $TOLD{$path}++ || $ignored{$path} || $ignored{$name};
        $path = "$config->{cwd}/$path" unless $path =~ m{^/};
        push @words, $path, 'now';
    }
    while (my @some = splice @words, 0, 16) { tell_core($control, 'files', @some) }
}

# Say no, with a reason.
sub failure {
    my $why = shift;
    $why = explained($why) unless ref $why eq 'ARRAY';
    my ($kind, $message, $name) = @$why;
    utf8::encode($message) if utf8::is_utf8($message);
    say_line($message) if $kind ne 'file' && $kind ne 'dir';
    join "\0", $kind, substr($message, 0, 2000), defined $name ? $name : '';
}

# ---- processes

sub hello { my ($lane, $kind, $text) = @_; write_all($lane, pack(HEADER, $kind, 0, length $text, 0, "\0" x 8) . $text) }

# Whether this worker has run or grown for long enough.
sub worn {
    my ($config, $born, $life) = @_;
    my $age = time - $born;
    return 1 if $life && $age >= $life;
    return 0 if !$config->{rss} && !$config->{as} || $age * 1000 < $config->{youth};
    open my $statm, '<', '/proc/self/statm' or return 0;
    my ($size, $resident) = map { $_ * 4096 } split ' ', <$statm>;
    $config->{rss} && $resident >= $config->{rss} || $config->{as} && $size >= $config->{as};
}

# Take no more requests: the core is told, so that another worker comes.
sub leave {
    my ($lane, $status) = @_;
    write_all($lane, pack HEADER, 'Q', 0, 0, $status == CHEAP ? 1 : 0, "\0" x 8);
    $status;
}

sub loop {
    my ($config, $app, $order, $lane, $control) = @_;
    my $queue = handle(QUEUE);
    # An open file of its own: Perl writes where the file is at.
    open my $slot, '+<', '/proc/self/fd/' . SLOTS or die "slots: $!\n";
    my $place = 8 * $order->{slots};
    my $left = $config->{max_requests};
    $left += $config->{max_requests_delta} * ($order->{worker} - 1) if $left;
    my $life = $config->{life} && ($config->{life} + $config->{life_delta} * ($order->{worker} - 1)) / 1000;
    my ($watched, $born, $known, $data) = ($life || $config->{rss} || $config->{as}, time, 0);
    while (1) {
        stray();    # of a handler that a signal called here
        unless (defined recv $queue, $data, PACKET, 0) { next if $!{EINTR}; last }
        return 0 unless length $data;
        my ($kind, $id) = unpack 'a a8', $data;
        my $large = '';
        my $dict = $kind eq 'D' ? dict($data) : undef;
        $id = $dict->{'liege.id'} if $dict;
        sysseek $slot, $place, 0;
        syswrite $slot, $id;
        if ($dict && $dict->{'liege.probe'}) { write_all($lane, pack HEADER, 'P', 0, 0, 0, $id); next }
        return leave($lane, CHEAP) if $dict && $dict->{'liege.retire'};
        if ($dict && $dict->{'liege.large'}) {
            $data = $large = Liege::Request->new($lane, $id, 0)->packet;
            $dict = substr($data, 0, 1) eq 'D' ? dict($data) : undef;
        }
        if ($dict) {
            call_rpc(Liege::Request->new($lane, $id, 0), $dict->{'liege.rpc'}, $dict->{'liege.args'});
        } else {
            my (undef, undef, $ask, $body, %env) = unpack 'a a8 a V/a* (V/a*)*', $data;
            serve($app, $lane, $id, $ask, $body, \%env) or return leave($lane, 0);
            if ($control && keys %INC != $known) { $known = keys %INC; report_code($config, $control) }
        }
        return leave($lane, 0) if $left && --$left <= 0 || $watched && worn($config, $born, $life);
    }
    0;
}

sub become_worker {
    my ($config, $app, $order, $lane, $control) = @_;
    $MINE = $$;
    $config->{worker} = $order->{worker};
    $0 = $config->{title_plain} ? $config->{title} : "$config->{title} worker $order->{worker}";
    srand;
    %BASE = (
        'psgi.version' => [1, 1], 'psgi.errors' => Liege::Errors->new, 'psgi.multithread' => !1,
        'psgi.multiprocess' => $config->{processes} > 1, 'psgi.run_once' => !1, 'psgi.nonblocking' => !1,
        'psgi.streaming' => !0, 'psgix.input.buffered' => !0, 'psgix.cleanup' => !0, 'psgix.harakiri' => !0,
        'psgix.logger' => sub { my $m = shift; say_line("$m->{level}: $m->{message}") },
        'uwsgi.version' => $config->{version},
    );
    if (!$app) {
        guarded(sub { $app = load($config) });
        if (!$app) { hello($lane, 'N', failure($@)); return 0 }
    }
    for my $file (@{ $config->{exec_post_fork} }) { guarded(\&run_file, $file) or say_error(ref $@ eq 'ARRAY' ? $@->[1] : $@) }
    for my $f (@POSTFORK) { guarded($f) or say_error($@) }
    report_code($config, $control) if $control;
    hello($lane, 'L', '');
    loop($config, $app, $order, $lane, $control);
}

sub tell_core { my ($control, @words) = @_; defined send($control, join("\0", @words), 0) or POSIX::_exit(0) }

# Tell of the children that have ended.
sub reap {
    my ($control, $children) = @_;
    for my $pid (keys %$children) {
        my $done = waitpid $pid, 1;    # WNOHANG
        next unless $done;
        my $status = $done == $pid ? $? : 0;
        delete $children->{$pid};
        tell_core($control, 'exited', $pid, $status);
    }
}

# Fork the workers that the core orders, until it is gone. Children's ends come
# as bytes of a signalfd: a handler of Perl's could come too late.
sub attend {
    my ($control, $config, $app) = @_;
    my ($chld, $old) = (POSIX::SigSet->new(POSIX::SIGCHLD()), POSIX::SigSet->new);
    POSIX::sigprocmask(POSIX::SIG_BLOCK(), $chld, $old);
    my $mask = pack 'Q', 1 << (POSIX::SIGCHLD() - 1);
    my $fd = syscall $SIGNALFD, -1, $mask, 8, 02004000;    # SFD_CLOEXEC, SFD_NONBLOCK
    die ['exception', "signalfd: $!", ''] if $fd < 0;
    my $signals = handle($fd, '<&=');
    my $want = '';
    vec($want, $_, 1) = 1 for fileno $control, $fd;
    my %children;
    my $ended = $SIG{CHLD};    # as the application has it; of ignored ones nothing is heard here
    $SIG{CHLD} = 'DEFAULT';
    report_code($config, $control) if $config->{watch};
    tell_core($control, 'loaded');
    while (1) {
        my $ready = $want;
        next if select($ready, undef, undef, undef) < 0;
        if (vec $ready, $fd, 1) {
            sysread $signals, my $data, 128 * 16;
            reap($control, \%children);
        }
        next unless vec $ready, fileno $control, 1;
        my ($data, @fds) = receive($control);
        POSIX::_exit(0) unless length $data;    # the core is gone or wants no more workers
        my $order = dict($data);
        my $pid = fork;
        die "fork: $!\n" unless defined $pid;
        if (!$pid) {
            $SIG{CHLD} = $ended || 'DEFAULT';
            POSIX::sigprocmask(POSIX::SIG_SETMASK(), $old);
            close $signals;
            if (!$config->{watch}) { close $control; undef $control }
            exit become_worker($config, $app, $order, handle($fds[0]), $control);
        }
        $children{$pid} = 1;
        POSIX::close($_) for @fds;
        tell_core($control, 'forked', $order->{serial}, $pid);
    }
}

sub main {
    my $control = shift;
    POSIX::dup2(STDERR_FD, 2);
    POSIX::close(STDERR_FD);
    { my $was = select STDERR; $| = 1; select STDOUT; $| = 1; select $was }
    $SIG{$_} = 'DEFAULT' for qw(USR2 WINCH TSTP);    # the core ignores them
    fcntl $control, 2, 1;
    my @kept = map { handle($_) } QUEUE, SLOTS;
    recv $control, my $settings, 1 << 18, 0;
    my $config = dict($settings);
    $0 = $config->{title_plain} ? $config->{title} : "$config->{title} loader";
    my $app;
    my $loaded = guarded(sub {
        die ['protocol', 'the core speaks another protocol than the worker', ''] if $config->{protocol} != PROTOCOL;
        die ['processor', 'Perl applications need one of these processors: ' . join(', ', sort keys %NUMBERS), ''] unless $RECVMSG;
        prepare($config);
        $app = load($config) unless $config->{lazy};
    });
    if (!$loaded) {
        tell_core($control, 'failed', failure($@));
        POSIX::_exit(0);
    }
    attend($control, $config, $app);
}

require Errno;
require Config;
main($c);
