package inifile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
	"golang.org/x/tools/txtar"

	"liege/vassal"
)

func operatorSource(text string) Source {
	return Source{Path: "/etc/vassals/shop.ini", Text: []byte(text), Trust: vassal.Trust{Operator: true}}
}

// TestReadLimits gives Read what grows: each ends soon, in little memory, with
// one Error that names the line where there is one.
func TestReadLimits(t *testing.T) {
	chain := func(n int) string {
		var b strings.Builder
		b.WriteString("[uwsgi]\n")
		for i := range n {
			fmt.Fprintf(&b, "p%d = %%(p%d)x\n", i, i+1)
		}
		return b.String()
	}
	fan := map[string]string{}
	for i := range 20 {
		fan[fmt.Sprintf("/etc/vassals/%d.ini", i)] = "[uwsgi]\n" + strings.Repeat(fmt.Sprintf("include = %d.ini\n", i+1), 10)
	}
	for name, c := range map[string]struct {
		text  string
		files map[string]string
		line  int
	}{
		"size":          {text: "[uwsgi]\n" + strings.Repeat("#", MaxFile)},
		"lines":         {text: "[uwsgi]\n" + strings.Repeat("a\n", MaxSettings+1), line: MaxSettings + 2},
		"for-times":     {text: "[uwsgi]\nfor-times = 65000\n" + strings.Repeat("a = 1\n", 100), line: 4},
		"for big lines": {text: "[uwsgi]\nfor-times = 60000\na = " + strings.Repeat("x", 1000) + "\n", line: 3},
		"concatenation": {text: "[uwsgi]\na = " + strings.Repeat("x", 1000) + "\nb = %(" + strings.Repeat("a ", 400000) + ")\n", line: 3},
		"counting":      {text: "[uwsgi]\na = " + strings.Repeat("x", 100000) + "\nb = %(" + strings.Repeat("a ++ ", 150000) + ")\n", line: 3},
		"chain":         {text: chain(20000), line: 1003},
		"fan of files":  {text: "[uwsgi]\ninclude = 0.ini\n", files: fan},
		"many bytes":    {text: "[uwsgi]\n" + strings.Repeat("a = @(big)\n", 40), files: map[string]string{"/etc/vassals/big": strings.Repeat("x", MaxFile)}},
		"readline":      {text: "[uwsgi]\nfor-readline = big\na = 1\nendfor\n", files: map[string]string{"/etc/vassals/big": strings.Repeat("\n", MaxFile)}, line: 3},
		"declared":      {text: "[uwsgi]\ndeclare-option = a=" + strings.Repeat("b=$1;", 60000) + "\na = 1\na = 2\n", line: 4},
		"declared tree": {text: "[uwsgi]\ndeclare-option = a=a=$1;a=$1;a=$1\na = 1\n", line: 3},
		"set in set":    {text: "[uwsgi]\nset = " + strings.Repeat("set=", 250000) + "\n", line: 2},
	} {
		t.Run(name, func(t *testing.T) {
			h := &mapHost{files: fstest.MapFS{}}
			for name, text := range c.files {
				h.files[name[1:]] = &fstest.MapFile{Data: []byte(text)}
			}
			start := time.Now()
			f, ps := Read(operatorSource(c.text), h, ReadOptions{})
			p := ps.First()
			if p == nil || p.Code != vassal.CodeTooBig {
				t.Fatalf("got %v, want an error %s", p, vassal.CodeTooBig)
			}
			if c.line > 0 && p.Line != c.line {
				t.Errorf("got line %d, want %d: %s", p.Line, c.line, p.Error())
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("took %s", took)
			}
			size := 0
			for _, s := range f.Settings {
				size += len(s.Value)
			}
			if size > 3*MaxExpansion || len(f.Settings) > MaxSettings+1 || len(ps) > MaxProblems+1 {
				t.Errorf("got %d settings of %d bytes and %d problems", len(f.Settings), size, len(ps))
			}
		})
	}
}

// TestReadProblemsAtOnce checks that one mistake does not hide the others, and
// that ten thousand do not fill the screen.
func TestReadProblemsAtOnce(t *testing.T) {
	var b strings.Builder
	b.WriteString("[uwsgi]\n")
	for i := range 10000 {
		fmt.Fprintf(&b, "a = @(%d)\n", i)
	}
	_, ps := Read(operatorSource(b.String()), &mapHost{files: fstest.MapFS{}}, ReadOptions{})
	if len(ps) != MaxProblems+1 {
		t.Fatalf("got %d problems, want %d", len(ps), MaxProblems+1)
	}
	if last := ps[len(ps)-1].Message; !strings.Contains(last, "more problems") {
		t.Errorf("the last problem is %q", last)
	}
}

