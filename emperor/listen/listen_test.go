package listen

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"liege/emperor/asuser"
	"liege/internal/testenv"
	"liege/vassal"
)

func TestMain(m *testing.M) {
	asuser.Main()
	os.Exit(m.Run())
}

const nobody = 65534

func wanting(t *testing.T, file string, addrs ...string) Want {
	w := Want{File: file, UID: nobody, GID: nobody, Groups: []int{nobody}, Trusted: true, Umask: 0o022}
	for i, a := range addrs {
		w.Listeners = append(w.Listeners, vassal.Listener{
			Protocol: vassal.HTTP, Address: a, Key: "http-socket", At: vassal.Origin{File: file, Line: i + 2},
		})
	}
	w.Owner = func(s string) (int, int, error) {
		var u, g int
		if _, err := fmt.Sscanf(s, "%d:%d", &u, &g); err != nil {
			return -1, -1, err
		}
		return u, g, nil
	}
	w.AsUser = func(ctx context.Context) (*asuser.Session, error) {
		s, err := asuser.Start(ctx, asuser.Who{UID: nobody, GID: nobody, Groups: []int{nobody}})
		if err == nil {
			t.Cleanup(func() { s.Close() })
		}
		return s, err
	}
	return w
}

// What resolve leaves to the vassal's user, root does not make, though the
// directory is root's alone, and could be made.
func TestByUser(t *testing.T) {
	testenv.Need(t, testenv.Root)
	testenv.Leaks(t)
	dir, err := os.MkdirTemp("/run", "liege-test-") // no name that a killed run may have left
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, addr := range []string{dir + "/x.sock", dir + "/below/x.sock"} {
		w := wanting(t, "a.ini", addr)
		w.Listeners[0].ByUser = true
		s := NewRegistry().Set("a")
		if c, ps := s.Apply(t.Context(), w); c != nil || !ps.Failed() {
			t.Errorf("%s was made", addr)
		}
		w.Listeners[0].ByUser = false // the control
		c := apply(t, s, w)
		c.Abort()
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// The name of a vassal in /run/liege is that vassal's, also while it is stopped.
func TestNameOf(t *testing.T) {
	reg := NewRegistry()
	reg.Lives = func(n vassal.Name) bool { return n == "shop" || n == "evil" || n == "evil.http" }
	reg.RunDirs = []string{"/run/liege", "/srv/run"}
	for addr, want := range map[string]vassal.Name{
		"/run/liege/shop.sock": "shop", "/run/liege/shop/a.sock": "shop", "/run/liege/shop": "shop",
		"/run/liege/shop.http.sock": "shop", "/run/liege/shop.https.sock": "shop", "/run/liege/shop.uwsgi.sock": "shop", "/run/liege/shop.fastcgi.sock": "shop",
		"/run/liege/shop.scgi.sock": "shop", "/run/liege/shop.stats.sock": "shop", "/run/liege/shop.sock/a": "shop", "/run/liege/shop.http.sock/a": "shop",
		"/srv/run/shop.http.sock": "shop", "/run/liege/shop.uk.sock": "", "/run/liege/evil.http.sock": "", "/run/liege/evil.http.http.sock": "evil.http",
		"/run/liege/evil.sock": "", "/run/liege/other.sock": "", "/run/other/shop.sock": "", "127.0.0.1:80": "",
	} {
		if got := reg.nameOf(addr, reg.Set("evil")); got != want {
			t.Errorf("%s: kept for %q, want %q", addr, got, want)
		}
	}
}

func apply(t *testing.T, s *Set, w Want) *Change {
	t.Helper()
	c, ps := s.Apply(t.Context(), w)
	if ps.Failed() {
		t.Fatal(ps)
	}
	return c
}

func addresses(bs []Bound) (out []string) {
	for _, b := range bs {
		out = append(out, b.Address)
	}
	return out
}

// dials reports whether somebody listens at the address.
func dials(addr string) bool {
	network := "tcp"
	if strings.ContainsAny(addr, "/@") {
		network = "unix"
	}
	c, err := net.Dial(network, addr)
	if err == nil {
		c.Close()
	}
	return err == nil
}

func vassalFile(t *testing.T, name string) string {
	t.Helper()
	f := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(f, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return f
}

func fds(t *testing.T) int {
	t.Helper()
	e, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(e)
}

func TestGenerations(t *testing.T) {
	before := fds(t)
	f := vassalFile(t, "shop.ini")
	r := NewRegistry()
	s := r.Set("shop")
	c := apply(t, s, wanting(t, f, "127.0.0.1:0", "@liege-test-"+filepath.Base(t.TempDir())+fmt.Sprint(os.Getpid())))
	one := addresses(c.Bound())
	c.Commit()
	if strings.HasSuffix(one[0], ":0") || !dials(one[0]) || !dials(one[1]) {
		t.Fatalf("bound %q", one)
	}
	cookie := c.Bound()[0].Cookie

	// The same file again: the same sockets. One line more, one less.
	w := wanting(t, f, "127.0.0.1:0", "[::1]:0")
	c = apply(t, s, w)
	two := c.Bound()
	if two[0].Cookie != cookie || cookie == 0 {
		t.Errorf("the kept socket is another one: %d, %d", two[0].Cookie, cookie)
	}
	if !dials(one[1]) {
		t.Error("the old generation's socket was closed before the new one served")
	}
	c.Abort() // the generation fails
	if !dials(one[1]) || dials(two[1].Address) {
		t.Error("Abort left the new socket, or closed an old one")
	}
	c = apply(t, s, w)
	two = c.Bound()
	c.Commit()
	if dials(one[1]) || !dials(two[1].Address) {
		t.Error("Commit kept the old socket, or closed the new one")
	}
	s.Close()
	if dials(one[0]) {
		t.Error("listens after Close")
	}
	if after := fds(t); after != before {
		t.Errorf("descriptors: %d before, %d after", before, after)
	}
}

func TestClashes(t *testing.T) {
	r := NewRegistry()
	fileA, fileB := vassalFile(t, "a.ini"), vassalFile(t, "b.ini")
	a, b := r.Set("a"), r.Set("b")
	defer a.Close()
	defer b.Close()
	c := apply(t, a, wanting(t, fileA, "127.0.0.1:0"))
	c.Commit()
	port := c.Bound()[0].Address[len("127.0.0.1:"):]

	foreign, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	fixed := "127.0.0.1:" + freePort(t)
	c = apply(t, a, wanting(t, fileA, "127.0.0.1:0", fixed))
	c.Commit()
	for _, tt := range []struct{ name, addr, want string }{
		{"same address", fixed, fmt.Sprintf("is in use: vassal a has it (%s:3)", fileA)},
		{"another program", foreign.Addr().String(), fmt.Sprintf("is in use: pid %d (listen.test) listens there", os.Getpid())},
		{"all addresses", "0.0.0.0:" + fixed[len("127.0.0.1:"):], fmt.Sprintf("is in use: vassal a has %s (%s:3)", fixed, fileA)},
		{"not ours", "192.0.2.1:" + port, "cannot assign requested address"},
		{"no such host", "no-such-host.invalid:80", "neither an address nor a name"},
	} {
		before := fds(t)
		_, ps := b.Apply(t.Context(), wanting(t, fileB, tt.addr))
		if len(ps) != 1 || !strings.Contains(ps[0].Message, tt.want) || ps[0].Line != 2 || ps[0].File != fileB || ps[0].Step != "listen" {
			t.Errorf("%s: %+v, want %q", tt.name, ps, tt.want)
		}
		if fds(t) != before {
			t.Errorf("%s: descriptors leaked", tt.name)
		}
	}
	free := freePort(t) // of two lines of one file it is the other that is to blame
	_, ps := b.Apply(t.Context(), wanting(t, fileB, "127.0.0.1:"+free, "0.0.0.0:"+free))
	if want := fmt.Sprintf("0.0.0.0:%s is in use: it overlaps with 127.0.0.1:%s, which %s:2 names", free, free, fileB); len(ps) != 1 || ps[0].Message != want || ps[0].Line != 3 {
		t.Errorf("two lines: %+v, want %q", ps, want)
	}
}

// TestOverlap: nobody can listen at an address and at all of its family.
func TestOverlap(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"127.0.0.1:80", "0.0.0.0:80", true}, {"127.0.0.1:80", "127.0.0.1:80", true}, {"[::1]:80", "[::]:80", true},
		{"127.0.0.1:80", "0.0.0.0:81", false}, {"127.0.0.1:80", "127.0.0.2:80", false}, {"127.0.0.1:80", "[::]:80", false},
		{"127.0.0.1:0", "0.0.0.0:0", false}, {"/run/a.sock", "0.0.0.0:80", false},
	} {
		if overlap(tt.a, tt.b) != tt.want || overlap(tt.b, tt.a) != tt.want {
			t.Errorf("%s and %s: %v", tt.a, tt.b, !tt.want)
		}
	}
}

// A renamed file takes the sockets along; a copy does not.
func TestRename(t *testing.T) {
	r := NewRegistry()
	old, moved := vassalFile(t, "old.ini"), vassalFile(t, "new.ini")
	a, b := r.Set("old"), r.Set("new")
	addr := "127.0.0.1:" + freePort(t)
	c := apply(t, a, wanting(t, old, addr))
	c.Commit()
	cookie := c.Bound()[0].Cookie
	if _, ps := b.Apply(t.Context(), wanting(t, moved, addr)); ps.First() == nil || ps.First().Code != "listen-in-use" {
		t.Fatalf("two files: %v", ps)
	}
	b.Inherit(a)
	a.Close()
	if !dials(addr) {
		t.Error("the old vassal's end closed the socket")
	}
	c = apply(t, b, wanting(t, moved, addr))
	c.Commit()
	if c.Bound()[0].Cookie != cookie {
		t.Error("another socket")
	}
	b.Close()
	if dials(addr) {
		t.Error("listens after Close")
	}
}

// ":80" becomes "127.0.0.1:80" without a moment in which nobody listens.
func TestNarrower(t *testing.T) {
	s := NewRegistry().Set("a")
	defer s.Close()
	f, port := vassalFile(t, "a.ini"), freePort(t)
	apply(t, s, wanting(t, f, "0.0.0.0:"+port)).Commit()
	c := apply(t, s, wanting(t, f, "127.0.0.1:"+port))
	if !dials("127.0.0.1:" + port) {
		t.Error("nobody listens")
	}
	c.Commit()
	if !dials("127.0.0.1:"+port) || dials("127.0.0.2:"+port) {
		t.Error("not the new address alone")
	}
	if _, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
		t.Error("the port can be shared with others")
	}
}

