package front

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"

	"liege/internal/testenv"
	"liege/vassal"
)

// TestIdleMemory: a connection that waits for another request holds nothing of
// the last one, however large that was.
func TestIdleMemory(t *testing.T) {
	testenv.Leaks(t)
	const (
		n    = 200
		most = 14 << 10 // of each, the test's own side included
	)
	var kv, fields []string
	for i := range 100 {
		name, value := fmt.Sprintf("HTTP_X_%d", i), strings.Repeat("v", 290)
		kv = append(kv, name, value)
		fields = append(fields, fmt.Sprintf("X-%d: %s\r\n", i, value))
	}
	kv = append(kv, "REQUEST_METHOD", "GET", "PATH_INFO", "/")
	for _, c := range []struct {
		proto vassal.Protocol
		raw   string
		ends  string // of the answer
	}{
		{vassal.HTTP, "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Join(fields, "") + "\r\n", "hi"},
		{vassal.HTTP, "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\n" + strings.Join(fields, "") + "\r\n" + strings.Repeat("x", 50000), "hi"},
		{vassal.HTTP, "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n" + strings.Join(fields, "") + "\r\n", "hi"}, // it lingers
		{vassal.PUWSGI, packet(0, kv...), "hi"},
		{vassal.FastCGI, begin(1, fcgiResponder, fcgiKeepConn) + record(fcgiParams, 1, params(kv...)) + record(fcgiParams, 1, "") + record(fcgiStdin, 1, ""), record(fcgiEnd, 1, "\x00\x00\x00\x00\x00\x00\x00\x00")},
	} {
		r := serve(t, c.proto, vassal.HTTPLimits{KeepAlive: true}, hello)
		idle := func() net.Conn {
			conn := dial(t, r.addr)
			go io.WriteString(conn, c.raw)
			in := bufio.NewReaderSize(conn, 64)
			got := ""
			for !strings.HasSuffix(got, c.ends) {
				b, err := in.ReadByte()
				if err != nil {
					t.Fatalf("%v: %q, %v", c.proto, got, err)
				}
				got += string(b)
			}
			if !strings.Contains(got, "hi") {
				t.Fatalf("%v: %q", c.proto, got)
			}
			return conn
		}
		idle().Close()
		before := heap()
		var conns []net.Conn
		for range n {
			conns = append(conns, idle())
		}
		each := (heap() - before) / n
		t.Logf("%v: %d bytes each", c.proto, each)
		if each > most {
			t.Errorf("%v: %d bytes for each idle connection", c.proto, each)
		}
		for _, conn := range conns {
			conn.Close()
		}
		r.stop()
	}
}

// heap is what is reachable, in bytes.
func heap() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what pools hold is gone after the second
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}