// TestReadDigest checks that the digest is of all that was read and answered,
// and of nothing else.
func TestReadDigest(t *testing.T) {
	const archive = `
-- /etc/vassals/shop.ini --
[uwsgi]
include = base.ini
x = @(secret) $(HOME)
if-exists = /flag
y = 1
endif =
for-glob = *.d
z = %(_)
endfor =
h = %h %t %T
-- /etc/vassals/base.ini --
[uwsgi]
-- /etc/vassals/secret --
s
-- env --
HOME=/root
`
	digest := func(change func(*Source, *mapHost, *ReadOptions)) vassal.Digest {
		a := txtar.Parse([]byte(archive))
		h := archiveHost(a)
		src, opt := archiveSource(a)
		change(&src, h, &opt)
		f, ps := Read(src, h, opt)
		if ps.Failed() {
			t.Fatal(ps)
		}
		return f.Digest
	}
	same := digest(func(*Source, *mapHost, *ReadOptions) {})
	for name, c := range map[string]struct {
		change func(*Source, *mapHost, *ReadOptions)
		differ bool
	}{
		"nothing":   {func(*Source, *mapHost, *ReadOptions) {}, false},
		"own bytes": {func(s *Source, _ *mapHost, _ *ReadOptions) { s.Text = append(s.Text, '#') }, true},
		"owner":     {func(s *Source, _ *mapHost, _ *ReadOptions) { s.Inode = 43 }, false},
		"included": {func(_ *Source, h *mapHost, _ *ReadOptions) {
			h.files["etc/vassals/base.ini"].Data = []byte("[uwsgi]\n\n")
		}, true},
		"quoted file":          {func(_ *Source, h *mapHost, _ *ReadOptions) { h.files["etc/vassals/secret"].Data = []byte("t") }, true},
		"environment":          {func(_ *Source, h *mapHost, _ *ReadOptions) { h.env["HOME"] = "/x" }, true},
		"environment not read": {func(_ *Source, h *mapHost, _ *ReadOptions) { h.env["X"] = "/x" }, false},
		"a file appears":       {func(_ *Source, h *mapHost, _ *ReadOptions) { h.files["flag"] = &fstest.MapFile{} }, true},
		"a match appears":      {func(_ *Source, h *mapHost, _ *ReadOptions) { h.files["etc/vassals/a.d"] = &fstest.MapFile{} }, true},
		"an unread file":       {func(_ *Source, h *mapHost, _ *ReadOptions) { h.files["etc/vassals/a.x"] = &fstest.MapFile{} }, false},
		"a preset":             {func(_ *Source, _ *mapHost, o *ReadOptions) { o.Set = []Preset{{Key: "a", Value: "b"}} }, true},
	} {
		if got := digest(c.change); (got != same) != c.differ {
			t.Errorf("%s: the digest differs is %v, want %v", name, got != same, c.differ)
		}
	}
}

// TestReadOneAnswer checks that a file that changes while it is read twice is
// one file for one Read.
func TestReadOneAnswer(t *testing.T) {
	h := &mapHost{files: fstest.MapFS{"etc/vassals/a": &fstest.MapFile{Data: []byte("1")}}}
	f, ps := Read(operatorSource("[uwsgi]\nx = @(a)\ny = @(a)\nz = @(./a)\n"), h, ReadOptions{})
	if ps.Failed() || len(h.asked) != 1 || len(f.Reads) != 1 {
		t.Errorf("asked %v, reads %v, problems %v", h.asked, f.Reads, ps)
	}
}

// TestReadBuiltInPlugins checks what if-plugin says when nobody says otherwise.
func TestReadBuiltInPlugins(t *testing.T) {
	for name, want := range map[string]string{"python3": "yes", "http": "yes", "no_such": "no"} {
		f, ps := Read(operatorSource("[uwsgi]\nif-plugin = "+name+"\na = yes\nelse =\na = no\nendif =\n"), &mapHost{}, ReadOptions{})
		if len(ps) > 0 || len(f.Settings) != 1 || f.Settings[0].Value != want {
			t.Errorf("%s: got %v %v, want %s", name, f.Settings, ps, want)
		}
	}
}

// TestReadTenantAsksNothing checks that the operator's host is never asked in
// the name of a tenant's line, and no environment at all. The control is the
// same text of an operator.
func TestReadTenantAsksNothing(t *testing.T) {
	const text = "[uwsgi]\ninclude = a.ini\nx = @(b) $(HOME) $(HOME:-x)\nif-exists = c\ny = 1\nendif\nfor-glob = *\nz = 1\nendfor\nif-env = HOME\nw = 1\nendif\n"
	for _, operator := range []bool{false, true} {
		tenant, owner := &mapHost{files: fstest.MapFS{}}, &mapHost{files: fstest.MapFS{}, env: map[string]string{"HOME": "/root"}}
		src := operatorSource(text)
		src.Trust.Operator = operator
		f, _ := Read(src, tenant, ReadOptions{Operator: owner, Set: []Preset{{Key: "k", Value: "$(HOME)"}}})
		env := 0
		for _, q := range tenant.asked {
			if strings.HasPrefix(q, "env") {
				env++
			}
		}
		if want := []string{"env HOME"}; strings.Join(owner.asked, ",") != strings.Join(want, ",") {
			t.Errorf("operator %v: the operator's host was asked %q, want %q", operator, owner.asked, want)
		}
		if (env > 0) != operator || f.Settings[0].Value != "/root" {
			t.Errorf("operator %v: asked %q, first setting %q", operator, tenant.asked, f.Settings[0].Value)
		}
	}
}