// A tenant breaks its listener for good; the next start mends it.
func TestBroken(t *testing.T) {
	root(t)
	dir := userDir(t)
	for name, hurt := range map[string]func(fd int) error{
		"shutdown": func(fd int) error { return unix.Shutdown(fd, unix.SHUT_RDWR) },
		"disconnect": func(fd int) error {
			if d, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil || d == unix.AF_UNIX {
				return unix.Shutdown(fd, unix.SHUT_RD)
			}
			if err := unix.Shutdown(fd, unix.SHUT_RD); err != nil {
				return err
			}
			return unix.Connect(fd, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{127, 0, 0, 1}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := NewRegistry().Set("a")
			defer s.Close()
			w := wanting(t, vassalFile(t, "a.ini"), "127.0.0.1:"+freePort(t), dir+"/s.sock")
			c := apply(t, s, w)
			c.Commit()
			for _, b := range c.Bound() {
				if err := hurt(int(b.File.Fd())); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
					t.Fatal(err)
				}
				if dials(b.Address) {
					t.Fatalf("%s was not broken", b.Address)
				}
			}
			c, ps := s.Apply(t.Context(), w)
			if c == nil || len(ps) != 2 || ps[0].Severity != vassal.Warning {
				t.Fatalf("problems %v, want one warning for each socket", ps)
			}
			c.Commit()
			for _, b := range c.Bound() {
				if !dials(b.Address) {
					t.Errorf("%s was not mended", b.Address)
				}
			}
		})
	}
}

