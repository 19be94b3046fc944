package inifile

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"liege/vassal"
)

// mapHost answers from a txtar archive.
type mapHost struct {
	files   fstest.MapFS // without the leading slash
	foreign map[string]bool
	env     map[string]string
	asked   []string
}

func (h *mapHost) ReadFile(name string) (HostFile, error) {
	h.asked = append(h.asked, "file "+name)
	data, err := h.files.ReadFile(strings.TrimPrefix(name, "/"))
	if err != nil {
		return HostFile{}, plainPathError(err)
	}
	return HostFile{Data: data, Inode: 77, Operator: !h.foreign[name]}, nil
}

func (h *mapHost) Stat(name string) (fs.FileInfo, error) {
	h.asked = append(h.asked, "stat "+name)
	path := strings.Trim(name, "/")
	if path == "" {
		path = "."
	}
	info, err := h.files.Stat(path)
	if err != nil {
		return nil, err
	}
	owner := &syscall.Stat_t{}
	if h.foreign[name] {
		owner.Uid = 1000
	}
	return ownedInfo{info, owner}, nil
}

// ownedInfo has an owner.
type ownedInfo struct {
	fs.FileInfo
	owner *syscall.Stat_t
}

func (i ownedInfo) Sys() any { return i.owner }

func (h *mapHost) Glob(pattern string) ([]string, error) {
	h.asked = append(h.asked, "glob "+pattern)
	names, err := h.files.Glob(strings.TrimPrefix(pattern, "/"))
	for i, name := range names {
		names[i] = "/" + name
		if info, err := h.files.Stat(name); err == nil && info.IsDir() {
			names[i] += "/"
		}
	}
	return names, err
}

func (h *mapHost) Getenv(name string) (string, bool) {
	h.asked = append(h.asked, "env "+name)
	v, ok := h.env[name]
	return v, ok
}

func (h *mapHost) Hostname() string                 { return "web1" }
func (h *mapHost) User() (int, string, int, string) { return 0, "root", 0, "root" }
func (h *mapHost) CPUs() int                        { return 4 }
func (h *mapHost) UnixTime() (int64, int64)         { return 1700000000, 1700000000000001 }

// archiveHost is a golden's host: its files with absolute names; "env" holds
// lines NAME=VALUE, "foreign" the names of files that are not root's.
func archiveHost(a *txtar.Archive) *mapHost {
	h := &mapHost{files: fstest.MapFS{}, foreign: map[string]bool{}, env: map[string]string{}}
	for _, f := range a.Files {
		switch {
		case path.IsAbs(f.Name):
			h.files[f.Name[1:]] = &fstest.MapFile{Data: f.Data}
		case f.Name == "env":
			for l := range strings.Lines(string(f.Data)) {
				k, v, _ := strings.Cut(strings.TrimSuffix(l, "\n"), "=")
				h.env[k] = v
			}
		case f.Name == "foreign":
			for l := range strings.Lines(string(f.Data)) {
				h.foreign[strings.TrimSpace(l)] = true
			}
		}
	}
	return h
}

// archiveSource is the vassal's file of a golden with the options that its
// comment names, one to a line.
func archiveSource(a *txtar.Archive) (Source, ReadOptions) {
	main := a.Files[0]
	src := Source{Path: main.Name, Text: main.Data, Inode: 42, Trust: vassal.Trust{Operator: true}}
	opt := ReadOptions{
		Known:   func(k string) bool { return slices.Contains([]string{"socket", "processes", "env", "uid", "chdir"}, k) },
		Plugin:  func(n string) bool { return n == "python" },
		Version: "1.0", Binary: "/usr/bin/liege",
	}
	for l := range strings.Lines(string(a.Comment)) {
		word, rest, _ := strings.Cut(strings.TrimSpace(l), " ")
		switch word {
		case "section":
			src.Section = rest
		case "tenant":
			src.Trust = vassal.Trust{UID: 1000, GID: 1000}
		case "crlf":
			src.Text = bytes.ReplaceAll(src.Text, []byte("\n"), []byte("\r\n"))
		case "bom":
			src.Text = append([]byte("\ufeff"), src.Text...)
		case "escapes": // so that a golden can hold any byte
			src.Text = []byte(strings.NewReplacer(`\0`, "\x00", `\r`, "\r", `\xff`, "\xff", `\xfe`, "\xfe").Replace(string(src.Text)))
		case "reload":
			opt.Reload = true
		case "set":
			k, v, _ := strings.Cut(rest, "=")
			opt.Set = append(opt.Set, Preset{Key: k, Value: v, Origin: vassal.Origin{File: "/etc/liege/emperor.ini", Line: 2}})
		case "include-before":
			opt.IncludeBefore = append(opt.IncludeBefore, rest)
		case "include":
			opt.Include = append(opt.Include, rest)
		case "inherit":
			opt.Inherit = append(opt.Inherit, rest)
		case "before":
			opt.Before = append(opt.Before, Layered{Path: "/etc/liege/emperor.ini", Section: "defaults", Layer: vassal.Defaults, Text: archived(a, rest)})
		}
	}
	return src, opt
}

func archived(a *txtar.Archive, name string) []byte {
	for _, f := range a.Files {
		if f.Name == name {
			return f.Data
		}
	}
	return nil
}

func showFile(f *File, ps vassal.Problems) string {
	var b strings.Builder
	for _, s := range f.Settings {
		fmt.Fprintf(&b, "%s:%d:", path.Base(s.Origin.File), s.Origin.Line)
		if s.Origin.Layer != "" {
			fmt.Fprintf(&b, " %s", s.Origin.Layer)
		}
		if s.Bare {
			fmt.Fprintf(&b, " %s", s.Key)
		} else {
			fmt.Fprintf(&b, " %s = %q", s.Key, s.Value)
		}
		for _, m := range []struct {
			on   bool
			word string
		}{{s.Placeholder, "placeholder"}, {s.Tenant && f.Source.Trust.Operator, "tenant's"}, {s.Used, "referenced"}} {
			if m.on {
				b.WriteString("  (" + m.word + ")")
			}
		}
		b.WriteByte('\n')
	}
	if f.Strict {
		fmt.Fprintf(&b, "strict, line %d\n", f.StrictAt.Line)
	}
	for _, q := range f.Reads {
		fmt.Fprintf(&b, "asked %s %q\n", q.Kind, q.Name)
	}
	for _, p := range ps {
		fmt.Fprintf(&b, "%s %s: %s\n", p.Severity, p.Code, p.Error())
		if p.Hint != "" {
			fmt.Fprintf(&b, "  hint: %s\n", p.Hint)
		}
	}
	return b.String()
}

func TestReadGoldens(t *testing.T) {
	names, err := filepath.Glob("testdata/lang/*.txtar")
	if err != nil || len(names) == 0 {
		t.Fatalf("no goldens: %v", err)
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			src, opt := archiveSource(a)
			f, ps := Read(src, archiveHost(a), opt)
			got := showFile(f, ps)
			i := slices.IndexFunc(a.Files, func(f txtar.File) bool { return f.Name == "want" })
			if *update {
				if i < 0 {
					a.Files = append(a.Files, txtar.File{Name: "want"})
					i = len(a.Files) - 1
				}
				a.Files[i].Data = []byte(got)
				if err := os.WriteFile(name, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if i < 0 {
				t.Fatal("no want: run with -update and read what it wrote")
			}
			if diff := cmp.Diff(string(a.Files[i].Data), got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}