// TestOSHostReadFile checks what the host of an operator's file reads, and
// that nothing makes it wait.
func TestOSHostReadFile(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(in("file"), []byte("x"), 0o644))
	must(os.WriteFile(in("shared"), []byte("x"), 0o644))
	must(os.Chmod(in("shared"), 0o666))
	must(os.Truncate(in("shared"), 1))
	must(os.WriteFile(in("big"), make([]byte, MaxFile+1), 0o644))
	must(os.WriteFile(in("full"), make([]byte, MaxFile), 0o644))
	must(unix.Mkfifo(in("fifo"), 0o644))
	must(os.Symlink("loop", in("loop")))
	must(os.Symlink("file", in("link")))
	must(os.Symlink("fifo", in("fifolink")))
	for _, c := range []struct{ path, want string }{
		{in("file"), ""},
		{in("link"), ""},
		{in("full"), ""},
		{in("shared"), ""},
		{in("big"), "larger than"},
		{in("fifo"), "is a FIFO"},
		{in("fifolink"), "is a FIFO"},
		{in("loop"), "symbolic links"},
		{in("none"), "no such file"},
		{dir, "is a directory"},
		{"/dev/zero", "is a device"},
		{"/proc/self/environ", "procfs"},
		{"/sys/kernel/uevent_seqnum", "sysfs"},
	} {
		done := make(chan error, 1)
		var f HostFile
		go func() {
			var err error
			f, err = NewOSHost(nil).ReadFile(c.path)
			done <- err
		}()
		select {
		case err := <-done:
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(reason(err), c.want)) {
				t.Errorf("%s: got %v, want %q", c.path, err, c.want)
			}
			if want := os.Geteuid() == 0 && c.want == "" && c.path != in("shared"); f.Operator != want {
				t.Errorf("%s: operator's %v, want %v", c.path, f.Operator, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: still waiting", c.path)
		}
	}
}

func TestOSHostAnswers(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "b"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h := NewOSHost(func(k string) (string, bool) { return "v" + k, k == "A" })
	names, err := h.Glob(dir + "/*")
	if err != nil || strings.Join(names, " ") != dir+"/a/ "+dir+"/b/" {
		t.Errorf("glob: got %q, %v", names, err)
	}
	if _, err := h.Stat(dir + "/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("stat: got %v", err)
	}
	if v, ok := h.Getenv("A"); v != "vA" || !ok {
		t.Errorf("getenv: got %q, %v", v, ok)
	}
	if _, ok := NewOSHost(nil).Getenv("PATH"); ok {
		t.Error("a host without environment answered")
	}
	if h.Hostname() == "" || h.CPUs() < 1 {
		t.Error("no hostname or no CPU")
	}
}

// FuzzRead checks that no text makes Read panic, run long or point outside the
// text. The goldens are its seeds.
func FuzzRead(f *testing.F) {
	for _, dir := range []string{"lang", "diff"} {
		names, _ := filepath.Glob("testdata/" + dir + "/*.txtar")
		for _, name := range names {
			a, err := txtar.ParseFile(name)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(a.Files[0].Data, true)
			f.Add(a.Files[0].Data, false)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte, operator bool) {
		h := &mapHost{env: map[string]string{"HOME": "/s3cret"}, files: fstest.MapFS{
			"etc/vassals/base.ini": {Data: []byte("[uwsgi]\nbase = %n %(a)\ninclude = shop.ini:other\n")},
			"etc/vassals/b.txt":    {Data: []byte("%(a) $(HOME)\n\n")},
		}}
		src := operatorSource(string(text))
		src.Trust.Operator = operator
		start := time.Now()
		file, ps := Read(src, h, ReadOptions{Include: []string{"/etc/vassals/base.ini"}})
		if took := time.Since(start); took > 10*time.Second {
			t.Fatalf("took %s", took)
		}
		lines := 1 + strings.Count(string(text), "\n")
		for _, p := range ps {
			if p.Code == "" || p.Message == "" || p.Line < 0 || p.File == src.Path && p.Line > lines {
				t.Errorf("bad problem %+v", p)
			}
		}
		if len(ps) > MaxProblems+1 || len(file.Settings) > MaxSettings+1 {
			t.Errorf("%d problems, %d settings", len(ps), len(file.Settings))
		}
		for _, s := range file.Settings {
			if s.Key == "" || !utf8.ValidString(s.Key+s.Value) || strings.Contains(s.Key, "\n") {
				t.Errorf("bad setting %q = %q", s.Key, s.Value)
			}
			if !operator && s.Origin.File == src.Path && strings.Contains(s.Value, "/s3cret") && !strings.Contains(string(text), "s3cret") {
				t.Errorf("the environment reached a tenant's line: %q = %q", s.Key, s.Value)
			}
		}
	})
}
