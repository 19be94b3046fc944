package python

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"liege/serve/exchange"
	"liege/serve/worker/lang"
)

// reference reads length-prefixed marshal values and prints, for each, what
// Python made of it in a form that Go can build too.
const reference = `
import marshal, struct, sys, binascii
def show(v):
    if isinstance(v, dict):
        return '{' + ','.join(show(k) + ':' + show(x) for k, x in v.items()) + '}'
    if isinstance(v, list):
        return '[' + ','.join(show(x) for x in v) + ']'
    if isinstance(v, str):
        try:
            return 's' + binascii.hexlify(v.encode('latin-1')).decode()
        except UnicodeEncodeError:
            return 't' + binascii.hexlify(v.encode('utf-8', 'surrogateescape')).decode()
    if isinstance(v, bytes):
        return 'b' + binascii.hexlify(v).decode()
    return repr(v)
data, at = sys.stdin.buffer.read(), 0
while at < len(data):
    n, = struct.unpack_from('<I', data, at)
    print(show(marshal.loads(data[at + 4:at + 4 + n])))
    at += 4 + n
`

// pythons are the interpreters that are here.
func pythons() []string {
	homes, _ := filepath.Glob(filepath.Join(os.Getenv("HOME"), ".pyenv/versions/3.*/bin/python3"))
	return append(homes, Default)
}

func loads(t testing.TB, python string, values [][]byte) []string {
	t.Helper()
	var in bytes.Buffer
	for _, v := range values {
		in.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(v))))
		in.Write(v)
	}
	cmd := exec.Command(python, "-c", reference)
	cmd.Stdin, cmd.Stderr = &in, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", python, err)
	}
	return strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
}

func native(s string) string { return "s" + hex.EncodeToString([]byte(s)) }

// Every Python reads what we write as what we mean: the same bytes as the
// client's, one character each.
func TestMarshal(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	random := func(n int, all bool) string {
		b := make([]byte, rng.IntN(n))
		for i := range b {
			b[i] = byte(rng.IntN(256))
			if !all {
				b[i] &= 0x7f
			}
		}
		return string(b)
	}
	var values [][]byte
	var want []string
	for range 3000 {
		b, w := appendDict(nil), []string{}
		add := func(name string, value []byte, shown string) {
			b = append(appendNative(b, name), value...)
			w = append(w, native(name)+":"+shown)
		}
		for k := range rng.IntN(12) {
			s := random([]int{3, 300, 70000}[rng.IntN(50)/24%3], rng.IntN(2) == 0)
			add(fmt.Sprintf("HTTP_%d_%s", k, random(6, true)), appendNative(nil, s), native(s))
		}
		raw := random(400, true)
		add("body", appendBytes(nil, raw), "b"+hex.EncodeToString([]byte(raw)))
		add("none", appendNone(nil), "None")
		add("yes", appendBool(nil, true), "True")
		add("no", appendBool(nil, false), "False")
		n := int(rng.Uint64()) >> rng.IntN(64)
		add("int", appendInt(nil, n), fmt.Sprint(n))
		path := "é☃" + random(10, true)
		add("path", appendText(nil, "\xff☃"+path), "t"+hex.EncodeToString([]byte("\xff☃"+path)))
		add("list", appendTexts(nil, []string{"a", ""}), "["+native("a")+","+native("")+"]")
		values = append(values, appendDictEnd(b))
		want = append(want, "{"+strings.Join(w, ",")+"}")
	}
	for _, python := range pythons() {
		if diff := cmp.Diff(want, loads(t, python, values)); diff != "" {
			t.Errorf("%s: (-want +got)\n%.2000s", python, diff)
		}
	}
}

func request() *exchange.Request {
	return &exchange.Request{Vars: []exchange.Var{{Name: "REQUEST_METHOD", Value: "GET"}, {Name: "REQUEST_URI", Value: "/some/path?with=query"},
		{Name: "PATH_INFO", Value: "/some/path"}, {Name: "QUERY_STRING", Value: "with=query"}, {Name: "SCRIPT_NAME"}, {Name: "SERVER_NAME", Value: "shop"},
		{Name: "SERVER_PORT", Value: "80"}, {Name: "SERVER_PROTOCOL", Value: "HTTP/1.1"}, {Name: "REMOTE_ADDR", Value: "192.0.2.1"}, {Name: "HTTP_HOST", Value: "shop.example"}}}
}

// Header names of clients must not stay in the interpreter.
func TestNothingInterned(t *testing.T) {
	r := request()
	b := (&Python{}).Request(nil, 1, r, nil)
	// 'Z', 'A' and 't' are the interned types; they would stand where a
	// string's type does, before its length.
	for _, v := range r.Vars {
		i := bytes.Index(b, []byte(v.Name))
		if b[i-2] != 'z' || int(b[i-1]) != len(v.Name) {
			t.Errorf("%s has type %q", v.Name, b[i-2])
		}
	}
}

func BenchmarkEnviron(b *testing.B) {
	r := request()
	for i := range 12 {
		r.Set(fmt.Sprintf("HTTP_HEADER_%d", i), strings.Repeat("v", 30))
	}
	buf, py := []byte{}, lang.Runtime(&Python{})
	b.ReportAllocs()
	for b.Loop() {
		buf = py.Request(buf[:0], 1<<16, r, nil)
	}
}
