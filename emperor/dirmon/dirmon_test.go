package dirmon

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"liege/emperor"
	"liege/internal/testenv"
	"liege/vassal"
)

// alice and mallory are users of no importance.
const (
	alice   = 61001
	mallory = 61002
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// host is a directory that stands for /.
type host struct {
	*testing.T
	dir string
}

func newHost(t *testing.T) host {
	t.Helper()
	testenv.Need(t, testenv.Root)
	h := host{t, t.TempDir()}
	h.mkdir("/etc/vassals", 0, 0o755)
	return h
}

func (h host) path(p string) string { return filepath.Join(h.dir, p) }

func (h host) must(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

func (h host) mkdir(p string, uid int, mode os.FileMode) {
	h.Helper()
	h.must(os.MkdirAll(h.path(p), 0o755))
	h.own(p, uid, uid, mode)
}

func (h host) own(p string, uid, gid int, mode os.FileMode) {
	h.Helper()
	h.must(os.Lchown(h.path(p), uid, gid))
	h.must(os.Chmod(h.path(p), mode))
}

func (h host) write(p, text string, uid int, mode os.FileMode) {
	h.Helper()
	h.must(os.WriteFile(h.path(p), []byte(text), 0o600))
	h.own(p, uid, uid, mode)
}

// allow is setfacl -m u:UID:rw.
func (h host) allow(p string, uid uint32) {
	h.Helper()
	list := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{0x01, 7, math.MaxUint32}, {0x02, 7, uid}, {0x04, 5, math.MaxUint32}, {0x10, 7, math.MaxUint32}, {0x20, 5, math.MaxUint32}} {
		list = binary.LittleEndian.AppendUint16(list, e.tag)
		list = binary.LittleEndian.AppendUint16(list, e.perm)
		list = binary.LittleEndian.AppendUint32(list, e.id)
	}
	h.must(unix.Setxattr(h.path(p), "system.posix_acl_access", list, 0))
}

func (h host) link(target, p string) {
	h.Helper()
	h.must(os.Symlink(target, h.path(p)))
}

func (h host) monitor(sources ...string) *Monitor {
	h.Helper()
	m, err := New(Options{Sources: sources, Touch: true, Root: h.dir, Log: quiet(),
		Primary: func(uid int) (int, bool) { return uid, true }})
	h.must(err)
	m.deaf = true
	return m
}

// scan is what is seen after Settle.
func (h host) scan(m *Monitor) emperor.Snapshot {
	h.Helper()
	now := time.Now()
	m.scan(now, true)
	s, _ := m.scan(now.Add(Settle), true)
	m.sent = &s
	return s
}

// show is a Snapshot as text.
func show(s emperor.Snapshot) string {
	var b strings.Builder
	for _, f := range s.Files {
		fmt.Fprintf(&b, "%s %s", f.Name, f.Path)
		switch {
		case f.Problem != nil:
			fmt.Fprintf(&b, " %s", f.Problem.Code)
		case f.Trust.Operator:
			b.WriteString(" operator")
		default:
			fmt.Fprintf(&b, " uid %d", f.Trust.UID)
		}
		if f.NoVassal {
			b.WriteString(" no vassal")
		}
		b.WriteString("\n")
	}
	for _, p := range s.Skipped {
		fmt.Fprintf(&b, "%s: %s %s\n", p.Severity, p.Code, p.File)
	}
	return b.String()
}

func (h host) want(m *Monitor, want string) {
	h.Helper()
	got := show(h.scan(m))
	trim := func(s string) string {
		lines := strings.Split(strings.TrimSpace(s), "\n")
		for i := range lines {
			lines[i] = strings.TrimSpace(lines[i])
		}
		return strings.Join(lines, "\n")
	}
	if trim(got) != trim(want) {
		h.Errorf("got\n%s\nwant\n%s", trim(got), trim(want))
	}
}

func TestTrust(t *testing.T) {
	testenv.Leaks(t)
	h := newHost(t)
	const text = "[uwsgi]\nsecret = s3cr3t\n"
	h.write("/etc/vassals/op.ini", text, 0, 0o644)
	h.write("/etc/vassals/op664.ini", text, 0, 0o664) // root's own group
	h.write("/etc/vassals/alice.ini", text, alice, 0o644)
	h.write("/etc/vassals/alice664.ini", text, alice, 0o664) // alice's own group
	h.write("/etc/vassals/world.ini", text, 0, 0o666)
	h.write("/etc/vassals/group.ini", text, 0, 0o664)
	h.own("/etc/vassals/group.ini", 0, mallory, 0o664)
	h.write("/etc/vassals/strange.ini", text, alice, 0o664)
	h.own("/etc/vassals/strange.ini", alice, mallory, 0o664)
	h.write("/etc/vassals/hard.ini", text, 0, 0o644)
	h.must(os.Link(h.path("/etc/vassals/hard.ini"), h.path("/etc/vassals/hard2.ini")))
	h.write("/etc/vassals/acl.ini", text, 0, 0o644)
	h.allow("/etc/vassals/acl.ini", mallory) // the mode becomes 0664, as that of op664
	h.write("/etc/vassals/aliceacl.ini", text, alice, 0o644)
	h.allow("/etc/vassals/aliceacl.ini", mallory)
	h.write("/etc/vassals/big.ini", strings.Repeat("#", MaxFile+1), 0, 0o644)
	h.write("/etc/vassals/full.ini", strings.Repeat("#", MaxFile), 0, 0o644)
	m := h.monitor("/etc/vassals")
	h.want(m, `acl /etc/vassals/acl.ini untrusted-file
		alice /etc/vassals/alice.ini uid 61001
		alice664 /etc/vassals/alice664.ini uid 61001
		aliceacl /etc/vassals/aliceacl.ini untrusted-file
		big /etc/vassals/big.ini too-big
		full /etc/vassals/full.ini operator
		group /etc/vassals/group.ini untrusted-file
		hard /etc/vassals/hard.ini untrusted-file
		hard2 /etc/vassals/hard2.ini untrusted-file
		op /etc/vassals/op.ini operator
		op664 /etc/vassals/op664.ini operator
		strange /etc/vassals/strange.ini untrusted-file
		world /etc/vassals/world.ini untrusted-file`)
	for _, f := range h.scan(m).Files {
		if f.Problem != nil && (len(f.Text) > 0 || strings.Contains(f.Problem.Message+f.Problem.Hint, "s3cr3t")) {
			t.Errorf("%s: a refused file is quoted", f.Name)
		}
	}
	m.tyrant = true
	if s := show(h.scan(m)); !strings.Contains(s, "op /etc/vassals/op.ini untrusted-file") || !strings.Contains(s, "alice /etc/vassals/alice.ini uid") {
		t.Errorf("tyrant: %s", s)
	}
}

// A02: links. The control is a link that is followed.
func TestLinks(t *testing.T) {
	testenv.Leaks(t)
	h := newHost(t)
	h.mkdir("/apps", 0, 0o755)
	h.write("/apps/good.ini", "[uwsgi]\n", 0, 0o644)
	h.link("../../apps/good.ini", "/etc/vassals/good.ini")
	h.link("/apps/good.ini", "/etc/vassals/absolute.ini")
	h.mkdir("/home/alice/app", alice, 0o755)
	h.own("/home/alice", alice, alice, 0o755)
	h.mkdir("/home/alice/releases", alice, 0o755)
	h.mkdir("/home/alice/releases/7", alice, 0o755)
	h.write("/home/alice/releases/7/a.ini", "[uwsgi]\n", alice, 0o644)
	h.link("releases/7", "/home/alice/current")
	h.must(os.Lchown(h.path("/home/alice/current"), alice, alice))
	h.link("/home/alice/current/a.ini", "/etc/vassals/alices.ini")
	h.write("/home/alice/app/rootfile.ini", "[uwsgi]\n", 0, 0o644)
	h.link("/home/alice/app/rootfile.ini", "/etc/vassals/moved.ini")
	h.link("/home/mallory.ini", "/home/alice/app/x.ini")
	h.must(os.Lchown(h.path("/home/alice/app/x.ini"), alice, alice))
	h.write("/home/mallory.ini", "[uwsgi]\n", mallory, 0o644)
	h.link("/home/alice/app/x.ini", "/etc/vassals/foreign.ini")
	h.link("/nowhere.ini", "/etc/vassals/dangling.ini")
	h.link("loop.ini", "/etc/vassals/loop.ini")
	h.link("/apps", "/etc/vassals/dir.ini")
	m := h.monitor("/etc/vassals")
	h.want(m, `absolute /etc/vassals/absolute.ini operator
		alices /etc/vassals/alices.ini uid 61001
		dangling /etc/vassals/dangling.ini untrusted-file
		dir /etc/vassals/dir.ini not-a-file
		foreign /etc/vassals/foreign.ini untrusted-file
		good /etc/vassals/good.ini operator
		loop /etc/vassals/loop.ini untrusted-file
		moved /etc/vassals/moved.ini untrusted-file`)

	// In a directory where a tenant can write no link is followed (KERNEL 27).
	h.mkdir("/srv/alice", alice, 0o755)
	h.link("/apps/good.ini", "/srv/alice/op.ini")
	h.link("/home/alice/releases/7/a.ini", "/srv/alice/own.ini")
	h.write("/srv/alice/plain.ini", "[uwsgi]\n", alice, 0o644)
	h.write("/srv/alice/moved.ini", "[uwsgi]\n", 0, 0o644)
	h.write("/srv/alice/other.ini", "[uwsgi]\n", mallory, 0o644)
	h.want(h.monitor("/srv/alice"), `moved /srv/alice/moved.ini untrusted-file
		op /srv/alice/op.ini untrusted-file
		other /srv/alice/other.ini untrusted-file
		own /srv/alice/own.ini untrusted-file
		plain /srv/alice/plain.ini uid 61001`)
}

// Directories in which others can put files.
func TestSharedDirectories(t *testing.T) {
	h := newHost(t)
	h.mkdir("/sticky", 0, 0o777|os.ModeSticky)
	h.write("/sticky/moved.ini", "[uwsgi]\n", 0, 0o644)
	h.write("/sticky/alice.ini", "[uwsgi]\n", alice, 0o644)
	h.link("/sticky/alice.ini", "/sticky/link.ini")
	h.want(h.monitor("/sticky"), `alice /sticky/alice.ini uid 61001
		link /sticky/link.ini untrusted-file
		moved /sticky/moved.ini untrusted-file`)
	h.mkdir("/home/alice/m", mallory, 0o755)
	h.own("/home/alice", alice, alice, 0o755)
	h.write("/home/alice/m/a.ini", "[uwsgi]\n", alice, 0o644)
	h.write("/home/alice/m/m.ini", "[uwsgi]\n", mallory, 0o644)
	h.want(h.monitor("glob:///home/alice/*/*.ini"), `m_a /home/alice/m/a.ini untrusted-file
		m_m /home/alice/m/m.ini untrusted-file`)
	h.own("/home/alice/m", alice, alice, 0o755)
	h.want(h.monitor("glob:///home/alice/*/*.ini"), `m_a /home/alice/m/a.ini uid 61001
		m_m /home/alice/m/m.ini untrusted-file`)
}

// Real /proc and /etc/shadow, with the real root.
func TestLinksToTheKernel(t *testing.T) {
	h := newHost(t)
	h.link("/proc/self/environ", "/etc/vassals/environ.ini")
	h.link("/proc/self/root/etc/passwd", "/etc/vassals/magic.ini")
	h.link("/sys/kernel/notes", "/etc/vassals/sys.ini")
	h.link("/dev/null", "/etc/vassals/null.ini")
	h.write("/etc/vassals/fine.ini", "[uwsgi]\n", 0, 0o644)
	h.link(h.path("/etc/vassals/fine.ini"), "/etc/vassals/link.ini")
	m, err := New(Options{Sources: []string{h.path("/etc/vassals")}, Log: quiet()})
	h.must(err)
	got := map[string]string{}
	for _, f := range h.scan(m).Files {
		if got[string(f.Name)] = ""; f.Problem != nil {
			got[string(f.Name)] = f.Problem.Code
		}
	}
	for n, want := range map[string]string{"environ": "untrusted-file", "magic": "untrusted-file", "sys": "not-a-file", "null": "not-a-file", "fine": "", "link": ""} {
		if got[n] != want {
			t.Errorf("%s: got %q, want %q", n, got[n], want)
		}
	}
}

// A05: what is no file harms nobody and blocks nothing.
func TestNotFiles(t *testing.T) {
	testenv.Leaks(t)
	h := newHost(t)
	h.must(mkfifo(h.path("/etc/vassals/fifo.ini")))
	h.must(mkdev(h.path("/etc/vassals/dev.ini")))
	h.must(os.Mkdir(h.path("/etc/vassals/dir.ini"), 0o755))
	ln, err := listenUnix(h.path("/etc/vassals/sock.ini"))
	h.must(err)
	defer ln.Close()
	h.write("/etc/vassals/good.ini", "[uwsgi]\n", 0, 0o644)
	h.want(h.monitor("/etc/vassals"), `dev /etc/vassals/dev.ini not-a-file
		dir /etc/vassals/dir.ini not-a-file
		fifo /etc/vassals/fifo.ini not-a-file
		good /etc/vassals/good.ini operator
		sock /etc/vassals/sock.ini not-a-file`)
}

// A14, A15: names.
func TestNames(t *testing.T) {
	h := newHost(t)
	for _, n := range []string{".hidden.ini", "..ini", ".shop.ini.tmp", "shop.ini~", ".shop.ini.swp", "shop.ini.rpmsave", "README",
		"-rf.ini", "my shop.ini", "new\nline.ini", "ünï.ini", "shop.ini", "cgroup.procs.ini", "memory.max.ini", "old.yml", "old.xml",
		strings.Repeat("x", 201) + ".ini"} {
		h.write("/etc/vassals/"+n, "[uwsgi]\n", 0, 0o644)
	}
	m := h.monitor("/etc/vassals")
	x := strings.Repeat("x", 201)
	h.want(m, `-rf /etc/vassals/-rf.ini bad-name no vassal
		cgroup.procs /etc/vassals/cgroup.procs.ini operator
		memory.max /etc/vassals/memory.max.ini operator
		my shop /etc/vassals/my shop.ini bad-name no vassal
		new?line /etc/vassals/new?line.ini bad-name no vassal
		shop /etc/vassals/shop.ini operator
		`+x+` /etc/vassals/`+x+`.ini bad-name no vassal
		ünï /etc/vassals/ünï.ini bad-name no vassal
		warning: not-supported /etc/vassals/old.xml
		warning: not-supported /etc/vassals/old.yml`)
	if f := h.scan(m).Files[3]; f.Problem.Hint != "call it my_shop.ini" {
		t.Errorf("hint: %q", f.Problem.Hint)
	}
}

// Who has a name keeps it, though another file sorts before.
func TestClashes(t *testing.T) {
	h := newHost(t)
	h.mkdir("/b", 0, 0o755)
	h.mkdir("/a", 0, 0o755)
	h.write("/b/shop.ini", "[uwsgi]\n", alice, 0o644)
	m := h.monitor("/a", "/b")
	h.want(m, "shop /b/shop.ini uid 61001")
	h.write("/a/shop.ini", "[uwsgi]\n", mallory, 0o644)
	h.write("/a/SHOP.ini", "[uwsgi]\n", mallory, 0o644)
	h.want(m, `SHOP /a/SHOP.ini same-name no vassal
		shop /a/shop.ini same-name no vassal
		shop /b/shop.ini uid 61001`)
	h.own("/a/shop.ini", 0, 0, 0o644) // not even the operator's
	h.want(m, `SHOP /a/SHOP.ini same-name no vassal
		shop /a/shop.ini same-name no vassal
		shop /b/shop.ini uid 61001`)
	h.own("/a/shop.ini", mallory, mallory, 0o644)
	h.must(os.Remove(h.path("/b/shop.ini")))
	h.want(m, `SHOP /a/SHOP.ini uid 61002
		shop /a/shop.ini same-name no vassal`)
	// At first sight the operator's file has it.
	h.write("/b/shop.ini", "[uwsgi]\n", 0, 0o644)
	h.want(h.monitor("/a", "/b"), `SHOP /a/SHOP.ini same-name no vassal
		shop /a/shop.ini same-name no vassal
		shop /b/shop.ini operator`)
}

// Who had a name when the Emperor ended has it afterwards, whatever was put before
// it meanwhile, also while its file is not at rest or cannot be looked at.
func TestClaims(t *testing.T) {
	h := newHost(t)
	for _, dir := range []string{"/a", "/b"} {
		h.mkdir(dir, 0, 0o755)
	}
	h.write("/b/shop.ini", "[uwsgi]\n", alice, 0o644)
	h.write("/a/Shop.ini", "[uwsgi]\n", mallory, 0o644)
	anew := func() *Monitor {
		m := h.monitor("/a", "/b")
		m.claims = claimed(map[vassal.Name]string{"shop": "/b/shop.ini", "gone": "/b/gone.ini"})
		return m
	}
	h.want(h.monitor("/a", "/b"), `Shop /a/Shop.ini uid 61002
		shop /b/shop.ini same-name no vassal`)
	h.want(anew(), `Shop /a/Shop.ini same-name no vassal
		shop /b/shop.ini uid 61001`)
	h.own("/b", 0, 0, 0o777) // it cannot be used
	h.want(anew(), `Shop /a/Shop.ini same-name no vassal
		error: directory-unusable /b`)
	h.must(os.Rename(h.path("/b"), h.path("/c")))
	m := anew()
	h.want(m, `Shop /a/Shop.ini same-name no vassal
		error: directory-unusable /b`)
	h.mkdir("/b", 0, 0o755) // and the file is gone
	h.want(m, "Shop /a/Shop.ini uid 61002")
}

func TestGlob(t *testing.T) {
	testenv.Leaks(t)
	h := newHost(t)
	for _, u := range []string{"alice", "bob"} {
		h.mkdir("/srv/"+u, alice, 0o755)
		h.write("/srv/"+u+"/uwsgi.ini", "[uwsgi]\n", alice, 0o644)
		h.mkdir("/app/"+u+"/uwsgi.d", alice, 0o755)
		h.own("/app/"+u, alice, alice, 0o755)
		h.write("/app/"+u+"/uwsgi.d/web.ini", "[uwsgi]\n", alice, 0o644)
	}
	h.mkdir("/srv/open", alice, 0o777)
	h.write("/srv/open/uwsgi.ini", "[uwsgi]\n", alice, 0o644)
	h.link("/srv/alice", "/srv/linked")
	m := h.monitor("/srv/*/uwsgi.ini", "glob:///app/*/uwsgi.d/*.ini")
	h.want(m, `alice /srv/alice/uwsgi.ini uid 61001
		alice_web /app/alice/uwsgi.d/web.ini uid 61001
		bob /srv/bob/uwsgi.ini uid 61001
		bob_web /app/bob/uwsgi.d/web.ini uid 61001
		open /srv/open/uwsgi.ini untrusted-file`)
	h.must(os.RemoveAll(h.path("/srv/bob")))
	h.must(os.RemoveAll(h.path("/app")))
	h.want(m, `alice /srv/alice/uwsgi.ini uid 61001
		alice_web /app/alice/uwsgi.d/web.ini uid 61001
		bob_web /app/bob/uwsgi.d/web.ini uid 61001
		open /srv/open/uwsgi.ini untrusted-file
		error: directory-unusable /app`)
}

// What a user does to a directory of a pattern leaves the others' files known:
// bob's file goes although alice's directory cannot be used.
func TestGlobOfHostileUser(t *testing.T) {
	for name, spoil := range map[string]func(h host){
		"too many names": func(h host) {
			for i := range MaxUserEntries {
				h.write(fmt.Sprintf("/app/alice/d/%d", i), "", alice, 0o644)
			}
		},
		"a link to itself": func(h host) {
			h.must(os.RemoveAll(h.path("/app/alice/d")))
			h.link("d", "/app/alice/d")
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			for _, u := range []string{"alice", "bob"} {
				h.mkdir("/app/"+u, alice, 0o755)
				h.mkdir("/app/"+u+"/d", alice, 0o755)
				h.write("/app/"+u+"/d/web.ini", "[uwsgi]\n", alice, 0o644)
			}
			m := h.monitor("/app/*/d/*.ini")
			h.want(m, "alice_web /app/alice/d/web.ini uid 61001\n\t\tbob_web /app/bob/d/web.ini uid 61001")
			spoil(h)
			h.must(os.Remove(h.path("/app/bob/d/web.ini")))
			h.want(m, "alice_web /app/alice/d/web.ini uid 61001\n\t\terror: directory-unusable /app/alice/d")
			if h.scan(m).Partial {
				t.Error("what everybody else has counts as not known")
			}
		})
	}
}

