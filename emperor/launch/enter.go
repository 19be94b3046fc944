package launch

import (
	"context"
	"errors"
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
// environment and directory.
func (in *instance) Enter(ctx context.Context, e emperor.Entry) (int, error) {
	r := in.p.Result
	if r == nil {
		return 0, notOurs(string(in.l.name))
	}
	g := sandbox.Guest{
		Program: "/bin/sh", Args: []string{"sh", "-c", enterShell}, Env: slices.Clone(r.App.Env), Dir: r.App.Dir,
		Console: e.Console, Stdin: e.Stdin, Stdout: e.Stdout, Stderr: e.Stderr,
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
	if errors.Is(err, sandbox.ErrNotOurs) {
		return 0, notOurs(string(in.l.name))
	}
	return code, err
}

func notOurs(name string) error {
	return &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeWrongState, Step: "enter",
		Message: name + ": what runs was started by an earlier Emperor; its successor is on the way", Hint: "liege wait " + name + " applied"}
}
