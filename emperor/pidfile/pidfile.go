// Package pidfile writes the file that a vassal names for its process id, and
// removes it again.
//
// A tenant may have made the directory, and links in it: root writes by itself
// only what is the operator's word, and only where every directory on the way is
// root's alone. Anything else is done by a child with the ids of the vassal's user.
package pidfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"liege/emperor/asuser"
	"liege/emperor/listen"
)

// File is one pid file.
type File struct {
	Path      string // absolute
	Operators bool   // the whole path is the operator's word
	User      asuser.Who
}

// Write puts pid into the file, in place of what is there.
func (f File) Write(ctx context.Context, pid int) error {
	return f.do(ctx, func(dir dir) error { return dir.write(text(pid)) })
}

// Remove removes the file if it still holds pid. That it is gone is no error.
func (f File) Remove(ctx context.Context, pid int) error {
	err := f.do(ctx, func(dir dir) error { return dir.remove(text(pid)) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func text(pid int) string { return fmt.Sprintf("%d\n", pid) }

// dir is where the file is, in the hands of who may write there.
type dir struct {
	write, remove func(text string) error
}

// do opens the file's directory for what is done there.
func (f File) do(ctx context.Context, what func(dir) error) error {
	base := filepath.Base(f.Path)
	at, err := listen.RootOnly(filepath.Dir(f.Path))
	if at != nil {
		defer at.Close()
	}
	switch {
	case err == nil && f.Operators:
		return what(dir{
			write:  func(text string) error { return asuser.WriteIn(at, base, text, 0o644) },
			remove: func(text string) error { return asuser.RemoveTextIn(at, base, text) },
		})
	case err != nil && !errors.Is(err, listen.ErrShared):
		return err
	}
	s, err := asuser.Start(ctx, f.User)
	if err != nil {
		return err
	}
	defer s.Close()
	return what(dir{
		write:  func(text string) error { return s.WriteFile(f.Path, text, 0o644) },
		remove: func(text string) error { return s.RemoveFile(f.Path, text) },
	})
}