// The Emperor keeps the text of every file: a user's files are bounded
// altogether, and the operator's are not counted with them.
func TestFilesOfOneUser(t *testing.T) {
	h := newHost(t)
	text := "[uwsgi]\n" + strings.Repeat("; comment\n", MaxFile/10)
	var want strings.Builder
	for i := range MaxUserText/MaxFile + 2 {
		h.write(fmt.Sprintf("/etc/vassals/a%02d.ini", i), text[:MaxFile], alice, 0o644)
		what := "uid 61001"
		if i >= MaxUserText/MaxFile {
			what = "too-big"
		}
		fmt.Fprintf(&want, "a%02d /etc/vassals/a%02d.ini %s\n\t\t", i, i, what)
	}
	h.write("/etc/vassals/z.ini", text[:MaxFile], 0, 0o644)
	want.WriteString("z /etc/vassals/z.ini operator")
	h.want(h.monitor("/etc/vassals"), want.String())
}

// A16: a directory that is given away at run time.
func TestDirectoryTurnsBad(t *testing.T) {
	testenv.Leaks(t)
	h := newHost(t)
	h.write("/etc/vassals/shop.ini", "[uwsgi]\n", 0, 0o644)
	m := h.monitor("/etc/vassals")
	good := "shop /etc/vassals/shop.ini operator"
	h.want(m, good)
	bad := good + "\nerror: directory-unusable /etc/vassals"
	for name, spoil := range map[string]func(){
		"writable": func() { h.own("/etc/vassals", 0, 0, 0o777) },
		"group":    func() { h.own("/etc/vassals", 0, mallory, 0o775) },
		"acl":      func() { h.allow("/etc/vassals", mallory) },
		"owner":    func() { h.own("/etc/vassals", mallory, mallory, 0o755) },
		"above":    func() { h.own("/etc", mallory, mallory, 0o755) },
		"gone":     func() { h.must(os.Rename(h.path("/etc/vassals"), h.path("/etc/away"))) },
	} {
		spoil()
		if name != "gone" {
			h.write("/etc/vassals/planted.ini", "[uwsgi]\n", mallory, 0o644)
		}
		s := h.scan(m)
		if !s.Partial || strings.TrimSpace(show(s)) != bad {
			t.Errorf("%s: got %s", name, show(s))
		}
		if name == "gone" {
			h.must(os.Rename(h.path("/etc/away"), h.path("/etc/vassals")))
		}
		h.own("/etc", 0, 0, 0o755)
		h.own("/etc/vassals", 0, 0, 0o755)
		_ = unix.Removexattr(h.path("/etc/vassals"), "system.posix_acl_access") // mostly there is none
		os.Remove(h.path("/etc/vassals/planted.ini"))
		h.want(m, good)
	}
}

