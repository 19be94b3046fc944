package emperor

import (
	"context"
	"errors"
	"os"

	"liege/emperor/control"
	"liege/vassal"
)

// An Entrant is an Instance in whose sandbox a command can be run beside the
// core.
type Entrant interface {
	// Enter returns the command's exit status when it has ended, or an error
	// if it was not run. Nothing that it started is left then. It ends when ctx
	// is done.
	Enter(ctx context.Context, e Entry) (code int, err error)
}

// An Entry is a command to run in a sandbox.
type Entry struct {
	Command               []string // none: a shell
	Root                  bool     // as root of the sandbox
	Term                  string   // the terminal's type, with Console
	Console               *os.File // a socket that is sent the near end of a pseudo-terminal; nil: the three
	Stdin, Stdout, Stderr *os.File
}

// Enter implements control.Backend. A vassal that sleeps is started first. No
// actor waits for what goes on inside.
func (e *Emperor) Enter(ctx context.Context, name string, r control.Request, by string, files []*os.File) control.Outcome {
	a, none := e.find(name)
	if a == nil {
		return none
	}
	rep := a.board.value()
	if rep.vassal.State == control.Sleeping {
		sctx, cancel := context.WithTimeout(ctx, control.DefaultTimeout)
		defer cancel()
		if o := e.Act(sctx, name, control.Request{Verb: control.Start}, by); !o.OK {
			return o
		}
		rep = a.board.value()
	}
	in, ok := rep.runs.(Entrant)
	if !ok {
		return notEntered(rep.vassal)
	}
	entry := Entry{Command: r.Command, Term: r.Term, Root: r.Root}
	if r.Console {
		entry.Console = files[0]
	} else {
		entry.Stdin, entry.Stdout, entry.Stderr = files[0], files[1], files[2]
	}
	code, err := in.Enter(ctx, entry)
	if err == nil {
		return control.Outcome{OK: true, Code: code}
	}
	p, ok := errors.AsType[*vassal.Problem](err)
	if !ok {
		p = &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeNotDone, Step: "enter", Message: name + ": " + err.Error()}
	}
	return control.Outcome{Code: 1, Text: p.Message, Problem: p}
}

// notEntered says why there is no sandbox to enter.
func notEntered(v control.Vassal) control.Outcome {
	hint := "liege status " + v.Name
	switch v.State {
	case control.Suspended:
		hint = "liege resume " + v.Name
	case control.Stopped:
		hint = "liege start " + v.Name
	}
	m := v.Name + ": is " + string(v.State) + ": nothing of it runs that could be entered"
	return control.Outcome{Code: 1, Text: m, Problem: &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeWrongState, Message: m, Hint: hint}}
}
