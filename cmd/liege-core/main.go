// Command liege-core serves one vassal's App: it is what runs in a vassal's
// sandbox, as the vassal's user. It is started by liege-stage or liege serve,
// not by people:
//
//	argv[0]="liege-core NAME"  --app=FD  [--control=FD]
//	argv[0]="liege-core NAME"  --run PROGRAM ARGV0 [ARG…]
//	argv[0]="liege-core"       --limited LIMITS PROGRAM ARGV0 [ARG…]
//
// The second form executes PROGRAM and nothing else: the stage uses it for
// commands of as-user hooks where the vassal's SELinux domain is entered
// through this program's file. With the third the core starts a CGI program
// that has limits.
//
// File descriptors 3, 4, … are the listening sockets, in the order of
// App.Listen; app holds the App as JSON; control, if there is one, is one end
// of a SOCK_SEQPACKET pair on which vassal.Message travels.
//
// With a control channel it says hello and waits to be verified before it
// touches anything. It builds all that it needs, starts the workers, says
// ready and serves. If that fails it says why, and exits 1.
//
// SIGTERM, SIGINT, SIGQUIT and a drain message make it accept no more, finish
// what was accepted within App.Drain, and exit 0. SIGHUP asks whoever started
// it for another generation; without a control channel it drains. A second SIGINT
// ends it at once. SIGUSR1 writes one line for each worker. When the control
// channel is closed it goes on to serve, for the Emperor may come back; under
// App.Foreground it drains.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"

	"liege/serve/worker"
	"liege/vassal"
)

// maxApp bounds the App document, in bytes.
const maxApp = 16 << 20

// firstListener is the descriptor of App.Listen[0].
const firstListener = 3

func main() {
	if len(os.Args) > 3 && os.Args[1] == argRun {
		err := syscall.Exec(os.Args[2], os.Args[3:], os.Environ())
		fmt.Fprintf(os.Stderr, "liege-core: %s: %v\n", os.Args[2], err)
		os.Exit(cannotRun)
	}
	if len(os.Args) > 2 && os.Args[1] == worker.ArgLimited {
		fmt.Fprintf(os.Stderr, "liege-core: %v\n", worker.ExecLimited(os.Args[2:]))
		os.Exit(cannotRun)
	}
	// Before anything else: as the first process of a pid namespace a signal
	// without a handler would be lost (KERNEL 30).
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGHUP, syscall.SIGUSR1)
	signal.Ignore(syscall.SIGUSR2, syscall.SIGWINCH, syscall.SIGTSTP, syscall.SIGPIPE)
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	p, err := start(os.Args[1:], signals, log)
	if err == nil {
		err = p.run()
	}
	if err != nil && !errors.Is(err, errEnded) {
		log.Error("the core ends", "err", err)
		os.Exit(1)
	}
}

// argRun is stage.ArgRun, which this program may not import; cannotRun is a
// shell's status for a program that it cannot execute.
const (
	argRun    = "--run"
	cannotRun = 126
)

// arguments are the descriptors named on the command line; -1: none.
type arguments struct{ app, control int }

func parse(args []string) (arguments, error) {
	a := arguments{}
	f := flag.NewFlagSet("liege-core", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.IntVar(&a.app, "app", -1, "")
	f.IntVar(&a.control, "control", -1, "")
	if err := f.Parse(args); err != nil {
		return a, err
	}
	if f.NArg() > 0 || a.app < firstListener || a.control == a.app || a.control >= 0 && a.control < firstListener {
		return a, fmt.Errorf("usage: liege-core --app=FD [--control=FD]; it is started by liege, not by hand")
	}
	return a, nil
}

// readApp reads the App from fd and closes it.
func readApp(fd int) (*vassal.App, error) {
	f := os.NewFile(uintptr(fd), "app")
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, 0, maxApp+1))
	if err != nil {
		return nil, fmt.Errorf("app: %w", err)
	}
	if len(b) > maxApp {
		return nil, fmt.Errorf("app: more than %d bytes", maxApp)
	}
	var app vassal.App
	if err := json.Unmarshal(b, &app); err != nil {
		return nil, fmt.Errorf("app: %w", err)
	}
	return &app, nil
}

// listeners takes over the descriptors of ls.
func listeners(ls []vassal.Listener) ([]net.Listener, error) {
	var out []net.Listener
	for i, l := range ls {
		f := os.NewFile(uintptr(firstListener+i), l.Address)
		ln, err := net.FileListener(f)
		_ = f.Close() // the listener holds a duplicate
		if err != nil {
			for _, o := range out {
				_ = o.Close()
			}
			return nil, &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeListen, File: l.At.File, Line: l.At.Line, Key: l.Key,
				Step: "listen", Message: fmt.Sprintf("%s: %v", l.Address, err)}
		}
		out = append(out, ln)
	}
	return out, nil
}
