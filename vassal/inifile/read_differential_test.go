package inifile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"liege/internal/testenv"
	"liege/vassal"
)

// differences lists where Read leaves the ancestor, by case: what uWSGI shows,
// what Read gives, and why. A line of "" is one that the other does not have.
var differences = map[string][]struct{ uwsgi, ours, why string }{
	"bom": {
		{"", "master = true", "uWSGI does not find a section behind a byte order mark; editors on Windows write one"},
		{"", "processes = 2", ""},
	},
	"sections_both": {
		{"", "memory-max = 512M", "[vassal] is ours: its lines follow those of [uwsgi]"},
		{"", "threads = 4", ""},
	},
	"section_comment": {
		{"", "master = true", "text after the ] makes uWSGI overlook the section without a word"},
	},
	"percent_unknown": {
		{"env = TOKEN=abY", "env = TOKEN=ab%zY", "uWSGI removes % and a character it does not know: passwords lose text"},
		{"procname-append = --", "procname-append = %Y-%m-%q", ""},
	},
	"percent_end": {
		{"cheaper-overload = 100next = lost", "cheaper-overload = 100%", "uWSGI joins the next line"},
		{"", "next = lost", ""},
	},
	"percent_double": {
		{"log-format = V", "log-format = %(z)", "%% is a literal percent sign; uWSGI would expand what it wrote itself"},
	},
	"env_default": {
		{"chdir = $(APP_DIR:-/srv/app)", "chdir = /srv/app", "uWSGI 2.1; the 2.0 that Debian has knows no defaults"},
		{"pythonpath = $(APP_LIB-/srv/lib)", "pythonpath = /srv/lib", ""},
	},
	"for_readline_data": {
		{"env = A=V", "env = A=%(z)", "lines of another file are data: nobody who can write it may read the Emperor's environment or files"},
		{"env = B=/home/sammy", "env = B=$(HOME)", ""},
	},
	"at_file_data": {
		{"env = KEY=V", "env = KEY=%(z)", "the content of a file is data"},
	},
	"else": {
		{"env = MODE=dev", "", "else is of uWSGI 2.1: 2.0 takes it for an option, so that its lines belong to the block before"},
		{"else = ", "", ""},
	},
	"set_ph": {
		{"base = /srv/%(name)", "base = /srv/shop", "uWSGI shows a set-placeholder as written; what it stands for elsewhere is the same"},
	},
	"piku": {
		{"cron2 = minute=0,hour=3", "cron2 = minute=0,hour=3 /bin/true", "uWSGI's own parser of cron2 cuts the text that it shows"},
	},
}

// TestDifferentialShowConfig gives every case of testdata/diff to the uwsgi of
// this machine and to Read and compares what they make of it.
func TestDifferentialShowConfig(t *testing.T) {
	testenv.Need(t, testenv.Uwsgi)
	uwsgi, err := exec.LookPath("uwsgi")
	if err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob("testdata/diff/*.txtar")
	if err != nil || len(names) < 40 {
		t.Fatalf("%d cases, want 40 at least: %v", len(names), err)
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			dir, env := unpack(t, a)
			want := ancestor(t, uwsgi, dir, a, env)
			got := ours(t, dir, a, env)
			for _, d := range differences[filepath.Base(strings.TrimSuffix(name, ".txtar"))] {
				want, got = without(t, want, d.uwsgi), without(t, got, d.ours)
			}
			if diff := cmp.Diff(strings.Join(want, "\n"), strings.Join(got, "\n")); diff != "" {
				t.Errorf("(-uwsgi +ours)\n%s", diff)
			}
		})
	}
}

// unpack writes the files of a case to a new directory. Its comment holds
// words for us, "env" lines NAME=VALUE.
func unpack(t *testing.T, a *txtar.Archive) (dir string, env []string) {
	dir = t.TempDir()
	env = []string{"HOME=/home/sammy", "PATH=/usr/bin:/bin"}
	for _, f := range a.Files {
		if f.Name == "env" {
			env = append(env, strings.Split(strings.TrimSpace(string(f.Data)), "\n")...)
			continue
		}
		path := filepath.Join(dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, bytesOf(a, f.Data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir, env
}

func bytesOf(a *txtar.Archive, data []byte) []byte {
	comment := string(a.Comment)
	if strings.Contains(comment, "crlf") {
		data = bytes.ReplaceAll(data, []byte("\n"), []byte("\r\n"))
	}
	if strings.Contains(comment, "no-final-newline") {
		data = bytes.TrimSuffix(data, []byte("\n"))
	}
	if strings.Contains(comment, "byte-order-mark") {
		data = append([]byte("\ufeff"), data...)
	}
	return data
}

// argument is the file as named on the command line: FILE or FILE:SECTION.
func argument(a *txtar.Archive) string {
	for word := range strings.FieldsSeq(string(a.Comment)) {
		if section, ok := strings.CutPrefix(word, "section="); ok {
			return a.Files[0].Name + ":" + section
		}
	}
	return a.Files[0].Name
}

// ancestor asks uwsgi. It shows its configuration once everything is read and
// is told to leave at the next point, before it jails itself or listens.
func ancestor(t *testing.T, uwsgi, dir string, a *txtar.Archive, env []string) []string {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, uwsgi, "--hook-pre-jail", "exit:0", "--ini", argument(a), "--show-config")
	cmd.Dir, cmd.Env = dir, env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	out, err := cmd.CombinedOutput()
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
		t.Fatalf("uwsgi: %v", err)
	}
	out = regexp.MustCompile(`(?m)^\w{3} \w{3} .{2} \d\d:\d\d:\d\d \d{4} - `).ReplaceAll(out, nil) // log-date
	_, text, ok := strings.Cut(string(out), "\n[uwsgi]\n")
	text, _, end := strings.Cut(text, ";end of configuration")
	if !ok || !end {
		t.Fatalf("uwsgi showed no configuration:\n%s", out)
	}
	var lines []string
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		key, _, _ := strings.Cut(line, " = ")
		switch {
		case line == "hook-pre-jail = exit:0", line == "show-config = true", isWord(key) && key != "else":
		default:
			lines = append(lines, line)
		}
	}
	return lines
}

func ours(t *testing.T, dir string, a *txtar.Archive, env []string) []string {
	lookup := func(name string) (string, bool) {
		for _, kv := range env {
			if k, v, _ := strings.Cut(kv, "="); k == name {
				return v, true
			}
		}
		return "", false
	}
	name, section, _ := strings.Cut(argument(a), ":")
	src := Source{
		Path: filepath.Join(dir, name), Section: section, Text: bytesOf(a, a.Files[0].Data),
		Cwd: dir, Trust: vassal.Trust{Operator: true},
	}
	f, ps := Read(src, NewOSHost(lookup), ReadOptions{Known: func(string) bool { return false }})
	if err := ps.Err(); err != nil {
		t.Errorf("ours: %v", err)
	}
	var b strings.Builder
	declared := ""
	for _, s := range f.Settings {
		if declared != "" && !s.Placeholder && fmt.Sprint(s.Origin) == declared {
			continue // uWSGI does not show what a declared option stands for
		}
		declared = ""
		if s.Placeholder {
			declared = fmt.Sprint(s.Origin)
		}
		b.WriteString(s.Key + " = " + s.Value + "\n")
	}
	return strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
}

// without takes one line from lines; a difference that is none is an error.
func without(t *testing.T, lines []string, line string) []string {
	if line == "" {
		return lines
	}
	for i, l := range lines {
		if l == line {
			return append(lines[:i:i], lines[i+1:]...)
		}
	}
	t.Errorf("the documented difference %q is not there", line)
	return lines
}
