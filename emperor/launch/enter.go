package launch

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"liege/emperor"
	"liege/sandbox"
	"liege/vassal"
)

var _ emperor.Entrant = (*instance)(nil)

// What the sandbox's own shell does with the command: it finds the program in
// the application's PATH, as nobody outside could. $@ are whole words.
const (
	enterCommand = `exec "$@"`
	enterShell   = `[ -x /bin/bash ] && exec /bin/bash -l; exec /bin/sh -l`
)

// maxTerm bounds the type of a terminal, which is a word.
const maxTerm = 64

// Enter implements emperor.Entrant. The command has the application's
// environment and directory; root's has that of root's hooks, so that no
// variable of a tenant's reaches it (KERNEL 39).
func (in *instance) Enter(ctx context.Context, e emperor.Entry) (int, error) {
	r := in.p.Result
	if r == nil {
		return 0, notOurs(string(in.l.name))
	}
	g := sandbox.Guest{
		Program: "/bin/sh", Args: []string{"sh", "-c", enterShell}, Env: slices.Clone(r.App.Env), Dir: r.App.Dir,
		Console: e.Console, Stdin: e.Stdin, Stdout: e.Stdout, Stderr: e.Stderr,
	}
	if e.Root {
		if why := r.ForeignRoot(); why != "" {
			return 0, foreign(string(in.l.name), r.Root.Source, why)
		}
		g.Root, g.Dir = true, "/"
		g.Env = append(slices.Clone(r.Plan.HookEnv), "HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/sh")
	}
	if len(e.Command) > 0 {
		g.Args = append([]string{"sh", "-c", enterCommand, "sh"}, e.Command...)
	}
	if e.Console != nil && e.Term != "" && len(e.Term) <= maxTerm {
		g.Env = append(g.Env, "TERM="+e.Term)
	}
	in.guests.Add(1)
	defer in.guests.Add(-1)
	code, err := in.box.Enter(ctx, g)
	switch {
	case errors.Is(err, sandbox.ErrNotOurs):
		return 0, notOurs(string(in.l.name))
	case errors.Is(err, sandbox.ErrHostRoot):
		return 0, hostRoot(string(in.l.name), in.PID())
	}
	return code, err
}

// foreign is why root does not enter a tree that others can change.
func foreign(name, tree, why string) error {
	return &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeNotDone, Step: "enter",
		Message: fmt.Sprintf("%s: root would run a shell of %s, and %s", name, tree, why), Hint: "liege enter " + name + " as its user, or chown root the tree"}
}

// hostRoot is why root enters only a user namespace.
func hostRoot(name string, pid int) error {
	return &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeNotDone, Step: "enter",
		Message: name + ": root inside would be root of the host: what it runs of the app's would be too", Hint: fmt.Sprintf("namespaces = user in its file, liege enter %s as its user, or on the host, by pid %d and the directory", name, pid)}
}

func notOurs(name string) error {
	return &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeWrongState, Step: "enter",
		Message: name + ": what runs was started by an earlier Emperor; its successor is on the way", Hint: "liege wait " + name + " applied"}
}
