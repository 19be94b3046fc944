package e2e

import (
	"bufio"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// keeper does what systemd does with a unit's file descriptor store.
type keeper struct {
	mu   sync.Mutex
	kept map[string]*os.File
}

func newKeeper(t *testing.T, path string) *keeper {
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	k := &keeper{kept: map[string]*os.File{}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b, oob := make([]byte, 4096), make([]byte, 1024)
		for {
			n, o, _, _, err := c.ReadMsgUnix(b, oob)
			if err != nil {
				return
			}
			k.told(string(b[:n]), oob[:o])
		}
	}()
	t.Cleanup(func() {
		c.Close()
		<-done
		for _, f := range k.kept {
			f.Close()
		}
	})
	return k
}

// told obeys one message.
func (k *keeper) told(text string, oob []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	what, name, _ := strings.Cut(text, "\nFDNAME=")
	if what == "FDSTOREREMOVE=1" {
		k.kept[name].Close() // nil is an error of its own
		delete(k.kept, name)
	}
	ms, err := unix.ParseSocketControlMessage(oob)
	if err != nil || what != "FDSTORE=1" || len(ms) != 1 {
		return
	}
	if fds, err := unix.ParseUnixRights(&ms[0]); err == nil && len(fds) == 1 {
		unix.CloseOnExec(fds[0])
		k.kept[name] = os.NewFile(uintptr(fds[0]), name)
	}
}

func (k *keeper) names() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Sorted(maps.Keys(k.kept))
}

// give is what systemd gives the next process of the unit.
func (k *keeper) give(r *realm) {
	k.mu.Lock()
	defer k.mu.Unlock()
	r.given = nil
	for _, name := range slices.Sorted(maps.Keys(k.kept)) {
		r.given = append(r.given, k.kept[name])
	}
}

// TestStored: while no Emperor runs, killed or stopped, systemd has the listeners
// of a vassal that sleeps: who connects meanwhile is answered by what the next
// Emperor starts. What has no vassal any more is given up.
func TestStored(t *testing.T) {
	r := layRealm(t)
	notify := filepath.Join(r.dir, "notify")
	k := newKeeper(t, notify)
	r.env = append(r.env, "NOTIFY_SOCKET="+notify)
	sock := filepath.Join(r.dir, "s.sock")
	r.begin()
	r.drowsy("shop", "idle = 1\nhttp = 127.0.0.1:0\nhttp-socket = "+sock+"\ndrain-timeout = 5\n")
	addr := tcpOf(r.sleeps("shop"))
	r.until("both are kept", func() bool { return len(k.names()) == 2 })
	was := k.names()
	for _, end := range []func(){r.kill, r.stop} {
		end()
		answered := []chan string{ask(t, "tcp", addr), ask(t, "unix", sock)}
		k.give(r)
		r.start()
		for i, a := range answered {
			select {
			case got := <-a:
				if got != "200 OK" {
					t.Errorf("connection %d: %s", i, got)
				}
			case <-time.After(2 * time.Minute):
				t.Errorf("connection %d is not answered:\n%s", i, r.said)
			}
		}
		if v := r.sleeps("shop"); tcpOf(v) != addr || v.Restarts != 0 {
			t.Errorf("%+v", v)
		}
		if now := k.names(); !slices.Equal(now, was) {
			t.Errorf("systemd keeps %v, before %v", now, was)
		}
	}
	r.kill()
	os.Remove(filepath.Join(r.etc, "shop.ini"))
	k.give(r)
	r.start()
	r.until("nothing is kept of a vassal without a file", func() bool { return len(k.names()) == 0 })
	r.until("its socket is gone", func() bool { _, err := os.Lstat(sock); return err != nil })
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		t.Errorf("somebody listens at %s", addr)
	}
}

// ask connects, before it returns, and sends a request whose status line it
// passes on.
func ask(t *testing.T, network, addr string) chan string {
	t.Helper()
	c, err := net.Dial(network, addr)
	if err != nil {
		t.Fatalf("nobody listens: %v", err)
	}
	if _, err := fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	said := make(chan string, 1)
	go func() {
		defer c.Close()
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			said <- err.Error()
			return
		}
		resp.Body.Close()
		said <- resp.Status
	}()
	return said
}
