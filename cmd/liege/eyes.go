package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"liege/emperor/asuser"
	"liege/emperor/control"
	"liege/emperor/listen"
	"liege/emperor/resolve"
	"liege/vassal"
	"liege/vassal/regular"
)

// eyes look at the paths of one vassal for whoever asks about it. The vassal's
// user may have chosen them (logto), may have printed them, and may change where
// they lead at any time. So root looks itself only at files of root's that nobody
// else can replace, and has a child with that user's ids look at the rest: what
// it says, the user could have read as well. Any other caller has only the own
// rights to lose.
//
// The zero value of v is of a vassal of which nothing is known: then root does
// not look at what is not root's.
type eyes struct {
	ctx  context.Context
	v    control.Vassal
	user *asuser.Session // nil: not yet needed, or gone
}

func (e *eyes) close() {
	if e.user != nil {
		_ = e.user.Close() // it hangs in a dead file system, and is of no more use
		e.user = nil
	}
}

// open opens a regular file to read. Its last component may not be a symbolic
// link.
func (e *eyes) open(path string) (*os.File, error) {
	if os.Geteuid() != 0 {
		return regular.OpenNoLink(path)
	}
	f, err := listen.ReadRootOnly(path)
	if !errors.Is(err, listen.ErrShared) {
		return f, err
	}
	err = e.asUser(func(u *asuser.Session) (err error) {
		f, err = u.OpenRead(path)
		return err
	})
	return f, err
}

// public reports whether there is something at path that everybody may read, or
// whoever the vassal runs as because it is his. What is root's is not its user's
// where that is root.
func (e *eyes) public(path string) bool {
	for at, may := filepath.Clean(path), fs.FileMode(0o004); ; at, may = filepath.Dir(at), 0o001 {
		fi, err := e.stat(at)
		if err != nil {
			return false
		}
		st, ok := fi.Sys().(*syscall.Stat_t)
		own := ok && e.v.UID != nil && *e.v.UID != 0 && int(st.Uid) == *e.v.UID
		if !own && fi.Mode()&may == 0 {
			return false
		}
		if at == filepath.Dir(at) {
			return true
		}
	}
}

func (e *eyes) stat(path string) (fi fs.FileInfo, err error) {
	if os.Geteuid() != 0 {
		return os.Stat(path)
	}
	err = e.asUser(func(u *asuser.Session) error {
		fi, err = u.Stat(path)
		return err
	})
	return fi, err
}

// glob returns what fits the pattern, as filepath.Glob.
func (e *eyes) glob(pattern string) (found []string) {
	if os.Geteuid() != 0 {
		found, _ = filepath.Glob(pattern)
		return found
	}
	_ = e.asUser(func(u *asuser.Session) (err error) { // what cannot be looked at is not there
		found, err = u.Glob(pattern)
		return err
	})
	return found
}

// asUser has do look with the ids of the vassal's user. A child that is gone,
// as each one is after a while, is replaced by the next call.
func (e *eyes) asUser(do func(u *asuser.Session) error) error {
	if e.user == nil {
		if e.v.UID == nil || e.v.GID == nil {
			return errors.New("is not root's alone, and it is not known as whom to read it")
		}
		who := asuser.Who{UID: *e.v.UID, GID: *e.v.GID, Groups: []int{*e.v.GID}}
		if name := deref(e.v.User); name != "" {
			groups, err := resolve.Files{}.Groups(name)
			if err != nil {
				return err
			}
			for _, g := range groups {
				who.Groups = append(who.Groups, g.GID)
			}
		}
		u, err := asuser.Start(e.ctx, who)
		if err != nil {
			return err
		}
		e.user = u
	}
	err := do(e.user)
	if errors.Is(err, asuser.ErrGone) {
		e.close()
	}
	return err
}

// errNoAnswer is of a file system that does not answer.
var errNoAnswer = errors.New("no answer")

// patiently does what a tenant's file system (FUSE), or a dead server, can
// hold up for good: then it goes on without. A read that hangs cannot be called
// off, so its goroutine may outlast it; the command ends, and it with it.
func patiently(ctx context.Context, longest time.Duration, do func() error) error {
	if longest > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, longest)
		defer cancel()
	}
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-done: // it heard of it
		return err
	case <-time.After(time.Second):
		return errNoAnswer
	}
}

// whyNot is why a log cannot be read, for people.
func whyNot(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission) && os.Geteuid() == 0:
		return exitWith(exitDenied, vassal.CodeNotPermitted, path+" is not root's alone, and the vassal's user may not read it", "read it as somebody who may: runuser -u USER -- cat "+path)
	case errors.Is(err, fs.ErrPermission):
		return exitWith(exitDenied, vassal.CodeNotPermitted, "not permitted to read "+path, "sudo")
	case errors.Is(err, fs.ErrNotExist):
		return exitWith(exitNone, vassal.CodeNotFound, path+" does not exist", "")
	}
	return exitWith(exitNone, vassal.CodeNotFound, fmt.Sprintf("%s: %s", path, plain(err)), "")
}
