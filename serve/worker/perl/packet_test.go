package perl

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"liege/internal/testenv"
	"liege/serve/exchange"
	"liege/serve/worker/lang"
)

// reference reads length-prefixed packets as the worker's program does and
// prints what is in each.
const reference = `
binmode STDIN;
local $/;
my ($data, $at) = (<STDIN>, 0);
while ($at < length $data) {
    my $n = unpack 'V', substr $data, $at, 4;
    my $p = substr $data, $at + 4, $n;
    $at += 4 + $n;
    if (substr($p, 0, 1) eq 'D') {
        my @all = unpack 'x (V/a*)*', $p;
        while (my ($k, $v) = splice @all, 0, 2) {
            my $kind = substr $v, 0, 1, '';
            print "$k=", join(',', map { unpack 'H*', $_ } $kind eq 'l' ? unpack('(V/a*)*', $v) : $v), ';';
        }
    } else {
        my ($kind, $id, $ask, $body, @env) = unpack 'a a8 a V/a* (V/a*)*', $p;
        print join ';', $kind, unpack('H*', $id), $ask, $body, map { unpack 'H*', $_ } @env;
    }
    print "\n";
}
`

func TestPackets(t *testing.T) {
	testenv.Need(t, testenv.Plack)
	rng := rand.New(rand.NewPCG(1, 2))
	pl := &Perl{}
	var in bytes.Buffer
	var want []string
	add := func(b []byte, shown string) {
		in.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(b))))
		in.Write(b)
		want = append(want, shown)
	}
	hexed := func(s string) string { return hex.EncodeToString([]byte(s)) }
	for range 500 {
		b := make([]byte, rng.IntN([]int{3, 300, 70000}[rng.IntN(50)/24%3]))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		n := int(rng.Uint64()) >> rng.IntN(64)
		add(pl.Dict(nil, []lang.Entry{{Name: "int", Value: n}, {Name: "yes", Value: true}, {Name: "no", Value: false}, {Name: "text", Value: string(b)},
			{Name: "bytes", Value: b}, {Name: "list", Value: []string{"é", string(b)}}, {Name: "raw", Value: [][]byte{b, []byte("x")}}}),
			fmt.Sprintf("int=%s;yes=31;no=;text=%s;bytes=%s;list=%s,%s;raw=%s,78;", hexed(fmt.Sprint(n)), hexed(string(b)), hexed(string(b)), hexed("é"), hexed(string(b)), hexed(string(b))))
	}
	r := request()
	for _, c := range []struct {
		length int64
		body   []byte
		shown  string
	}{{0, nil, "0;"}, {4, []byte("body"), "0;body"}, {1 << 40, nil, "1;"}, {-1, nil, "1;"}} {
		r.Length = c.length
		shown := []string{"Q", "0807060504030201", c.shown}
		for _, s := range []string{"REQUEST_METHOD", "GET", "SCRIPT_NAME", "", "HTTP_X", "\xff", "psgi.url_scheme", "http"} {
			shown = append(shown, hexed(s))
		}
		add(pl.Request(nil, 0x0102030405060708, r, c.body), strings.Join(shown, ";"))
	}
	cmd := exec.Command(Default, "-e", reference)
	cmd.Stdin, cmd.Stderr = &in, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, strings.Split(strings.TrimSpace(string(out)), "\n")); diff != "" {
		t.Errorf("(-want +got)\n%.2000s", diff)
	}
}

func request() *exchange.Request {
	return &exchange.Request{Vars: []exchange.Var{{Name: "REQUEST_METHOD", Value: "GET"}, {Name: "SCRIPT_NAME"}, {Name: "HTTP_EMPTY"}, {Name: "HTTP_X", Value: "\xff"}}}
}

func TestAllocations(t *testing.T) {
	r, buf, pl := request(), make([]byte, 0, 4096), lang.Runtime(&Perl{})
	if n := testing.AllocsPerRun(100, func() { buf = pl.Request(buf[:0], 1<<16, r, nil) }); n != 0 {
		t.Errorf("%v allocations for a request", n)
	}
}

func TestShorter(t *testing.T) {
	for in, want := range map[string]string{
		"Can't locate Foo/Bar.pm in @INC (you may need to install the Foo::Bar module) (@INC contains: /etc/perl /usr/share/perl5) at app.psgi line 3.": "Can't locate Foo/Bar.pm in @INC at app.psgi line 3.",
		"Can't locate Foo.pm in @INC (you may need to install the Foo module) (@INC entries checked: /a) at a line 1.":                                  "Can't locate Foo.pm in @INC at a line 1.",
	} {
		if got := shorter(in); got != want {
			t.Errorf("%q", got)
		}
	}
}