// TestHidden: a file that everybody could read is hidden by any directory on the way,
// that of a link's target too, and no more when the directory is opened.
func TestHidden(t *testing.T) {
	h := newHost(t)
	h.mkdir("/srv/kept", 0, 0o755)
	h.write("/etc/vassals/shop.ini", "[uwsgi]\n", 0, 0o644)
	h.write("/srv/kept/led.ini", "[uwsgi]\n", 0, 0o644)
	h.must(os.Symlink("/srv/kept/led.ini", h.path("/etc/vassals/led.ini")))
	m := h.monitor("/etc/vassals")
	for _, tt := range []struct {
		dir       string
		mode      os.FileMode
		shop, led bool
	}{
		{"/etc/vassals", 0o755, false, false},
		{"/etc/vassals", 0o750, true, true},
		{"/etc/vassals", 0o751, false, false},
		{"/etc", 0o700, true, true},
		{"/etc", 0o755, false, false},
		{"/srv/kept", 0o700, false, true},
		{"/srv/kept", 0o755, false, false},
	} {
		h.own(tt.dir, 0, 0, tt.mode)
		got := map[vassal.Name]bool{}
		for _, f := range h.scan(m).Files {
			got[f.Name] = f.Hidden
		}
		if want := map[vassal.Name]bool{"shop": tt.shop, "led": tt.led}; !maps.Equal(got, want) {
			t.Errorf("%s has mode %04o: hidden %v, want %v", tt.dir, tt.mode, got, want)
		}
	}
}

