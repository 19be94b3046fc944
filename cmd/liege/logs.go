package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"liege/emperor/control"
)

const defaultLogDir = "/var/log/liege"

func (a *app) logsCmd() *cobra.Command {
	var follow bool
	var lines int
	c := &cobra.Command{
		Use: "logs NAME", Aliases: []string{"log"}, Short: "the vassal's log",
		Args: usage(cobra.ExactArgs(1)), ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := a.logPath(cmd.Context(), name(args[0]))
			if err != nil {
				return err
			}
			return a.tail(cmd.Context(), path, lines, follow)
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on with new lines until interrupted")
	c.Flags().IntVarP(&lines, "lines", "n", 50, "how many of the last lines")
	return a.controlFlags(c)
}

// logPath asks where the lines went; without an Emperor they are where they
// usually go, if there are any.
func (a *app) logPath(ctx context.Context, vassal string) (string, error) {
	var path string
	err := control.Call(ctx, control.Socket(a.runDir), control.Request{Verb: control.Logs, Names: []string{vassal}}, func(r control.Reply) error {
		if r.Path != "" {
			path = r.Path
		}
		return nil
	})
	if err != nil && control.ExitCode(err) == exitNoEmperor {
		usual := filepath.Join(defaultLogDir, vassal+".log")
		if _, statErr := os.Stat(usual); statErr == nil {
			return usual, nil
		}
	}
	if err == nil && path == "" {
		return "", exitWith(exitNone, "no-log", vassal+": has no log yet", "liege status "+vassal)
	}
	return path, err
}

// tail prints the last n lines of the file and, if follow, what comes after,
// through rotation, until ctx is done.
func (a *app) tail(ctx context.Context, path string, n int, follow bool) error {
	out := a.out
	if f, ok := a.raw.out.(*os.File); ok && !tty(f) {
		out = f // byte for byte
	}
	f, err := openLog(path)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return exitWith(exitDenied, "not-permitted", "not permitted to read "+path, "sudo")
	case err != nil:
		return exitWith(exitNone, "not-found", err.Error(), "")
	}
	defer func() { f.Close() }()
	last, err := lastLines(f, n)
	if err != nil {
		return err
	}
	if _, err := out.Write(last); err != nil || !follow {
		return err
	}
	for tick := time.NewTicker(200 * time.Millisecond); ; {
		if _, err := io.Copy(out, f); err != nil {
			return err
		}
		if next := rotated(f, path); next != nil {
			f.Close()
			f = next
			continue
		}
		select {
		case <-ctx.Done():
			tick.Stop()
			return nil
		case <-tick.C:
		}
	}
}

// openLog opens a log to read. With logto it lies where a vassal's user can put
// a FIFO, on which whoever looks would wait, or a link in its place.
func openLog(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		f.Close()
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	return f, nil
}

// rotated opens path anew if it is another file than f, or starts over if f
// was cut.
func rotated(f *os.File, path string) *os.File {
	now, err := os.Stat(path)
	if err != nil {
		return nil
	}
	was, err := f.Stat()
	if err != nil {
		return nil
	}
	if os.SameFile(now, was) {
		if at, err := f.Seek(0, io.SeekCurrent); err == nil && at > now.Size() {
			if _, err := f.Seek(0, io.SeekStart); err != nil {
				return nil
			}
		}
		return nil
	}
	next, err := openLog(path)
	if err != nil {
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
