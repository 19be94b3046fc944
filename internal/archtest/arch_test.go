// Package archtest holds the borders of docs/architecture.md: which package
// may reach which, and which dependency has one importer.
package archtest

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
	Standard   bool
	Doc        string
	GoFiles    []string
}

func list(t *testing.T) map[string]pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Imports,Deps,Standard,Doc,GoFiles", "-tags", "osusergo,netgo", "liege/...")
	cmd.Dir = "../.."
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	all := map[string]pkg{}
	for dec := json.NewDecoder(out); ; {
		var p pkg
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		all[p.ImportPath] = p
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("go list: %v", err)
	}
	return all
}

func ours(path string) bool { return path == "liege" || strings.HasPrefix(path, "liege/") }

func below(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// TestReach holds what a program may reach, directly or not.
func TestReach(t *testing.T) {
	all := list(t)
	for _, rule := range []struct {
		from, why string
		may       []string // of ours; nil: any
		never     []string
	}{
		{from: "liege/vassal", may: []string{"liege/vassal"}, why: "the vocabulary imports nothing of ours"},
		{from: "liege/policy", may: []string{"liege/policy", "liege/vassal"}, never: []string{"net/http", "github.com", "golang.org"}, why: "it works on the trees of other systems"},
		{from: "liege/cmd/liege-emperor", never: []string{"net/http", "crypto/tls", "liege/serve"},
			why: "its size is paid at every start, and root speaks no HTTP"},
		{from: "liege/cmd/liege-stage", never: []string{"net", "net/http", "crypto/tls", "github.com/opencontainers/runc"},
			may: []string{"liege/cmd/liege-stage", "liege/sandbox/stage", "liege/vassal", "liege/selinux"}, why: "it runs as root inside a tenant's sandbox"},
		{from: "liege/cmd/liege-core", never: []string{"github.com/opencontainers", "liege/sandbox", "liege/emperor", "liege/vassal/inifile"},
			may: []string{"liege/cmd/liege-core", "liege/serve", "liege/vassal"}, why: "it never sees an ini file and has no privileged code"},
		{from: "liege/cmd/liege-relay", never: []string{"net/http", "crypto", "os/exec"}, may: []string{"liege/cmd/liege-relay", "liege/relay", "liege/vassal/mail", "liege/emperor/asuser/become"},
			why: "it runs as a tenant outside every sandbox, one process for each"},
		{from: "liege/cmd/liege-sendmail", never: []string{"net", "os/exec"}, may: []string{"liege/cmd/liege-sendmail", "liege/sendmail", "liege/vassal/mail"},
			why: "it is a small program of the tenant's"},
		{from: "liege/cmd/liege", never: []string{"github.com/opencontainers/runc", "net/http", "liege/serve"}, why: "the command asks, the others do"},
	} {
		p, ok := all[rule.from]
		if !ok {
			t.Errorf("%s is gone", rule.from)
			continue
		}
		for _, d := range p.Deps {
			if rule.may != nil && ours(d) && !slices.ContainsFunc(rule.may, func(m string) bool { return below(d, m) }) {
				t.Errorf("%s reaches %s: %s", rule.from, d, rule.why)
			}
			if slices.ContainsFunc(rule.never, func(n string) bool { return below(d, n) }) {
				t.Errorf("%s reaches %s: %s", rule.from, d, rule.why)
			}
		}
	}
}

// TestOneImporter holds that a moving or dangerous dependency stays behind one
// package of ours.
func TestOneImporter(t *testing.T) {
	importer := map[string]string{
		"github.com/opencontainers/runc":    "liege/sandbox",
		"github.com/opencontainers/selinux": "liege/selinux",
		"gopkg.in/ini.v1":                   "liege/vassal/inifile",
		"github.com/fsnotify/fsnotify":      "liege/emperor/dirmon",
		"github.com/vishvananda/netlink":    "liege/sandbox/network",
		"github.com/google/nftables":        "liege/sandbox/network",
	}
	for path, p := range list(t) {
		if !ours(path) || strings.HasPrefix(path, "liege/internal/test") {
			continue
		}
		for _, imp := range p.Imports {
			for dep, only := range importer {
				if below(imp, dep) && path != only {
					t.Errorf("%s imports %s, which only %s may", path, imp, only)
				}
			}
		}
	}
}

// TestDocumented holds that every package says what it is for.
func TestDocumented(t *testing.T) {
	for path, p := range list(t) {
		if ours(path) && p.Doc == "" && len(p.GoFiles) > 0 {
			t.Errorf("%s has no package comment", path)
		}
	}
}

// TestPages holds docs/architecture.md and docs/dependencies.md to the code:
// each package, and each module that is used directly, has its line.
func TestPages(t *testing.T) {
	page := func(name string) string {
		t.Helper()
		b, err := os.ReadFile("../../" + name)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	architecture := page("docs/architecture.md")
	for path := range list(t) {
		if name := strings.TrimPrefix(path, "liege/"); ours(path) && !strings.Contains(architecture, name) {
			t.Errorf("docs/architecture.md does not name %s", name)
		}
	}
	dependencies := page("docs/dependencies.md")
	for line := range strings.Lines(page("go.mod")) {
		f := strings.Fields(strings.TrimPrefix(line, "require "))
		if len(f) != 2 || !strings.HasPrefix(f[1], "v") { // neither a requirement nor one without "// indirect"
			continue
		}
		if !strings.Contains(dependencies, f[0]) {
			t.Errorf("docs/dependencies.md does not say why %s is here", f[0])
		}
	}
}
