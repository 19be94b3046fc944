// Command liege-emperor supervises vassals: it is what "liege emperor"
// executes. It needs root, is the only process that keeps privileges for long,
// and links neither an HTTP server nor TLS.
//
//	liege-emperor [--config FILE] [--run-dir D] [--log-dir D] [--state-dir D]
//	              [--cgroup C] [--log-format text|json] [DIR…]
//	liege-emperor --one FILE[:SECTION]
//
// Exit codes: 0, 1 failed at run time, 64 usage, 77 not root, 78 configuration.
// docs/architecture.md has the whole.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"liege/emperor/asuser"
	"liege/emperor/logs"
	"liege/sandbox"
	"liege/vassal"
)

// version is set by the linker.
var version = "unknown"

// Exit codes of CONTRACT 13.
const (
	exitFailed = 1
	exitUsage  = 64
	exitNoPerm = 77
	exitConfig = 78
)

func main() {
	asuser.Main()  // a child that acts as a vassal's user ends here
	sandbox.Init() // and one that enters a sandbox here
	os.Exit(run(context.Background(), os.Args[1:]))
}

// flags are the command line.
type flags struct {
	config    string
	runDir    string
	logDir    string
	stateDir  string
	cgroup    string
	logFormat string
	one       string
	dirs      []string
	apart     apart // of --one
}

// exitError is an error with the exit code it stands for.
type exitError struct {
	code int
	hint string
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func run(ctx context.Context, args []string) int {
	err := start(ctx, args)
	switch {
	case err == nil, errors.Is(err, pflag.ErrHelp):
		return 0
	}
	e, ok := errors.AsType[*exitError](err)
	for _, p := range problems(err) {
		fmt.Fprintf(os.Stderr, "liege: emperor: %s\n", logs.Clean(p.Error()))
		if p.Hint != "" {
			fmt.Fprintf(os.Stderr, "  hint: %s\n", logs.Clean(p.Hint))
		}
	}
	if !ok {
		return exitFailed
	}
	if e.hint != "" {
		fmt.Fprintf(os.Stderr, "hint: %s\n", logs.Clean(e.hint))
	}
	return e.code
}

// problems are all errors in err: a file that is wrong keeps the host down, and
// is mended at once only if all of it is told.
func problems(err error) vassal.Problems {
	ps, ok := errors.AsType[vassal.Problems](err)
	if !ok {
		return vassal.Problems{{Severity: vassal.Error, Code: vassal.CodeStartFailed, Message: err.Error()}}
	}
	return slices.DeleteFunc(slices.Clone(ps), func(p vassal.Problem) bool { return p.Severity != vassal.Error })
}

func start(ctx context.Context, args []string) error {
	f, err := parse(args)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return &exitError{exitNoPerm, "liege serve FILE", errors.New("needs root: it makes namespaces and cgroups")}
	}
	if err := sandbox.Seal(); err != nil {
		fmt.Fprintf(os.Stderr, "liege: emperor: starts will be slower: %v\n", err)
	}
	if f.one != "" {
		return one(ctx, f)
	}
	return supervise(ctx, f)
}

func parse(args []string) (f flags, err error) {
	set := pflag.NewFlagSet("liege emperor", pflag.ContinueOnError)
	set.StringVar(&f.config, "config", "", "the operator's settings (default /etc/liege/emperor.ini if it exists)")
	set.StringVar(&f.runDir, "run-dir", "", "sockets and records of what runs (default /run/liege)")
	set.StringVar(&f.logDir, "log-dir", "", "logs of the vassals (default /var/log/liege)")
	set.StringVar(&f.stateDir, "state-dir", "", "what survives a reboot (default /var/lib/liege)")
	set.StringVar(&f.cgroup, "cgroup", "", "cgroup of a delegated unit below which the vassals' are made (default: the Emperor's own)")
	set.StringVar(&f.logFormat, "log-format", "", "text or json")
	set.StringVar(&f.one, "one", "", "run the vassal of this file alone, in the foreground")
	set.SetOutput(os.Stderr)
	if err := set.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return f, err
		}
		return f, &exitError{exitUsage, "liege emperor --help", err}
	}
	f.dirs = set.Args()
	if f.one != "" && len(f.dirs) > 0 {
		return f, &exitError{exitUsage, "", fmt.Errorf("--one runs one file, not %s", strings.Join(f.dirs, " "))}
	}
	if f.logFormat != "" && f.logFormat != "text" && f.logFormat != "json" {
		return f, &exitError{exitUsage, "", fmt.Errorf("--log-format %s: want text or json", f.logFormat)}
	}
	return f, nil
}
