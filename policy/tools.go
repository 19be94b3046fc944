package policy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"liege/vassal"
)

// packages are where the programs come from, on Debian and on Fedora.
var packages = map[string]string{"semodule": "policycoreutils", "setfiles": "policycoreutils", "restorecon": "policycoreutils", "secilc": "secilc"}

// find returns a program's path. It is looked for where root's tools are, too.
func find(name string) (string, error) {
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin", "/usr/bin") {
		p := filepath.Join(dir, name)
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeNoTool, Message: name + ": not found",
		Hint: fmt.Sprintf("apt install %[1]s, or dnf install %[1]s", packages[name])}
}

// need finds all of them before anything is done.
func need(names ...string) error {
	var ps vassal.Problems
	for _, n := range names {
		if _, err := find(n); err != nil {
			ps = append(ps, vassal.AsProblems(err, "", vassal.CodeNoTool)...)
		}
	}
	if len(ps) > 0 {
		return ps
	}
	return nil
}

// A toolError is a program that ran and said no.
type toolError struct {
	name, output string
	err          error
}

func (e *toolError) Error() string {
	out := strings.TrimSpace(e.output)
	if len(out) > 2000 {
		out = "…" + out[len(out)-2000:]
	}
	if out == "" {
		return fmt.Sprintf("%s: %v", e.name, e.err)
	}
	return fmt.Sprintf("%s: %v: %s", e.name, e.err, strings.ReplaceAll(out, "\n", "; "))
}

func (e *toolError) Unwrap() error { return e.err }

// run runs a program with an environment of its own.
func run(ctx context.Context, name string, args ...string) error {
	path, err := find(name)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	// libsemanage tidies up when it is asked to end.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	if err != nil {
		return &toolError{name, out.String(), err}
	}
	return nil
}

// semodule changes the store in one transaction.
func (s *Store) semodule(ctx context.Context, args ...string) error {
	all := []string{"-s", s.kind}
	if s.cfg.Root != "/" {
		all = append(all, "-p", s.cfg.Root)
	}
	if !s.cfg.Live {
		all = append(all, "-N") // nothing to load into
	}
	return run(ctx, "semodule", append(all, args...)...)
}

// relabel gives the files at and below the paths the type that the installed
// file contexts say. User, role and level stay.
func (s *Store) relabel(ctx context.Context, paths []string) error {
	var there []string
	for _, p := range paths {
		if _, err := os.Lstat(s.path(p)); err == nil {
			there = append(there, s.path(p))
		}
	}
	if len(there) == 0 {
		return nil
	}
	s.cfg.Note("label " + strings.Join(there, " "))
	if s.cfg.Live {
		return run(ctx, "restorecon", append([]string{"-R", "--"}, there...)...)
	}
	args := []string{}
	if s.cfg.Root != "/" {
		args = append(args, "-r", strings.TrimSuffix(s.cfg.Root, "/"))
	}
	return run(ctx, "setfiles", append(append(args, s.contexts()), there...)...)
}