// A04: whatever is swapped in, text and trust are of one file.
func TestSwap(t *testing.T) {
	h := newHost(t)
	h.write("/etc/0", "root's", 0, 0o644)
	h.write("/etc/1", "alice's", alice, 0o644)
	m := h.monitor("/etc/vassals")
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			tmp := h.path("/etc/vassals/.tmp")
			text, uid := "root's", 0
			if i%2 == 1 {
				text, uid = "alice's", alice
			}
			if os.WriteFile(tmp, []byte(text), 0o600) != nil || os.Chown(tmp, uid, uid) != nil || os.Rename(tmp, h.path("/etc/vassals/x.ini")) != nil {
				return
			}
		}
	}()
	seen := map[string]int{}
	for range 3000 {
		for _, f := range h.scan(m).Files {
			if f.Problem == nil {
				seen[fmt.Sprint(string(f.Text), f.Trust.UID)]++
			}
		}
	}
	close(done)
	<-ended
	for k := range seen {
		if k != "root's0" && k != fmt.Sprint("alice's", alice) {
			t.Errorf("seen %q", k)
		}
	}
	if len(seen) != 2 {
		t.Errorf("the swap was not seen: %v", seen)
	}
}

// watched runs a Monitor in fake time. next returns what it sent until now.
func watched(t *testing.T, do func(h host, m *Monitor, sent func() []emperor.Snapshot)) {
	t.Helper()
	watchedEvery(t, 0, do)
}

