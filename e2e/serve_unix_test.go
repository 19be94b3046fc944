package e2e

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestServeUnixAsUser: a plain user serves on a unix socket of his own, whose
// mode is as asked from the first moment; a stale one is replaced, and none is
// left.
func TestServeUnixAsUser(t *testing.T) {
	dir := kitchen(t)
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	sock := filepath.Join(dir, "app.sock")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: sock})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	if err := os.Chown(sock, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hello.txt"), []byte("hello"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := serve(t, dir, 65534, "--scgi-socket", sock, "--chmod-socket=600", "--check-static", dir)
	s.await(`scgi_pass unix:`+sock, 1)
	st, err := os.Lstat(sock)
	if err != nil || st.Mode() != os.ModeSocket|0o600 || st.Sys().(*syscall.Stat_t).Uid != 65534 {
		t.Errorf("got %v, %v", st, err)
	}
	c, err := net.DialTimeout("unix", sock, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	head := strings.Join([]string{"CONTENT_LENGTH", "0", "SCGI", "1", "REQUEST_METHOD", "GET", "PATH_INFO", "/hello.txt", ""}, "\x00")
	fmt.Fprintf(c, "%d:%s,", len(head), head)
	if b, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(b), "Status: 200 OK\r\n") || !strings.HasSuffix(string(b), "\r\n\r\nhello") {
		t.Errorf("got %q, %v", b, err)
	}
	s.cmd.Process.Signal(syscall.SIGTERM)
	if code := s.exit(); code != 0 {
		t.Errorf("exit %d: %s", code, s.text())
	}
	if _, err := os.Lstat(sock); err == nil {
		t.Error("the socket is left")
	}
}
