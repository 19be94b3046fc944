package ruby

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

// reference reads length-prefixed values and prints what Ruby made of each in
// a form that Go can build too.
const reference = `
def show(v)
  case v
  when Hash then '{' + v.map { |k, x| show(k) + ':' + show(x) }.join(',') + '}'
  when Array then '[' + v.map { |x| show(x) }.join(',') + ']'
  when String then (v.encoding == Encoding::UTF_8 ? 't' : 'b') + v.unpack('H*')[0]
  else v.inspect
  end
end
data, at = $stdin.binmode.read, 0
while at < data.bytesize
  n = data.byteslice(at, 4).unpack('V')[0]
  puts show(Marshal.load(data.byteslice(at + 4, n)))
  at += 4 + n
end
`

func TestMarshal(t *testing.T) {
	testenv.Need(t, testenv.Ruby)
	rng := rand.New(rand.NewPCG(1, 2))
	random := func(n int) string {
		b := make([]byte, rng.IntN(n))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return string(b)
	}
	hexed := func(kind, s string) string { return kind + hex.EncodeToString([]byte(s)) }
	rb := &Ruby{}
	var in bytes.Buffer
	var want []string
	add := func(b []byte, shown string) {
		in.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(b))))
		in.Write(b)
		want = append(want, shown)
	}
	for i := range 2000 {
		n := int(rng.Uint64()) >> rng.IntN(64)
		if i < 1200 {
			n = i - 600 // where the format's lengths change
		}
		s, list := random([]int{3, 300, 70000}[rng.IntN(50)/24%3]), []string{"é☃", "", random(10)}
		kind := func(s string) string {
			if strings.ToValidUTF8(s, "") == s {
				return hexed("t", s)
			}
			return hexed("b", s)
		}
		var shown []string
		for _, x := range list {
			shown = append(shown, kind(x))
		}
		add(rb.Dict(nil, []lang.Entry{{Name: "int", Value: n}, {Name: "yes", Value: true}, {Name: "no", Value: false}, {Name: "text", Value: s},
			{Name: "bytes", Value: []byte(s)}, {Name: "list", Value: list}, {Name: "raw", Value: [][]byte{[]byte(s), nil}}}),
			fmt.Sprintf("{%s:%d,%s:true,%s:false,%s:%s,%s:%s,%s:[%s],%s:[%s,b]}", hexed("b", "int"), n, hexed("b", "yes"), hexed("b", "no"),
				hexed("b", "text"), kind(s), hexed("b", "bytes"), hexed("b", s), hexed("b", "list"), strings.Join(shown, ","), hexed("b", "raw"), hexed("b", s)))
	}
	r := request()
	env := "{" + hexed("b", "REQUEST_METHOD") + ":" + hexed("b", "GET") + "," + hexed("b", "SCRIPT_NAME") + ":b," + hexed("b", "HTTP_X") + ":" + hexed("b", "\xff") +
		"," + hexed("b", "rack.url_scheme") + ":" + hexed("b", "http") + "}"
	for _, c := range []struct {
		length int64
		body   []byte
		shown  string
	}{{0, nil, "nil"}, {4, []byte("body"), hexed("b", "body")}, {1 << 40, nil, "true"}, {-1, nil, "true"}} {
		r.Length = c.length
		add(rb.Request(nil, 0x0102030405060708, r, c.body), "["+hexed("b", "\x08\x07\x06\x05\x04\x03\x02\x01")+","+c.shown+","+env+"]")
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
	r, buf, rb := request(), make([]byte, 0, 4096), lang.Runtime(&Ruby{})
	if n := testing.AllocsPerRun(100, func() { buf = rb.Request(buf[:0], 1<<16, r, nil) }); n != 0 {
		t.Errorf("%v allocations for a request", n)
	}
}