// watchedEvery is watched with a period of its own.
func watchedEvery(t *testing.T, period time.Duration, do func(h host, m *Monitor, sent func() []emperor.Snapshot)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		m, err := New(Options{Sources: []string{"/etc/vassals"}, Touch: true, Period: period, Root: h.dir, Log: quiet()})
		h.must(err)
		m.deaf = true
		ctx, stop := context.WithCancel(t.Context())
		out := make(chan emperor.Snapshot)
		var (
			mu  sync.Mutex
			all []emperor.Snapshot
		)
		go func() {
			for s := range out {
				mu.Lock()
				all = append(all, s)
				mu.Unlock()
			}
		}()
		end := make(chan error)
		go func() { end <- m.Watch(ctx, out) }()
		synctest.Wait()
		n := 0
		do(h, m, func() []emperor.Snapshot {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			s := all[n:]
			n = len(all)
			return s
		})
		stop()
		<-end
		close(out)
	})
}

func lastText(ss []emperor.Snapshot) string {
	if len(ss) == 0 {
		return "nothing sent"
	}
	var out []string
	for _, f := range ss[len(ss)-1].Files {
		out = append(out, string(f.Name)+"="+string(f.Text))
	}
	return strings.Join(out, " ")
}

func TestRest(t *testing.T) {
	watched(t, func(h host, m *Monitor, sent func() []emperor.Snapshot) {
		want := func(d time.Duration, want string) {
			h.Helper()
			time.Sleep(d)
			if got := lastText(sent()); got != want {
				h.Errorf("got %q, want %q", got, want)
			}
		}
		want(0, "")
		h.write("/etc/vassals/a.ini", "1", 0, 0o644)
		want(Period+Settle, "a=1")
		want(time.Minute, "nothing sent")

		// Half-written: somebody has it open.
		f, err := os.OpenFile(h.path("/etc/vassals/a.ini"), os.O_WRONLY|os.O_TRUNC, 0)
		h.must(err)
		_, err = f.WriteString("half")
		h.must(err)
		want(MaxUnrest+Period, "nothing sent")
		_, err = f.WriteString(" whole")
		h.must(err)
		h.must(f.Close())
		want(Period+Settle, "a=half whole")

		// Truncated just now.
		h.must(os.Truncate(h.path("/etc/vassals/a.ini"), 0))
		h.must(m.Rescan(h.Context()))
		want(0, "a=half whole")
		want(Settle+time.Second, "nothing sent")
		h.write("/etc/vassals/a.ini", "2", 0, 0o644)
		want(Period, "a=2")
		h.must(os.Truncate(h.path("/etc/vassals/a.ini"), 0))
		want(Period+MaxUnrest+Settle, "a=")

		// Gone and back within the time is one change, gone for longer is gone.
		h.must(os.Remove(h.path("/etc/vassals/a.ini")))
		want(Period+Settle, "")
		h.write("/etc/vassals/a.ini", "3", 0, 0o644)
		want(Period+Settle, "a=3")

		// touch, backwards too; equal bytes.
		before := time.Unix(1e9, 5)
		h.must(os.Chtimes(h.path("/etc/vassals/a.ini"), before, before))
		want(Period+Settle, "a=3")
		want(time.Minute, "nothing sent")

		// Kept open for writing for good: its bytes count in the end.
		f, err = os.OpenFile(h.path("/etc/vassals/a.ini"), os.O_WRONLY|os.O_TRUNC, 0)
		h.must(err)
		defer f.Close()
		_, err = f.WriteString("4")
		h.must(err)
		want(MaxWriting+Period+Settle, "a=4")
	})
}