func TestUnix(t *testing.T) {
	root(t)
	user := userDir(t)
	run := "/run/liege-test-" + filepath.Base(user) + fmt.Sprint(os.Getpid())
	defer os.RemoveAll(run)
	mode := func(m fs.FileMode) *fs.FileMode { return &m }
	for _, tt := range []struct {
		name, path, chown string
		mode              *fs.FileMode
		want              string
	}{
		{"user's directory", user + "/a.sock", "", nil, "0755 65534:65534"},
		{"mode", user + "/b.sock", "", mode(0o660), "0660 65534:65534"},
		{"owner", user + "/c.sock", "1:2", mode(0o666), "0666 1:2"},
		{"run directory is made", run + "/x/d.sock", "", mode(0o666), "0666 65534:65534"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := NewRegistry().Set("a")
			w := wanting(t, vassalFile(t, "a.ini"), tt.path)
			w.Listeners[0].Mode, w.Listeners[0].Chown = tt.mode, tt.chown
			c := apply(t, s, w)
			c.Commit()
			if got := describe(t, tt.path); got != tt.want || !dials(tt.path) {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			// A changed line is applied to the same socket.
			w.Listeners[0].Mode, w.Listeners[0].Chown = mode(0o600), "65534:7"
			cookie := c.Bound()[0].Cookie
			c = apply(t, s, w)
			c.Commit()
			if got := describe(t, tt.path); got != "0600 65534:7" || c.Bound()[0].Cookie != cookie {
				t.Errorf("changed line: %s", got)
			}
			s.Close()
			if _, err := os.Lstat(tt.path); !errors.Is(err, fs.ErrNotExist) {
				t.Error("the node is left")
			}
		})
	}
	if _, err := os.Lstat(run); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the directory made in /run is left")
	}
}

