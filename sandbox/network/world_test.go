package network

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"liege/internal/testenv"
	"liege/internal/testnet"
	"liege/vassal/egress"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// world is a host with a network of its own. Nothing of it is in this machine's.
type world struct {
	*testnet.Internet
	t   testing.TB
	dir string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	testenv.Need(t, testenv.Root, testenv.NFTables)
	testenv.Leaks(t)
	return &world{t: t, dir: filepath.Join(t.TempDir(), "net"), Internet: testnet.New(t,
		"198.51.100.7", "198.51.100.8", "169.254.169.254", "10.20.30.40", "192.168.7.7", "100.64.1.1", "168.63.129.16", "2001:db8:1::7", "fd00:1::7", "fd00:ec2::254")}
}

// open opens a vassal's line.
func (w *world) open(name, v4, v6 string) *Net {
	w.t.Helper()
	a := Addresses{V4: netip.MustParseAddr(v4)}
	if v6 != "" {
		a.V6 = netip.MustParseAddr(v6)
	}
	var n *Net
	w.In(w.Host, func() (err error) { n, err = Open(w.dir, name, a); return err })
	w.t.Cleanup(func() { w.In(w.Host, n.Close) })
	return n
}

// generation is a process in a network namespace of its own.
type generation struct {
	w   *world
	cmd *exec.Cmd
	ns  *os.File
}

func (w *world) generation() *generation {
	w.t.Helper()
	g := &generation{w: w, cmd: exec.Command("/bin/sleep", "1000")}
	g.cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	err := g.cmd.Start()
	if err == nil {
		g.ns, err = Of(g.cmd.Process.Pid)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.In(g.ns, loUp)
	w.t.Cleanup(g.end)
	return g
}

func (g *generation) end() {
	if g.ns == nil {
		return
	}
	g.ns.Close()
	g.ns = nil
	_ = g.cmd.Process.Kill()
	_ = g.cmd.Wait()
}

func (w *world) attach(n *Net, gen int, p egress.Policy) *generation {
	w.t.Helper()
	g := w.generation()
	w.In(w.Host, func() error { return n.Attach(gen, g.cmd.Process.Pid, p) })
	return g
}

func (w *world) traffic(n *Net) Traffic {
	w.t.Helper()
	var out Traffic
	w.In(w.Host, func() (err error) { out, err = n.Traffic(); return err })
	return out
}

// count counts the host's interfaces and tables, and what is mounted.
func (w *world) count() string {
	var links []netlink.Link
	tables := 0
	w.In(w.Host, func() (err error) {
		if links, err = netlink.LinkList(); err != nil {
			return err
		}
		tables, err = countTables()
		return err
	})
	es, _ := os.ReadDir(w.dir)
	return strconv.Itoa(len(links)) + " interfaces, " + strconv.Itoa(tables) + " tables, " + strconv.Itoa(len(es)) + " namespaces"
}