// TestModeIsSent: who may read a file is told when that alone changes.
func TestModeIsSent(t *testing.T) {
	watched(t, func(h host, _ *Monitor, sent func() []emperor.Snapshot) {
		h.write("/etc/vassals/a.ini", "1", 0, 0o644)
		time.Sleep(time.Minute)
		sent()
		for _, c := range []struct {
			path   string
			mode   os.FileMode
			want   os.FileMode
			hidden bool
		}{
			{"/etc/vassals/a.ini", 0o600, 0o600, false},
			{"/etc/vassals/a.ini", 0o644, 0o644, false},
			{"/etc/vassals", 0o700, 0o644, true},
			{"/etc/vassals", 0o755, 0o644, false},
			{"/etc", 0o700, 0o644, true},
		} {
			h.must(os.Chmod(h.path(c.path), c.mode))
			time.Sleep(Period + Settle)
			all := sent()
			if len(all) == 0 {
				h.Errorf("%s %04o: nothing is sent", c.path, c.mode)
				continue
			}
			if f := all[len(all)-1].Files[0]; f.Mode != c.want || f.Hidden != c.hidden {
				h.Errorf("%s %04o: mode %04o, hidden %v", c.path, c.mode, f.Mode, f.Hidden)
			}
			time.Sleep(time.Minute)
			if n := len(sent()); n > 0 {
				h.Errorf("%s %04o: sent %d times more", c.path, c.mode, n)
			}
		}
	})
}