func TestUnixRefused(t *testing.T) {
	root(t)
	user := userDir(t)
	other := user + "/file"
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	live, err := net.Listen("unix", user+"/live.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	for _, tt := range []struct{ path, code, want string }{
		{other, "listen", "not a socket"},
		{user + "/live.sock", "listen-in-use", fmt.Sprintf("pid %d (listen.test)", os.Getpid())},
		{user + "/none/x.sock", "listen", "no such file or directory"},
	} {
		s := NewRegistry().Set("a")
		_, ps := s.Apply(t.Context(), wanting(t, "/f.ini", tt.path))
		if len(ps) != 1 || ps[0].Code != tt.code || !strings.Contains(ps[0].Message, tt.want) {
			t.Errorf("%s: %+v; want %s %q", tt.path, ps, tt.code, tt.want)
		}
		s.Close()
	}
	s := NewRegistry().Set("a")
	defer s.Close()
	w := wanting(t, "/f.ini", user+"/t.sock")
	w.Trusted, w.Listeners[0].Chown = false, "0:0"
	if _, ps := s.Apply(t.Context(), w); len(ps) != 1 || ps[0].Code != "listen" {
		t.Errorf("a tenant's chown-socket: %v", ps)
	}
	if _, err := os.Lstat(user + "/t.sock"); err == nil {
		t.Error("a refused socket is left")
	}
}

func root(t *testing.T) {
	t.Helper()
	testenv.Need(t, testenv.Root)
}

// userDir is a directory of nobody's, short enough for a socket.
func userDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ll")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := errors.Join(os.Chown(dir, nobody, nobody), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func describe(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%04o %d:%d", st.Mode&0o7777, st.Uid, st.Gid)
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func TestV6Only(t *testing.T) {
	s := NewRegistry().Set("a")
	defer s.Close()
	port := freePort(t)
	c, ps := s.Apply(t.Context(), wanting(t, vassalFile(t, "a.ini"), "0.0.0.0:"+port, "[::]:"+port))
	if ps.Failed() {
		t.Fatal(ps)
	}
	c.Commit()
	if diff := cmp.Diff([]string{"0.0.0.0:" + port, "[::]:" + port}, addresses(c.Bound())); diff != "" {
		t.Error(diff)
	}
}

