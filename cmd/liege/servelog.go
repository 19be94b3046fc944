package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"liege/emperor/asuser"
	"liege/emperor/listen"
	"liege/emperor/resolve"
)

// lastWords is how long after the end of a core something that it started may
// still write to the terminal.
const lastWords = 2 * time.Second

// output is where a core of liege serve writes: to its logto file, and to the
// terminal if there is one (CONTRACT 14). close is called when the core is
// gone.
func (s *server) output(ctx context.Context, r *resolve.Result) (out, errs io.Writer, done func()) {
	file, err := openLogto(ctx, r)
	if err != nil {
		at := r.Config.Logs.ToAt
		fmt.Fprintf(s.err, "liege: warning: %s:%d: logto: %v; the lines go here\n", at.File, at.Line, err)
	}
	if file == nil {
		return s.raw.out, s.raw.err, func() {}
	}
	done = func() { file.Close() }
	if term, ok := s.raw.err.(*os.File); ok && tty(term) {
		both := io.MultiWriter(file, term)
		return both, both, done
	}
	return file, file, done
}

// openLogto opens the file of logto, with the rights of the app's user, or as
// root where every directory on the way is root's alone. Nil: there is none.
func openLogto(ctx context.Context, r *resolve.Result) (*os.File, error) {
	const mode = 0o640
	to := r.Config.Logs.To
	switch to {
	case "", "/dev/stdout", "/dev/stderr":
		return nil, nil
	}
	if !filepath.IsAbs(to) {
		to = filepath.Join(r.Dir, to)
	}
	if os.Geteuid() == 0 {
		f, err := listen.OpenRootOnly(to, mode, r.GID)
		if !errors.Is(err, listen.ErrShared) {
			return f, err
		}
	}
	user, err := asuser.Start(ctx, asuser.Who{UID: r.UID, GID: r.GID, Groups: r.Plan.Groups})
	if err != nil {
		return nil, err
	}
	defer user.Close()
	return user.OpenLog(to, mode)
}
