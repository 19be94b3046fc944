package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"liege/emperor/asuser"
	"liege/emperor/pidfile"
	"liege/emperor/resolve"
)

// pidFile is the file in which r wants the process id of liege serve: what HUP
// reloads and TERM ends. No path: there is none.
func pidFile(r *resolve.Result) pidfile.File {
	path := r.Config.Logs.PidFile
	f := pidfile.File{Path: path, Operators: true, User: asuser.Who{UID: r.UID, GID: r.GID, Groups: r.Plan.Groups}}
	if path != "" && !filepath.IsAbs(path) {
		f.Path, f.Operators = filepath.Join(r.Base, path), !r.BaseByUser
	}
	return f
}

// writePid writes the file of r, and removes that of old if it is another.
func (s *server) writePid(ctx context.Context, old, r *resolve.Result) {
	f := pidFile(r)
	if f.Path != "" {
		if err := f.Write(ctx, os.Getpid()); err != nil {
			at := r.Config.Logs.PidFileAt
			fmt.Fprintf(s.err, "liege: warning: %s:%d: pidfile: %v\n", at.File, at.Line, err)
		}
	}
	if was := pidFile(old); was.Path != f.Path {
		removePid(ctx, old)
	}
}

// removePid removes the file of r. What is left of it names a process that is
// gone: that is no news to anybody.
func removePid(ctx context.Context, r *resolve.Result) {
	if f := pidFile(r); f.Path != "" {
		_ = f.Remove(ctx, os.Getpid())
	}
}
