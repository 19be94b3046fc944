package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"liege/emperor/control"
	"liege/vassal"
)

// Exit codes (CONTRACT 13; 64 and up as in sysexits.h).
const (
	exitFailed    = 1  // at run time
	exitUsage     = 64 // the command line
	exitNone      = 66 // no such vassal or file
	exitNoEmperor = 69 // none at this run directory
	exitTimeout   = 75
	exitDenied    = 77
	exitConfig    = 78
)

// exit is an error with its exit code. Shown: what there was to say has been
// said.
type exit struct {
	code     int
	problems vassal.Problems
	shown    bool
}

func (e *exit) Error() string { return e.problems.Error() }

func exitWith(code int, word, msg, hint string) error {
	return &exit{code: code, problems: vassal.Problems{{Severity: vassal.Error, Code: word, Message: msg, Hint: hint}}}
}

func usageError(msg, hint string) error { return exitWith(exitUsage, vassal.CodeUsage, msg, hint) }

// usage makes a mistake in the arguments a usage error.
func usage(args cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, words []string) error {
		if err := args(cmd, words); err != nil {
			return usageError(cmd.Name()+": "+err.Error(), cmd.Parent().CommandPath()+" "+cmd.Use)
		}
		return nil
	}
}

// finish prints err and returns the exit code.
func (a *app) finish(err error) int {
	if err == nil {
		return 0
	}
	e, ok := errors.AsType[*exit](err)
	if !ok {
		e = &exit{code: exitFailed, problems: vassal.AsProblems(err, "", vassal.CodeFailed)}
		if c, ok := errors.AsType[*control.Error](err); ok {
			e.code, e.shown = c.Code, c.Said
		}
	}
	if e.shown {
		return e.code
	}
	if a.json {
		if json.NewEncoder(a.out).Encode(map[string]any{"problems": nonNil(e.problems)}) != nil {
			return max(e.code, exitFailed)
		}
		return e.code
	}
	for _, p := range e.problems {
		if p.Severity != vassal.Note {
			fmt.Fprintf(a.err, "liege: %s\n", p.Error())
			printHint(a.err, p.Hint)
		}
	}
	return e.code
}

func nonNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

func printHint(w interface{ Write([]byte) (int, error) }, hint string) {
	for line := range strings.SplitSeq(hint, "\n") {
		if line != "" {
			fmt.Fprintf(w, "  hint: %s\n", line)
		}
	}
}

// terminal reports whether w is one, and so may have colours and links.
func terminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	return tty(f)
}

func tty(f *os.File) bool {
	fi, err := f.Stat()
	return err == nil && fi.Mode()&os.ModeCharDevice != 0
}