// What lies there at the first scan counts at once, however young: an earlier
// Emperor may have run it, and it must not look gone. What is half-written
// then makes the scan a partial one.
func TestFirstScan(t *testing.T) {
	h := newHost(t)
	h.write("/etc/vassals/young.ini", "1", 0, 0o644)
	m := h.monitor("/etc/vassals")
	s, _ := m.scan(time.Now(), false)
	if got := lastText([]emperor.Snapshot{s}); got != "young=1" || s.Partial {
		t.Errorf("got %q, partial %v", got, s.Partial)
	}
	h.write("/etc/vassals/empty.ini", "", 0, 0o644)
	m = h.monitor("/etc/vassals")
	s, _ = m.scan(time.Now(), false)
	if got := lastText([]emperor.Snapshot{s}); got != "young=1" || !s.Partial || !s.MayHold("/etc/vassals/empty.ini") || s.MayHold("/etc/vassals/gone.ini") {
		t.Errorf("got %q, partial %v, unseen %q", got, s.Partial, s.Unseen)
	}
}

// What the operator says is how soon a change is seen, and no sooner.
func TestPeriod(t *testing.T) {
	watchedEvery(t, time.Minute, func(h host, _ *Monitor, sent func() []emperor.Snapshot) {
		sent()
		h.write("/etc/vassals/a.ini", "1", 0, 0o644)
		time.Sleep(time.Minute / 2)
		if got := lastText(sent()); got != "nothing sent" {
			h.Errorf("after half of it: %q", got)
		}
		time.Sleep(time.Minute)
		if got := lastText(sent()); got != "a=1" {
			h.Errorf("after it: %q", got)
		}
	})
}

func TestRescan(t *testing.T) {
	watched(t, func(h host, m *Monitor, sent func() []emperor.Snapshot) {
		sent()
		h.write("/etc/vassals/a.ini", "1", 0, 0o644)
		h.must(m.Rescan(h.Context()))
		if got := lastText(sent()); got != "a=1" {
			h.Errorf("got %q", got)
		}
		h.must(os.Remove(h.path("/etc/vassals/a.ini")))
		h.must(m.Rescan(h.Context()))
		if got := lastText(sent()); got != "a=1" {
			h.Errorf("a file that may come back is gone at once: %q", got)
		}
		time.Sleep(Settle + minGap)
		if got := lastText(sent()); got != "" {
			h.Errorf("got %q", got)
		}
		// One that was renamed has gone for good: nobody sees it twice, nor not at all.
		h.write("/etc/vassals/a.ini", "1", 0, 0o644)
		h.must(m.Rescan(h.Context()))
		h.write("/etc/vassals/a.ini", "2", 0, 0o644) // and edited just before
		h.must(os.Rename(h.path("/etc/vassals/a.ini"), h.path("/etc/vassals/b.ini")))
		h.must(m.Rescan(h.Context()))
		h.must(os.Rename(h.path("/etc/vassals/b.ini"), h.path("/etc/vassals/c.ini")))
		time.Sleep(Period + Settle)
		var texts []string
		for _, s := range sent() {
			texts = append(texts, lastText([]emperor.Snapshot{s}))
		}
		if got := strings.Join(slices.Compact(texts), ", "); got != "a=1, b=2, c=2" {
			h.Errorf("renamed: %q", got)
		}
	})
}