// TestOverlappingStarts: a start that was given up may still be ending when
// the next one needs the same address.
func TestOverlappingStarts(t *testing.T) {
	s := NewRegistry().Set("shop")
	defer s.Close()
	first := apply(t, s, wanting(t, "shop.ini", "127.0.0.1:0"))
	addr := first.Bound()[0].Address
	second := apply(t, s, wanting(t, "shop.ini", "127.0.0.1:0"))
	if got := second.Bound()[0].Address; got != addr {
		t.Errorf("the second start has %s, want the first one's %s", got, addr)
	}
	first.Abort()
	if !dials(addr) {
		t.Fatal("the end of the first start closed what the second one uses")
	}
	third := apply(t, s, wanting(t, "shop.ini", "127.0.0.1:0"))
	second.Commit()
	third.Abort()
	if !dials(addr) {
		t.Fatal("the end of the third start closed what serves")
	}
	last := apply(t, s, wanting(t, "shop.ini", "@liege-test-overlap"))
	last.Commit()
	if dials(addr) {
		t.Error("an address that the file no longer names is still open")
	}
}

// TestAbortedStarts: nothing is left when every start of an address was given
// up.
func TestAbortedStarts(t *testing.T) {
	s := NewRegistry().Set("shop")
	defer s.Close()
	first := apply(t, s, wanting(t, "shop.ini", "127.0.0.1:0"))
	second := apply(t, s, wanting(t, "shop.ini", "127.0.0.1:0"))
	addr := first.Bound()[0].Address
	first.Abort()
	second.Abort()
	second.Abort()
	if dials(addr) {
		t.Error("nobody uses it and it is still open")
	}
}

// TestKeep: what another start wants closes nothing of what is being handed over, and
// handing over changes nothing.
func TestKeep(t *testing.T) {
	s := NewRegistry().Set("shop")
	defer s.Close()
	apply(t, s, wanting(t, "shop.ini", "@liege-test-keep")).Commit()
	for name, end := range map[string]func(*Change){"commit": (*Change).Commit, "abort": (*Change).Abort} {
		kept := s.Keep()
		apply(t, s, wanting(t, "shop.ini", "@liege-test-other")).Commit()
		if !dials("@liege-test-keep") {
			t.Errorf("%s: closed while it is handed over", name)
		}
		end(kept)
		if dials("@liege-test-keep") || !dials("@liege-test-other") {
			t.Errorf("%s: what the vassal listens on is not what the last start wanted", name)
		}
		apply(t, s, wanting(t, "shop.ini", "@liege-test-keep")).Commit()
	}
}

// TestLateStart: a start of a vassal that is gone, or whose listeners its heir has, may
// still be ending.
func TestLateStart(t *testing.T) {
	root(t)
	reg := NewRegistry()
	old, heir := reg.Set("old"), reg.Set("heir")
	defer heir.Close()
	addr := userDir(t) + "/x.sock"
	apply(t, old, wanting(t, "old.ini", addr)).Commit()
	late := apply(t, old, wanting(t, "old.ini", addr))
	heir.Inherit(old)
	late.Abort()
	if !dials(addr) {
		t.Error("the end of a start closed what another vassal has by now")
	}
	late = apply(t, heir, wanting(t, "heir.ini", addr))
	heir.Close()
	again := apply(t, reg.Set("heir"), wanting(t, "heir.ini", addr))
	late.Abort()
	if !dials(addr) {
		t.Error("what was closed is closed once more")
	}
	again.Abort()
}

