package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"liege/emperor/control"
	"liege/vassal"
)

const defaultLogDir = "/var/log/liege"

func (a *app) logsCmd() *cobra.Command {
	var follow bool
	var lines int
	c := &cobra.Command{
		Use: "logs NAME", Aliases: []string{"log"}, Short: "the vassal's log",
		Args: usage(cobra.ExactArgs(1)), ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			if lines < 0 {
				return usageError(fmt.Sprintf("logs: -n %d: want 0 or more lines", lines), "")
			}
			v, err := a.logOf(cmd.Context(), name(args[0]))
			if err != nil {
				return err
			}
			return a.tail(cmd.Context(), v, lines, follow)
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on with new lines until interrupted")
	c.Flags().IntVarP(&lines, "lines", "n", 50, "how many of the last lines")
	return a.controlFlags(c)
}

// logOf asks where the lines went, and as whom the vassal runs; without an
// Emperor they are where they usually go, if there are any.
func (a *app) logOf(ctx context.Context, name string) (v control.Vassal, err error) {
	err = control.Call(ctx, control.Socket(a.runDir), control.Request{Verb: control.Status, Names: []string{name}}, func(r control.Reply) error {
		if r.Vassal != nil && r.Vassal.Log != nil {
			v = *r.Vassal
		}
		if r.Problem != nil { // no such vassal
			return &control.Error{Code: r.Code, Problem: *r.Problem}
		}
		return nil
	})
	if err != nil && control.ExitCode(err) == exitNoEmperor {
		usual := filepath.Join(defaultLogDir, name+".log")
		if _, statErr := os.Stat(usual); statErr == nil {
			return control.Vassal{Log: &usual}, nil
		}
	}
	if err == nil && v.Log == nil {
		return v, exitWith(exitNone, vassal.CodeNoLog, name+": has no log yet", "liege status "+name)
	}
	return v, err
}

// tail prints the last n lines of the vassal's log and, if follow, what comes
// after, through rotation, until ctx is done.
func (a *app) tail(ctx context.Context, v control.Vassal, n int, follow bool) error {
	err := patiently(ctx, 0, func() error { return a.print(ctx, v, n, follow) })
	if errors.Is(err, errNoAnswer) { // interrupted, in the middle of something
		return nil
	}
	return err
}

func (a *app) print(ctx context.Context, v control.Vassal, n int, follow bool) error {
	e, path := &eyes{ctx: ctx, v: v}, *v.Log
	defer e.close()
	out := a.out
	if f, ok := a.raw.out.(*os.File); ok && !tty(f) {
		out = f // byte for byte
	}
	f, err := e.open(path)
	if err != nil {
		return whyNot(path, err)
	}
	defer func() { f.Close() }()
	last, err := lastLines(f, n)
	if err != nil {
		return err
	}
	if _, err := out.Write(last); err != nil || !follow {
		return err
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for looked := time.Now(); ; {
		if _, err := io.Copy(out, f); err != nil {
			return err
		}
		if time.Since(looked) > time.Second { // it may be a question to another process
			looked = time.Now()
			if next := rotated(e, f, path); next != nil {
				_, err := io.Copy(out, f) // what came before it was renamed
				if err != nil {
					next.Close()
					return err
				}
				f.Close()
				f = next
				continue
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// rotated opens path anew if it is another file than f, or starts over if f
// was cut.
func rotated(e *eyes, f *os.File, path string) *os.File {
	was, err := f.Stat()
	if err != nil {
		return nil
	}
	if at, err := f.Seek(0, io.SeekCurrent); err == nil && at > was.Size() {
		_, _ = f.Seek(0, io.SeekStart) // a regular file's cannot fail
	}
	next, err := e.open(path)
	if err != nil {
		return nil
	}
	if now, err := next.Stat(); err != nil || os.SameFile(now, was) {
		next.Close()
		return nil
	}
	return next
}

// maxTail bounds what lastLines holds in memory.
const maxTail = 4 << 20

// lastLines returns the last n lines of f and leaves f at its end.
func lastLines(f *os.File, n int) ([]byte, error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	start := max(end-maxTail, 0)
	buf := make([]byte, end-start)
	if _, err := f.ReadAt(buf, start); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	cut := len(bytes.TrimSuffix(buf, []byte("\n")))
	for ; n > 0 && cut > 0; n-- {
		cut = bytes.LastIndexByte(buf[:cut], '\n')
		if cut < 0 {
			return buf, nil
		}
	}
	if n > 0 {
		return buf, nil
	}
	return bytes.TrimPrefix(buf[max(cut, 0):], []byte("\n")), nil
}