// A17: a storm of touches, and ten thousand files at once.
func TestStorm(t *testing.T) {
	watched(t, func(h host, m *Monitor, sent func() []emperor.Snapshot) {
		p := h.path("/etc/vassals/a.ini")
		h.write("/etc/vassals/a.ini", "1", 0, 0o644)
		time.Sleep(Period + Settle)
		sent()
		for i := range 1000 { // ten seconds of fake time
			h.must(os.Chtimes(p, time.Unix(int64(i), 0), time.Unix(int64(i), 0)))
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		ss := sent()
		if n := len(ss); n < 1 || n > 10 {
			h.Errorf("%d snapshots of a storm, want a few", n)
		}
	})
	h := newHost(t)
	for i := range 2000 {
		h.write(fmt.Sprintf("/etc/vassals/v%d.ini", i), "[uwsgi]\n", 0, 0o644)
	}
	if n := len(h.scan(h.monitor("/etc/vassals")).Files); n != 2000 {
		t.Errorf("%d files, want 2000", n)
	}
}

func TestLinkStamp(t *testing.T) {
	h := newHost(t)
	h.mkdir("/t", 0, 0o755)
	h.write("/t/1.ini", "same", 0, 0o644)
	h.write("/t/2.ini", "same", 0, 0o644)
	for _, n := range []string{"/t/1.ini", "/t/2.ini"} {
		h.must(os.Chtimes(h.path(n), time.Unix(1e9, 0), time.Unix(1e9, 0)))
	}
	h.link("/t/1.ini", "/etc/vassals/a.ini")
	m := h.monitor("/etc/vassals")
	stamp := func() string { return h.scan(m).Files[0].Stamp }
	seen := []string{stamp()}
	if again := stamp(); again != seen[0] {
		t.Error("the stamp changes by itself")
	}
	step := func(what string, do func()) {
		do()
		s := stamp()
		if slices.Contains(seen, s) {
			t.Errorf("%s: not noticed", what)
		}
		seen = append(seen, s)
	}
	step("touch -h", func() { h.must(lutimes(h.path("/etc/vassals/a.ini"), 1e9)) })
	step("ln -sfn", func() {
		h.must(os.Remove(h.path("/etc/vassals/a.ini")))
		h.link("/t/2.ini", "/etc/vassals/a.ini")
		h.must(lutimes(h.path("/etc/vassals/a.ini"), 1e9))
	})
	step("touch target", func() { h.must(os.Chtimes(h.path("/t/2.ini"), time.Unix(5, 0), time.Unix(5, 0))) })
	step("write target", func() { h.write("/t/2.ini", "other", 0, 0o644) })
	m.touch = false
	a := stamp()
	h.must(os.Chtimes(h.path("/t/2.ini"), time.Unix(7, 0), time.Unix(7, 0)))
	if stamp() != a {
		t.Error("touch = ignore: a touch is noticed")
	}
}

// inotify makes it quick; nothing depends on it.
func TestHints(t *testing.T) {
	testenv.Leaks(t)
	h := newHost(t)
	m := h.monitor("/etc/vassals")
	m.deaf, m.period = false, time.Hour // without hints this test would not end
	ctx, stop := context.WithCancel(t.Context())
	out := make(chan emperor.Snapshot, 100)
	end := make(chan error)
	go func() { end <- m.Watch(ctx, out) }()
	<-out
	began := time.Now()
	h.write("/etc/vassals/a.ini", "1", 0, 0o644)
	s := <-out
	for s.Partial { // it was seen, and is not at rest yet
		s = <-out
	}
	if got := lastText([]emperor.Snapshot{s}); got != "a=1" {
		t.Errorf("got %q", got)
	}
	if d := time.Since(began); d < Settle {
		t.Errorf("seen after %v, want it at rest for %v", d, Settle)
	}
	stop()
	<-end
}

func TestSources(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"/etc/vassals", "{/etc/vassals false  []}"},
		{"dir:///etc/vassals/", "{/etc/vassals false  []}"},
		{"/not/there", "{/not/there false  []}"},
		{"glob:///srv/*/u.ini", "{/srv/*/u.ini true /srv [* u.ini]}"},
		{"/srv/[ab]/x/*.ini", "{/srv/[ab]/x/*.ini true /srv [[ab] x *.ini]}"},
		{"glob:///etc/one.ini", "{/etc/one.ini true /etc [one.ini]}"},
		{"/srv/[a/x.ini", `vassals "/srv/[a/x.ini": is not a pattern`},
		{"amqp://x", `vassals "amqp://x": amqp:// is not supported; want dir://PATH, glob://PATTERN or a path`},
		{"dir://", `vassals "dir://": names no path`},
	} {
		s, err := parseSource(tt.in, "/")
		got := fmt.Sprint(s)
		if err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.in, got, tt.want)
		}
	}
}

func TestGlobName(t *testing.T) {
	for _, tt := range []struct{ parts, found, want string }{
		{"* uwsgi.ini", "alice uwsgi.ini", "alice"},
		{"* uwsgi.d *.ini", "alice uwsgi.d web.ini", "alice_web"},
		{"*.ini", "shop.ini", "shop"},
		{"one.ini", "one.ini", "one"},
		{"site-* u.ini", "site-a u.ini", "a"},
		{"*-[0-9] u.ini", "shop-7 u.ini", "shop_7"},
		{"??* x w?b.ini", "abc x web.ini", "abc_web"},
	} {
		if got := globName(strings.Fields(tt.parts), strings.Fields(tt.found)); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.parts, got, tt.want)
		}
	}
}

// FuzzName: whatever a file or a directory is called, the name is a good one
// or there is a Problem, which can be shown.
func FuzzName(f *testing.F) {
	f.Add("*", "alice")
	f.Add("[a-c]x?", "bxy")
	f.Add("a\\*b*", "a*bc")
	f.Add("[]a]", "a")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if ok, err := filepath.Match(pattern, name); err != nil || !ok {
			return
		}
		raw := globName([]string{pattern, "x.ini"}, []string{name, "x.ini"})
		n, p := nameOf(raw, "/"+name+"/x.ini")
		if p == nil && (strings.ContainsAny(string(n), "/\x00\n ") || strings.HasPrefix(string(n), ".") || n == "") {
			t.Errorf("%q is a name", n)
		}
		if p != nil && strings.ContainsAny(p.Error()+p.Hint+string(n), "\x00\n\x1b\r") {
			t.Errorf("%q cannot be shown", p.Error())
		}
	})
}