// TestStaleOfRoot: a socket that root left in the user's directory, as uWSGI
// without vacuum does, is replaced; one on which somebody answers, or that is
// a stranger's, is not, and the reason says so.
func TestStaleOfRoot(t *testing.T) {
	testenv.Need(t, testenv.Root)
	for _, c := range []struct {
		name   string
		owner  int
		listen bool
		want   string
	}{
		{"stale", 0, false, ""},
		{"answered", 0, true, "is in use: pid "},
		{"stranger", 1, false, "is in use: there is a socket of uid 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "liege-stale-")
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			if err := os.Chown(dir, nobody, nobody); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "app.sock")
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			closed := false
			defer func() {
				if !closed {
					unix.Close(fd)
				}
			}()
			if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
				t.Fatal(err)
			}
			if err := os.Lchown(path, c.owner, c.owner); err != nil {
				t.Fatal(err)
			}
			if c.listen {
				if err := unix.Listen(fd, 1); err != nil {
					t.Fatal(err)
				}
			} else {
				unix.Close(fd)
				closed = true
			}
			s := NewRegistry().Set("shop")
			defer s.Close()
			change, ps := s.Apply(t.Context(), wanting(t, "shop.ini", path))
			if change != nil {
				change.Abort()
			}
			if c.want == "" && ps.Failed() || c.want != "" && (!ps.Failed() || !strings.Contains(ps[0].Message, c.want)) {
				t.Errorf("%v, want %q", ps, c.want)
			}
		})
	}
}

// Root connects to nothing to which the user's links lead: there may be a service
// that systemd starts then. The control is the same socket without the link.
func TestStaleByLink(t *testing.T) {
	testenv.Need(t, testenv.Root)
	dir := rootsDir(t)
	home := nobodysDir(t, dir, "home")
	symlink(t, dir, filepath.Join(home, "run"))
	for _, tc := range []struct {
		path  string
		asked bool
	}{{filepath.Join(home, "run/root.sock"), false}, {filepath.Join(dir, "root.sock"), true}} {
		ln, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		node := filepath.Join(dir, "root.sock")
		if err := errors.Join(unix.Bind(ln, &unix.SockaddrUnix{Name: node}), unix.Listen(ln, 1)); err != nil {
			t.Fatal(err)
		}
		_, _, stale := staleOfRoot(tc.path)
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(ln), Events: unix.POLLIN}}, 0)
		if stale || err != nil || n > 0 != tc.asked {
			t.Errorf("%s: stale %v, asked %v (%v), want asked %v", tc.path, stale, n > 0, err, tc.asked)
		}
		if err := errors.Join(unix.Close(ln), os.Remove(node)); err != nil {
			t.Fatal(err)
		}
	}
}

// A queue longer than the kernel makes is cut, and that is said.
func TestBacklogCut(t *testing.T) {
	s := NewRegistry().Set("shop")
	defer s.Close()
	w := wanting(t, "shop.ini", "127.0.0.1:0")
	w.Listeners[0].Backlog = 1 << 30
	c, ps := s.Apply(t.Context(), w)
	if c == nil || len(ps) != 1 || ps[0].Severity != vassal.Warning || !strings.Contains(ps[0].Message, "somaxconn") {
		t.Fatalf("%v, want one warning", ps)
	}
	c.Abort()
}

// TestSocketOptions: buffers and freebind are the socket's.
func TestSocketOptions(t *testing.T) {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := freebind(fd, family); err != nil {
			t.Error(err)
		}
		if err := buffers(fd, vassal.Sockets{SendBuffer: 20000, ReceiveBuffer: 30000}); err != nil {
			t.Error(err)
		}
		snd, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
		rcv, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
		if snd != 40000 || rcv != 60000 { // socket(7): the kernel doubles them
			t.Errorf("buffers %d and %d", snd, rcv)
		}
		var sa unix.Sockaddr = &unix.SockaddrInet4{Addr: [4]byte{192, 0, 2, 1}}
		if family == unix.AF_INET6 {
			sa = &unix.SockaddrInet6{Addr: [16]byte{0x20, 1, 0xd, 0xb8, 15: 1}}
		}
		if err := unix.Bind(fd, sa); err != nil {
			t.Errorf("bind to an address that is not here: %v", err)
		}
		unix.Close(fd)
	}
}
