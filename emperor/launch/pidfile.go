package launch

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"liege/emperor/asuser"
	"liege/emperor/listen"
)

// pidFile writes the host's pid of the generation to the file that the vassal
// names, or removes it again if the pid there still is this one (CONTRACT 11):
// as the vassal's user, or as root where every directory on the way is root's
// alone and the file is the operator's. What cannot be done is one line in the
// vassal's log.
func (in *instance) pidFile(write bool) {
	path := in.p.Config.Logs.PidFile
	if path == "" || in.p.Result == nil {
		return
	}
	path, mine := in.p.operators(path)
	text := fmt.Sprintf("%d\n", in.PID())
	dir, err := listen.RootOnly(filepath.Dir(path))
	switch {
	case err == nil && mine:
		if write {
			err = asuser.WriteIn(dir, filepath.Base(path), text, 0o644)
		} else {
			err = asuser.RemoveTextIn(dir, filepath.Base(path), text)
		}
	case err == nil || errors.Is(err, listen.ErrShared):
		err = in.pidFileAsUser(path, text, write)
	}
	if dir != nil {
		dir.Close()
	}
	if !write && errors.Is(err, os.ErrNotExist) {
		return
	}
	if err != nil && in.log != nil {
		at := in.p.Config.Logs.PidFileAt
		in.log.Note("%s:%d: pidfile: %v", at.File, at.Line, err)
	}
}

func (in *instance) pidFileAsUser(path, text string, write bool) error {
	s, err := asuser.Start(in.ctx, who(in.p.Result))
	if err != nil {
		return err
	}
	defer s.Close()
	if write {
		return s.WriteFile(path, text, 0o644)
	}
	return s.RemoveFile(path, text)
}
