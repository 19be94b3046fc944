package control

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Descriptors are for those who may bring them; of others the kernel drops them, and
// nothing of this process has them, or waits for their end.
func TestDescriptorsOfStrangers(t *testing.T) {
	for _, take := range []bool{true, false} {
		path := filepath.Join(t.TempDir(), "s")
		ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		out, in, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		if err := send(c.(*net.UnixConn), []byte("{}\n"), []*os.File{in}); err != nil {
			t.Fatal(err)
		}
		in.Close()
		far, err := ln.AcceptUnix()
		if err != nil {
			t.Fatal(err)
		}
		defer far.Close()
		r := &received{conn: far, take: take}
		defer r.close()
		if line, err := readLine(r, 100); err != nil || string(line) != "{}" {
			t.Errorf("%q, %v", line, err)
		}
		if len(r.files) > 0 != take {
			t.Errorf("take %v: %d descriptors", take, len(r.files))
		}
		out.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := out.Read(make([]byte, 1)); (err == io.EOF) == take {
			t.Errorf("take %v: the other end: %v", take, err)
		}
	}
}
